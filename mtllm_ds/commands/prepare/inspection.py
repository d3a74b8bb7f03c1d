"""`mtllm-ds prepare verify`, `stats` and `show`: a look at a data set."""

from __future__ import annotations

import argparse
from pathlib import Path

from mtllm_ds.command_line import Subcommands, natural_int, positive_int


def add_inspections(commands: Subcommands) -> None:
    """`verify`, `stats` and `show` among the subcommands."""
    verify = commands.add_parser("verify", help="read every byte of a data set and check it against its hashes")
    verify.add_argument("folder", help="a finished data set, local or a URL")
    verify.set_defaults(run=run_verify)
    stats = commands.add_parser("stats", help="samples, tokens, bytes per token and truncated share by language")
    stats.add_argument("folder", help="a finished data set, local or a URL")
    stats.set_defaults(run=run_stats)
    show = commands.add_parser("show", help="print samples as ids and text")
    show.add_argument("folder", help="a finished data set, local or a URL")
    show.add_argument("--block", type=natural_int, default=0)
    show.add_argument("--samples", type=positive_int, default=3)
    show.set_defaults(run=run_show)


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
    from mtllm_ds.transfer_sets.sdrrl.display import is_folder_of_dialogues, print_dialogues

    if is_folder_of_dialogues(options.folder):
        print_dialogues(Path(options.folder), options.block, options.samples)
        return
    print_samples(Manifest.load(options.folder), options.block, options.samples)
