"""`mtllm-ds prepare shards`: raw text into a data set for training."""

from __future__ import annotations

import argparse
from pathlib import Path

from mtllm_ds.command_line import Subcommands, natural_int, positive_int
from mtllm_ds.commands.prepare.sides import add_sides, sides_of
from mtllm_ds.commands.text_inputs import add_text_inputs, text_inputs


def add_shards(commands: Subcommands) -> None:
    """`shards` among the subcommands."""
    shards = commands.add_parser("shards", help="tokenize raw text into shards; run again, a killed one resumes")
    shards.set_defaults(run=run)
    add_text_inputs(shards)
    add = shards.add_argument
    add("--second-text-field", help="second segment of pairs")
    add(
        "--llm-text-field",
        help="field of every input that the LLM reads in place of the text: a translation's original",
    )
    add("--label-field", help="field that holds each document's label, for a classification of texts or pairs")
    add("--labels", nargs="+", default=(), metavar="LABEL", help="all labels that it may hold, in order")
    add_sides(shards)
    add("--long-documents", choices=("truncate", "split"), default="truncate", help="what becomes of longer texts")
    add("--block-samples", type=positive_int, default=256, help="samples per block (default %(default)s)")
    add(
        "--shard-megabytes", type=positive_int, default=64, help="size at which a shard is closed (default %(default)s)"
    )
    add("--deduplicate", action="store_true", help="leave out documents that repeat an earlier one exactly")
    add(
        "--exclude", metavar="FILE", help="list of hashes of texts that must not enter (test sets), plain or compressed"
    )
    add("--exclude-field", help="field that is compared with the list, if not the text itself")
    add("--num-workers", type=natural_int, default=0, help="processes (default: one per core that may be used)")
    add("--on-error", choices=("fail", "skip"), default="fail", help="what to do with a row that cannot be used")
    add("--output", type=Path, required=True, metavar="DIR")


def run(options: argparse.Namespace) -> None:
    from mtllm_ds.data.writing.builder import build_shards
    from mtllm_ds.data.writing.display import BuildDisplay, print_summary
    from mtllm_ds.data.writing.settings import ShardSettings

    settings = ShardSettings(
        inputs=text_inputs(
            options,
            second_text_field=options.second_text_field,
            llm_text_field=options.llm_text_field,
            label_field=options.label_field,
            labels=tuple(options.labels),
            compared_field=options.exclude_field,
        ),
        **sides_of(options),
        long_documents=options.long_documents,
        block_samples=options.block_samples,
        shard_bytes=options.shard_megabytes << 20,
        deduplicate=options.deduplicate,
        exclusion_list=options.exclude,
        token_pairs=options.token_pairs,
        on_error=options.on_error,
    )
    with BuildDisplay() as display:
        manifest = build_shards(settings, options.output.expanduser(), options.num_workers, display.report)
    print_summary(manifest)
