"""`mtllm-ds evaluate model`: an exported model answers a task, on any number of ranks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mtllm_ds.command_line import Subcommands, add_precision, positive_int

if TYPE_CHECKING:
    import torch

    from mtllm_ds.checkpoint.export import Export
    from mtllm_ds.cluster.launch import Cluster
    from mtllm_ds.evaluation.answers.model_evaluation import ModelEvaluation


def add_model(commands: Subcommands) -> None:
    """`model` among the subcommands."""
    model = commands.add_parser("model", help="answers of an exported model: predictions, tables, report")
    model.set_defaults(run=run)
    add = model.add_argument
    add("--model", type=Path, required=True, help="folder written by `mtllm-ds export`")
    add("--task", required=True, help="name of a task that ships, or a YAML file")
    add("--languages", nargs="+", default=["all"], metavar="CODE", help="FLORES-200 codes (default: all)")
    add("--output", type=Path, required=True, metavar="DIR", help="all ranks must see it; one that is there goes on")
    add("--setting", choices=("plain", "masked", "both"), default="both", help="masked: without what translations copy")
    add("--control", choices=("none", "wrong_tag", "shuffled_connector"), default="none")
    add("--read", choices=("text", "originals"), default="text", help="originals: their English originals (a ceiling)")
    add("--system", help="its name in tables (default: by how it was trained)")
    add("--seed", type=int, default=0, help="the seed it was trained with, for tables over seeds")
    add("--limit", type=positive_int, help="draw so many items per language")
    add("--batch-size", type=positive_int, default=32, help="items at once a rank; halved where memory runs out")
    add_precision(model)
    add("--data", help="folder or hub name, if not where the task says")
    add("--encoder", help="where the MT encoder is, if it moved")
    add("--llm", help="where the LLM is, if it moved")


def run(options: argparse.Namespace) -> None:
    from mtllm_ds.evaluation.items.tasks import load_task

    task = load_task(options.task).located(options.data)
    languages = task.select(options.languages)
    from mtllm_ds.checkpoint.export import read_export
    from mtllm_ds.evaluation.answers.model_and_task import check_model_answers, system_of, tags_of, wrong_tags

    export = read_export(options.model)
    labels = check_model_answers(export, task)
    system = options.system or system_of(export, options.control, options.read)
    tags = tags_of(export, task, languages, options.read)
    if options.control == "wrong_tag":
        tags = wrong_tags(export, task, tags)
    from rich.console import Console

    from mtllm_ds.cluster.agree import from_main
    from mtllm_ds.cluster.launch import join_cluster_if_launched, leave_cluster
    from mtllm_ds.cluster.precision import reading_dtype
    from mtllm_ds.evaluation.answers.model_evaluation import ModelEvaluation, Question, look_at_items
    from mtllm_ds.evaluation.report.of_model import report_model

    cluster = join_cluster_if_launched()
    dtype = from_main(lambda: reading_dtype(options.precision, cluster.device), cluster.device)
    dtype_name = str(dtype).removeprefix("torch.")
    described = {"model": export.trained().fingerprint, "control": options.control, "dtype": dtype_name}
    question = Question(
        task=task, languages=languages, labels=labels, tags=tags, system=system, seed=options.seed,
        setting=options.setting, read=options.read, limit=options.limit, described=described,
    )  # fmt: skip
    surveys, units = look_at_items(question, cluster)
    evaluation = ModelEvaluation(question, surveys, units, options.output, cluster)
    if evaluation.units_to_do:
        _answer(evaluation, options, dtype)
    report_model(evaluation, _facts(options, export, cluster, dtype_name), Console(quiet=not cluster.is_main))
    if cluster.is_main:
        print(f"report: {options.output / 'report.html'}")
    leave_cluster()


def _answer(evaluation: ModelEvaluation, options: argparse.Namespace, dtype: torch.dtype) -> None:
    from mtllm_ds.cluster.agree import together
    from mtllm_ds.evaluation.answers.answerer import TOLERANCE, Answerer
    from mtllm_ds.evaluation.answers.shuffled_connector import shuffle_connector
    from mtllm_ds.inference import MTLLM

    cluster = evaluation.cluster
    places = {"encoder": options.encoder, "llm": options.llm}

    def load() -> Answerer:
        model = MTLLM.from_pretrained(options.model, device=cluster.device, dtype=dtype, **places)
        if options.control == "shuffled_connector":
            shuffle_connector(model.reader)
        name = f" on rank {cluster.rank}" if cluster.world_size > 1 else ""
        return Answerer(model, options.batch_size, TOLERANCE[dtype], name)

    evaluation.answer(together(load, cluster.device))


def _facts(options: argparse.Namespace, export: Export, cluster: Cluster, dtype: str) -> dict[str, str]:
    """What the report says about how it was made."""
    import torch
    import transformers

    import mtllm_ds

    return {
        "model": str(options.model),
        "reader, objective": f"{export.reader}, {export.objective}",
        "control": options.control,
        "reads": options.read,
        "seed": str(options.seed),
        "dtype": dtype,
        "ranks": f"{cluster.world_size} on {cluster.device.type}, {options.batch_size} items at once",
        "versions": f"mtllm-ds {mtllm_ds.__version__}, torch {torch.__version__}, transformers {transformers.__version__}",
    }
