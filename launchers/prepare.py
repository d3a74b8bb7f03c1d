"""Prepare data: `shards` turns raw text into a data set for training, `task` the labelled items of a task; `teacher-targets` adds
what a teacher makes of each sample; `verify`, `stats` and `show` look at one.

python launchers/prepare.py shards --input FILE --language eng_Latn --encoder PATH --llm PATH --output DIR
python launchers/prepare.py task --task ddtp_topics --split train --encoder PATH --llm PATH --output DIR
deepspeed launchers/prepare.py teacher-targets --teacher RUN --data DIR --name teacher
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

from mtllm_ds.command_line import Parser, natural_int, positive_int, quiet_libraries, run_and_exit
from mtllm_ds.errors import UserError

TASKS = Path(__file__).parent / "tasks"


def parse() -> argparse.Namespace:
    parser = Parser(description="Prepare data for training.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_shards(commands)
    _add_task(commands)
    _add_teacher_targets(commands)
    verify = commands.add_parser("verify", help="read every byte of a data set and check it against its hashes")
    verify.add_argument("folder", help="a finished data set, local or a URL")
    verify.set_defaults(run=run_verify)
    stats = commands.add_parser("stats", help="samples, tokens, bytes a token and truncated share by language")
    stats.add_argument("folder", help="a finished data set, local or a URL")
    stats.set_defaults(run=run_stats)
    show = commands.add_parser("show", help="print samples as ids and text")
    show.add_argument("folder", help="a finished data set, local or a URL")
    show.add_argument("--block", type=natural_int, default=0)
    show.add_argument("--samples", type=positive_int, default=3)
    show.set_defaults(run=run_show)
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # appended by the deepspeed launcher
    return parser.parse_args()


def _add_shards(commands: argparse._SubParsersAction) -> None:
    shards = commands.add_parser("shards", help="tokenize raw text into shards; a killed run is gone on with")
    shards.set_defaults(run=run_shards)
    add = shards.add_argument
    add("--input", nargs="+", required=True, metavar="FILE", help="JSONL, TSV (.gz .xz .zst), Parquet; or CODE=FILE")
    add("--language", help="FLORES-200 code of the inputs, such as eng_Latn")
    add("--language-field", help="field that holds each document's code")
    add("--text-field", default="text", help="JSON key, column name, or column number from 1 of a TSV without header")
    add("--second-text-field", help="second segment of pairs")
    add(
        "--llm-text-field",
        help="field of every input that the LLM reads in place of the text: a translation's original",
    )
    add("--label-field", help="integer label, stored beside the ids")
    _add_sides(shards)
    add("--long-documents", choices=("truncate", "split"), default="truncate", help="what becomes of longer texts")
    add("--block-samples", type=positive_int, default=256, help="samples a block (default %(default)s)")
    add(
        "--shard-megabytes", type=positive_int, default=64, help="size at which a shard is closed (default %(default)s)"
    )
    add("--deduplicate", action="store_true", help="leave out documents that repeat an earlier one exactly")
    add("--exclude", metavar="FILE", help="list of hashes of texts that must not enter (test sets), plain or .xz")
    add("--exclude-field", help="field that is compared with the list, if not the text itself")
    add("--num-workers", type=natural_int, default=0, help="processes (default: one a core)")
    add("--output", type=Path, required=True, metavar="DIR")


def _add_task(commands: argparse._SubParsersAction) -> None:
    task = commands.add_parser("task", help="tokenize the labelled items of a task into shards")
    task.set_defaults(run=run_task)
    add = task.add_argument
    add("--task", required=True, metavar="NAME|FILE.yaml", help="a task of launchers/tasks, or a file of that form")
    add("--split", choices=("train", "valid"), required=True)
    add("--data", metavar="PLACE", help="folder or hub name of the items, in place of the task file's")
    add("--languages", nargs="+", default=["eng_Latn"], metavar="CODE", help="default: English")
    add(
        "--train-items", type=positive_int, metavar="N", help="that many items a language at most, drawn at random once"
    )
    _add_sides(task)
    add("--block-samples", type=positive_int, default=32, help="samples a block (default %(default)s)")
    add("--output", type=Path, required=True, metavar="DIR")


def _add_teacher_targets(commands: argparse._SubParsersAction) -> None:
    targets = commands.add_parser(
        "teacher-targets", help="cache a teacher's vectors beside the shards, on any number of ranks"
    )
    targets.set_defaults(run=run_teacher_targets)
    add = targets.add_argument
    add(
        "--teacher",
        required=True,
        metavar="RUN|EXPORT|LLM",
        help="a trained model, or a plain LLM's folder or hub name",
    )
    add("--data", required=True, nargs="+", metavar="DIR", help="prepared shards, local")
    add("--name", required=True, help="name of the target set, for data.targets")
    add("--batch-size", type=positive_int, default=32, help="samples a forward (default %(default)s)")
    add("--precision", choices=("fp32", "bf16"), help="of the forward (default: bf16 on a GPU, else fp32)")
    add("--store", choices=("float32", "float16"), default="float32", help="of the vectors (default %(default)s)")
    plain = targets.add_argument_group("of a plain LLM (a trained model remembers)")
    plain.add_argument("--causal", action="store_true", help="it attends as it was trained, and not in both directions")
    plain.add_argument("--revision", help="commit or tag on the hub (default: that of the shards' tokenizer)")
    plain.add_argument("--trust-remote-code", action="store_true", help="run the code that it may bring")


def _add_sides(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--encoder", required=True, help="tokenizer of the MT encoder: folder or hub name")
    add("--encoder-revision")
    add("--encoder-family", default="auto", help="template of the encoder's ids: nllb, m2m100, t5, madlad, xlm-r, bert")
    add("--llm", required=True, help="tokenizer of the LLM: folder or hub name")
    add("--llm-revision")
    add("--llm-family", default="auto", help="template of the LLM's ids: decoder, bert, xlm-r")
    add("--trust-remote-code", action="store_true", help="run the code that a tokenizer may bring")
    add(
        "--max-length",
        type=positive_int,
        default=512,
        help="most tokens of a sample on either side (default %(default)s)",
    )
    add(
        "--token-pairs",
        action="store_true",
        help="store which words are one token on both sides (objective.token_weight)",
    )


def main() -> int:
    options = parse()
    options.run(options)
    return 0


def run_shards(options: argparse.Namespace) -> None:
    from mtllm_ds.data.writing.builder import ShardSettings, build_shards
    from mtllm_ds.data.writing.display import BuildDisplay, print_summary

    sides = _sides(options)
    settings = ShardSettings(
        inputs=tuple(_input_file(options, given) for given in options.input),
        encoder=sides["encoder"],
        llm=sides["llm"],
        long_documents=options.long_documents,
        block_samples=options.block_samples,
        shard_bytes=options.shard_megabytes << 20,
        deduplicate=options.deduplicate,
        exclusion_list=options.exclude,
        token_pairs=options.token_pairs,
    )
    with BuildDisplay() as display:
        manifest = build_shards(settings, options.output, options.num_workers, display.report)
    print_summary(manifest)


def run_task(options: argparse.Namespace) -> None:
    from mtllm_ds.data.shards.manifest import TaskEntry
    from mtllm_ds.data.writing.display import BuildDisplay, print_summary
    from mtllm_ds.data.writing.tasks import TaskRow, TaskShardSettings, build_task_shards
    from mtllm_ds.evaluation.items.items import load_items
    from mtllm_ds.evaluation.items.tasks import load_task

    task = load_task(options.task, TASKS)
    place = {"training_data" if task.training_source else "data": options.data}
    task = task.located(**place) if options.data else task
    rows = [
        TaskRow(item.segments, item.options, task.labels.index(item.label), task.tag_of(language))
        for language in task.select(options.languages, options.split)
        for item in load_items(task, options.split, language, limit=options.train_items)
    ]
    entry = TaskEntry(task.name, task.type, task.labels)
    settings = TaskShardSettings(
        task=entry, **_sides(options), block_samples=options.block_samples, token_pairs=options.token_pairs
    )
    with BuildDisplay() as display:
        manifest = build_task_shards(rows, settings, options.output, display.report)
    print_summary(manifest)


def run_teacher_targets(options: argparse.Namespace) -> None:
    import torch

    from mtllm_ds.cluster.agree import together
    from mtllm_ds.cluster.launch import join_cluster_if_launched, leave_cluster
    from mtllm_ds.data.shards.manifest import Manifest
    from mtllm_ds.data.writing.display import TargetDisplay
    from mtllm_ds.transfer_sets.teacher_targets import TeacherModel, load_teacher, write_targets

    cluster = join_cluster_if_launched()
    precision = options.precision or ("bf16" if cluster.device.type == "cuda" else "fp32")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    for folder in options.data:

        def load(folder: str = folder) -> tuple[Manifest, TeacherModel]:
            manifest = Manifest.load(folder)
            return manifest, load_teacher(
                options.teacher, manifest, cluster.device, dtype, bidirectional=not options.causal,
                revision=options.revision, trust_remote_code=options.trust_remote_code,
            )  # fmt: skip

        manifest, teacher = together(load, cluster.device)
        with TargetDisplay(folder, quiet=not cluster.is_main) as display:
            write_targets(
                manifest, options.name, teacher, cluster,
                batch_size=options.batch_size, stored_dtype=options.store, advance=display.advance,
            )  # fmt: skip
        if cluster.is_main:
            print(f"{folder}: targets '{options.name}' of {manifest.num_samples} samples by {teacher.identity.name}")
    leave_cluster()


def _sides(options: argparse.Namespace) -> dict[str, Any]:
    """What both sides' tokenizers are, by side."""
    from mtllm_ds.config.names import resolve_model_name
    from mtllm_ds.data.text.tokenization import TokenizerSpec

    return {
        side: TokenizerSpec(
            name=resolve_model_name(getattr(options, side)),
            revision=getattr(options, f"{side}_revision"),
            family=getattr(options, f"{side}_family"),
            trust_remote_code=options.trust_remote_code,
            side=side,
            max_length=options.max_length,
        )
        for side in ("encoder", "llm")
    }


def _input_file(options: argparse.Namespace, given: str):
    from mtllm_ds.data.writing.sources import InputFile

    named = re.fullmatch(r"([a-z]{3}_[A-Z][a-z]{3})=(.+)", given)
    if named and (options.language or options.language_field):
        raise UserError(f"the input '{given}' names its language, leave out --language and --language-field")
    return InputFile(
        path=os.path.expanduser(named[2] if named else given),
        language=named[1] if named else options.language,
        language_field=options.language_field,
        text_field=options.text_field,
        second_text_field=options.second_text_field,
        llm_text_field=options.llm_text_field,
        label_field=options.label_field,
        compared_field=options.exclude_field,
    )


def run_verify(options: argparse.Namespace) -> None:
    from mtllm_ds.data.shards.manifest import Manifest
    from mtllm_ds.data.writing.display import verify_with_progress

    manifest = Manifest.load(options.folder)
    verify_with_progress(manifest)
    counts = f"{len(manifest.shards)} shards, {manifest.num_blocks} blocks, {manifest.num_samples} samples"
    print(f"{options.folder}: {counts}, all whole")


def run_stats(options: argparse.Namespace) -> None:
    from mtllm_ds.data.shards.manifest import Manifest
    from mtllm_ds.data.writing.display import print_summary

    print_summary(Manifest.load(options.folder))


def run_show(options: argparse.Namespace) -> None:
    from mtllm_ds.data.shards.manifest import Manifest
    from mtllm_ds.data.writing.display import print_samples

    print_samples(Manifest.load(options.folder), options.block, options.samples)


if __name__ == "__main__":
    quiet_libraries()
    run_and_exit(main)
