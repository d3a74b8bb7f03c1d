"""`mtllm-ds prepare merge`: what several machines have prepared, as one data set."""

from __future__ import annotations

import argparse
from pathlib import Path

from mtllm_ds.command_line import Subcommands


def add_merge(commands: Subcommands) -> None:
    """`merge` among the subcommands."""
    merge = commands.add_parser(
        "merge",
        help="one manifest over the data sets in the folders below DIR, prepared apart with the same tokenizers",
    )
    merge.add_argument(
        "output", type=Path, metavar="DIR", help="such as DIR of shards --output DIR/node-0, DIR/node-1, ..."
    )
    merge.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    from mtllm_ds.data.writing.display import print_summary
    from mtllm_ds.data.writing.merge import merge_data_sets

    print_summary(merge_data_sets(options.output.expanduser()))
