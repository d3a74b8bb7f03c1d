"""`mtllm-ds prepare task`: the labelled items of a task into shards."""

from __future__ import annotations

import argparse
from pathlib import Path

from mtllm_ds.command_line import Subcommands, positive_int
from mtllm_ds.commands.prepare.sides import add_sides, sides_of


def add_task(commands: Subcommands) -> None:
    """`task` among the subcommands."""
    task = commands.add_parser("task", help="tokenize the labelled items of a task into shards")
    task.set_defaults(run=run)
    add = task.add_argument
    add("--task", required=True, help="name of a task that ships, or a YAML file")
    add("--split", choices=("train", "valid"), required=True)
    add("--data", metavar="PLACE", help="folder or hub name of the items, in place of the task file's")
    add("--languages", nargs="+", default=["eng_Latn"], metavar="CODE", help="default: English")
    add(
        "--train-items",
        type=positive_int,
        metavar="N",
        help="that many items per language at most, drawn at random once",
    )
    add_sides(task)
    add("--block-samples", type=positive_int, default=32, help="samples per block (default %(default)s)")
    add("--output", type=Path, required=True, metavar="DIR")


def run(options: argparse.Namespace) -> None:
    from mtllm_ds.data.shards.manifest import TaskEntry
    from mtllm_ds.data.writing.display import BuildDisplay, print_summary
    from mtllm_ds.data.writing.tasks import TaskRow, TaskShardSettings, build_task_shards
    from mtllm_ds.evaluation.items.items import load_items
    from mtllm_ds.evaluation.items.tasks import load_task

    task = load_task(options.task)
    place = {"training_data" if task.training_source else "data": options.data}
    task = task.located(**place) if options.data else task
    rows = [
        TaskRow(item.segments, item.options, task.labels.index(item.label), task.tag_of(language))
        for language in task.select(options.languages, options.split)
        for item in load_items(task, options.split, language, limit=options.train_items)
    ]
    entry = TaskEntry(task.name, task.type, task.labels)
    settings = TaskShardSettings(
        task=entry, **sides_of(options), block_samples=options.block_samples, token_pairs=options.token_pairs
    )
    with BuildDisplay() as display:
        manifest = build_task_shards(rows, settings, options.output.expanduser(), display.report)
    print_summary(manifest)
