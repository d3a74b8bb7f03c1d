"""`mtllm-ds evaluate baseline`: predictions of a baseline that needs no model."""

from __future__ import annotations

import argparse
from pathlib import Path

from mtllm_ds.command_line import Subcommands, positive_int


def add_baseline(commands: Subcommands) -> None:
    """`baseline` among the subcommands."""
    baseline = commands.add_parser("baseline", help="predictions of a baseline that needs no model")
    baseline.set_defaults(run=run)
    add = baseline.add_argument
    add("--task", required=True, help="name of a task that ships, or a YAML file")
    add("--system", required=True, choices=("majority", "tfidf"))
    add("--languages", nargs="+", default=["all"], metavar="CODE")
    add("--data", help="folder or hub name, if not where the task says")
    add("--training-data", help="the same of a task whose training items are elsewhere")
    add("--train-items", type=positive_int, help="draw that many training items")
    add("--output", type=Path, required=True, help="file of predictions to write, .parquet")


def run(options: argparse.Namespace) -> None:
    from mtllm_ds.evaluation.answers.predictions import write_predictions
    from mtllm_ds.evaluation.items.tasks import load_task

    task = load_task(options.task).located(options.data, options.training_data)
    languages = task.select(options.languages)
    from mtllm_ds.evaluation.answers.baselines import (
        predict_baseline,  # slow to import: mistakes in the task are told before
    )

    predictions = predict_baseline(options.system, task, languages, options.train_items)
    write_predictions(options.output, predictions)
    print(f"{len(predictions)} predictions of {options.system} on {task.name} in {options.output}")
