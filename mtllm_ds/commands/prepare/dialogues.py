"""`mtllm-ds prepare dialogues`: prompts and responses into shards."""

from __future__ import annotations

import argparse
from pathlib import Path

from mtllm_ds.command_line import Subcommands, natural_int, positive_int
from mtllm_ds.commands.prepare.sides import add_sides, chat_template_of, sides_of
from mtllm_ds.commands.text_inputs import named_input
from mtllm_ds.errors import UserError


def add_dialogues(commands: Subcommands) -> None:
    """`dialogues` among the subcommands."""
    dialogues = commands.add_parser(
        "dialogues", help="tokenize prompts and responses into shards; run again, a killed one resumes"
    )
    dialogues.set_defaults(run=run)
    add = dialogues.add_argument
    add(
        "--input", nargs="+", required=True, metavar="FILE",
        help="JSONL (.gz .xz .bz2 .zst) or Parquet of records {language, prompt or messages, response}, and, where the teacher "
        "reads something else, teacher_prompt or teacher_messages; further fields: weight, pair_type, id, history. Or CODE=FILE, "
        "where records name no language",
    )  # fmt: skip
    add_sides(dialogues, token_pairs=False)
    add("--chat-template", type=Path, metavar="FILE", help="Jinja template (default: the LLM tokenizer's own)")
    add("--system-prompt", metavar="TEXT", help="system message of dialogues that have none")
    add("--plain", action="store_true", help="no template: prompts are text, which the response continues")
    add(
        "--split-share", type=float, default=0.5,
        help="with --plain, of records {language, text}: the share of a text that is its prompt (default %(default)s)",
    )  # fmt: skip
    add(
        "--student-prompt",
        action="store_true",
        help="with --encoder: also store the student's prompt as the LLM reads it",
    )
    add("--weights", action="store_true", help="store the records' weights")
    add(
        "--keep-records",
        action="store_true",
        help="store where each sample comes from (file and line, id, history) for prepare show; training reads past it",
    )
    add("--block-samples", type=positive_int, default=256, help="samples per block (default %(default)s)")
    add(
        "--shard-megabytes", type=positive_int, default=64, help="size at which a shard is closed (default %(default)s)"
    )
    add("--deduplicate", action="store_true", help="leave out dialogues that repeat an earlier one exactly")
    add(
        "--exclude", metavar="FILE", help="list of hashes of texts that must not enter (test sets), plain or compressed"
    )
    add("--num-workers", type=natural_int, default=0, help="processes (default: one per core that may be used)")
    add("--on-error", choices=("fail", "skip"), default="fail", help="what to do with a record that cannot be used")
    add("--output", type=Path, required=True, metavar="DIR")


def run(options: argparse.Namespace) -> None:
    from mtllm_ds.data.text.chat import ChatSettings
    from mtllm_ds.data.writing.dialogue_records import dialogue_input
    from mtllm_ds.data.writing.dialogues import DialogueSettings, build_dialogue_shards
    from mtllm_ds.data.writing.display import BuildDisplay, print_summary

    sides = sides_of(options)
    if "llm" not in sides:
        raise UserError("--llm is missing: an LLM answers; name its tokenizer")
    if "encoder" not in sides and options.student_prompt:
        raise UserError("--student-prompt: has no effect without --encoder, where it is stored anyway; leave it out")
    if options.split_share != 0.5 and not options.plain:
        raise UserError(f"--split-share={options.split_share}: has no effect without --plain; remove it")
    chat = ChatSettings(
        plain=options.plain, template=chat_template_of(options.chat_template), system_prompt=options.system_prompt
    )
    settings = DialogueSettings(
        inputs=tuple(dialogue_input(place, language) for language, place in map(named_input, options.input)),
        **sides,
        chat=chat,
        student_prompt=options.student_prompt,
        split_share=options.split_share,
        weights=options.weights,
        keep_records=options.keep_records,
        block_samples=options.block_samples,
        shard_bytes=options.shard_megabytes << 20,
        deduplicate=options.deduplicate,
        exclusion_list=options.exclude,
        on_error=options.on_error,
    )
    with BuildDisplay() as display:
        manifest = build_dialogue_shards(settings, options.output.expanduser(), options.num_workers, display.report)
    print_summary(manifest)
