"""Evaluate: `model` asks an exported model, on any number of ranks, and `retrieval` scores its vectors on a parallel file;
`baseline` and `tables` need no model.

deepspeed launchers/evaluate.py model --model EXPORT --task ddtp_topics --languages all --output DIR
python launchers/evaluate.py retrieval --model EXPORT --file parallel.jsonl --language deu_Latn
python launchers/evaluate.py baseline --task lohelp_sample --system tfidf --output FILE
python launchers/evaluate.py tables --predictions FILE ... --output DIR
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mtllm_ds.command_line import Parser, positive_int, quiet_libraries, run_and_exit

if TYPE_CHECKING:
    from mtllm_ds.checkpoint.export import Export
    from mtllm_ds.cluster.launch import Cluster
    from mtllm_ds.evaluation.answers.model_evaluation import ModelEvaluation

TASKS = Path(__file__).parent / "tasks"


def parse() -> argparse.Namespace:
    parser = Parser(description="Evaluate models and baselines, and make tables.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_model(commands.add_parser("model", help="answers of an exported model: predictions, tables, report"))
    retrieval = commands.add_parser("retrieval", help="find translations by the vectors of an exported model")
    retrieval.set_defaults(run=run_retrieval)
    add = retrieval.add_argument
    add("--model", type=Path, required=True, help="folder written by launchers/export.py")
    add("--file", type=Path, required=True, help="parallel text: JSONL or TSV, plain, .gz, .xz or .zst")
    add("--language", required=True, help="FLORES-200 code of the foreign side")
    add("--text-field", default="text", help="JSON key, column name, or column number from 1 (default %(default)s)")
    add("--english-field", default="text_en", help="the same of the English side (default %(default)s)")
    add("--vectors", choices=("mtllm", "encoder"), default="mtllm", help="of the stack, or of its MT encoder alone")
    add("--limit", type=positive_int, help="only the first so many pairs")
    add("--batch-size", type=positive_int, default=32)
    add("--device", help="such as cpu or cuda:1 (default: the GPU where there is one)")
    add("--output", type=Path, help="folder for summary.json")
    baseline = commands.add_parser("baseline", help="predictions of a baseline that needs no model")
    baseline.set_defaults(run=run_baseline)
    add = baseline.add_argument
    add("--task", required=True, help=f"a name in {TASKS.name}/ or a YAML file")
    add("--system", required=True, choices=("majority", "tfidf"))
    add("--languages", nargs="+", default=["all"], metavar="CODE")
    add("--data", help="folder or hub name, if not where the task says")
    add("--training-data", help="the same of a task whose training items are elsewhere")
    add("--train-items", type=positive_int, help="draw that many training items")
    add("--output", type=Path, required=True, help="file of predictions to write, .parquet")
    tables = commands.add_parser("tables", help="tables, pictures and report.html from files of predictions")
    tables.set_defaults(run=run_tables)
    add = tables.add_argument
    add("--predictions", type=Path, nargs="+", required=True, metavar="FILE", help="of one task")
    add("--output", type=Path, required=True, metavar="DIR")
    add("--title", help="heading of the report (default: the task)")
    add("--compare", nargs=2, metavar=("FIRST", "SECOND"), help="paired bootstrap of one system minus another")
    # DeepSpeed's launcher puts --local_rank=N first; the environment says the same. Without a command, `model` is meant.
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
    if arguments and arguments[0] == "--model":
        arguments.insert(0, "model")
    return parser.parse_args(arguments)


def _add_model(model: argparse.ArgumentParser) -> None:
    model.set_defaults(run=run_model)
    add = model.add_argument
    add("--model", type=Path, required=True, help="folder written by launchers/export.py")
    add("--task", required=True, help=f"a name in {TASKS.name}/ or a YAML file")
    add("--languages", nargs="+", default=["all"], metavar="CODE", help="FLORES-200 codes (default: all)")
    add("--output", type=Path, required=True, metavar="DIR", help="all ranks must see it; one that is there goes on")
    add("--setting", choices=("plain", "masked", "both"), default="both", help="masked: without what translations copy")
    add("--control", choices=("none", "wrong_tag", "shuffled_connector"), default="none")
    add("--read", choices=("text", "originals"), default="text", help="originals: their English originals (a ceiling)")
    add("--system", help="its name in tables (default: by how it was trained)")
    add("--seed", type=int, default=0, help="the seed it was trained with, for tables over seeds")
    add("--limit", type=positive_int, help="draw so many items a language")
    add("--batch-size", type=positive_int, default=32, help="items at once a rank; halved where memory runs out")
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--data", help="folder or hub name, if not where the task says")
    add("--encoder", help="where the MT encoder is, if it moved")
    add("--llm", help="where the LLM is, if it moved")


def main() -> int:
    options = parse()
    options.run(options)
    return 0


def run_model(options: argparse.Namespace) -> None:
    from mtllm_ds.evaluation.items.tasks import load_task

    task = load_task(options.task, TASKS).located(options.data)
    languages = task.select(options.languages)
    from mtllm_ds.checkpoint.export import read_export
    from mtllm_ds.evaluation.answers.model_and_task import check_model_answers, system_of, tags_of, wrong_tags

    export = read_export(options.model)
    labels = check_model_answers(export, task)
    system = options.system or system_of(export, options.control, options.read)
    tags = tags_of(export, task, languages, options.read)
    if options.control == "wrong_tag":
        tags = wrong_tags(export, task, tags)
    described = {"model": export.trained().fingerprint, "control": options.control, "dtype": options.dtype}
    from rich.console import Console

    from mtllm_ds.cluster.launch import join_cluster_if_launched, leave_cluster
    from mtllm_ds.evaluation.answers.model_evaluation import ModelEvaluation, Question, look_at_items
    from mtllm_ds.evaluation.report.of_model import report_model

    question = Question(
        task=task, languages=languages, labels=labels, tags=tags, system=system, seed=options.seed,
        setting=options.setting, read=options.read, limit=options.limit, described=described,
    )  # fmt: skip
    cluster = join_cluster_if_launched()
    surveys, units = look_at_items(question, cluster)
    evaluation = ModelEvaluation(question, surveys, units, options.output, cluster)
    if evaluation.units_to_do:
        _answer(evaluation, options, export, cluster)
    report_model(evaluation, _facts(options, export, cluster), Console(quiet=not cluster.is_main))
    if cluster.is_main:
        print(f"report: {options.output / 'report.html'}")
    leave_cluster()


def _answer(evaluation: ModelEvaluation, options: argparse.Namespace, export: Export, cluster: Cluster) -> None:
    import torch

    from mtllm_ds.cluster.agree import together
    from mtllm_ds.evaluation.answers.answerer import TOLERANCE, Answerer
    from mtllm_ds.evaluation.answers.shuffled_connector import shuffle_connector
    from mtllm_ds.inference import MTLLM

    dtype = getattr(torch, options.dtype)
    places = {"encoder": options.encoder, "llm": options.llm}

    def load() -> Answerer:
        model = MTLLM.from_pretrained(options.model, device=cluster.device, dtype=dtype, **places)
        if options.control == "shuffled_connector":
            shuffle_connector(model.reader)
        name = f" on rank {cluster.rank}" if cluster.world_size > 1 else ""
        return Answerer(model, options.batch_size, TOLERANCE[dtype], name)

    evaluation.answer(together(load, cluster.device))


def _facts(options: argparse.Namespace, export: Export, cluster: Cluster) -> dict[str, str]:
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
        "dtype": options.dtype,
        "ranks": f"{cluster.world_size} on {cluster.device.type}, {options.batch_size} items at once",
        "versions": f"mtllm-ds {mtllm_ds.__version__}, torch {torch.__version__}, transformers {transformers.__version__}",
    }


def run_retrieval(options: argparse.Namespace) -> None:
    from mtllm_ds.atomic import write_json
    from mtllm_ds.evaluation.retrieval import print_scores, read_parallel, score_parallel

    fields = (options.text_field, options.english_field)
    foreign, english = read_parallel(options.file, options.language, *fields, limit=options.limit)
    from mtllm_ds.cluster.launch import device_alone
    from mtllm_ds.inference import MTLLM  # slow to import: mistakes in the file are told before
    from mtllm_ds.languages import ENGLISH

    model = MTLLM.from_pretrained(options.model, device=device_alone(options.device))
    encode = model.encode if options.vectors == "mtllm" else model.encode_with_encoder
    scores = score_parallel(
        foreign,
        english,
        lambda texts: encode(texts, lang=options.language, batch_size=options.batch_size).numpy(),
        lambda texts: encode(texts, lang=ENGLISH, batch_size=options.batch_size).numpy(),
    )
    print_scores(scores, options.language)
    if options.output:
        write_json(
            options.output / "summary.json", {"language": options.language, "vectors": options.vectors, **scores.flat()}
        )


def run_baseline(options: argparse.Namespace) -> None:
    from mtllm_ds.evaluation.answers.predictions import write_predictions
    from mtllm_ds.evaluation.items.tasks import load_task

    task = load_task(options.task, TASKS).located(options.data, options.training_data)
    languages = task.select(options.languages)
    from mtllm_ds.evaluation.answers.baselines import (
        predict_baseline,  # slow to import: mistakes in the task are told before
    )

    predictions = predict_baseline(options.system, task, languages, options.train_items)
    write_predictions(options.output, predictions)
    print(f"{len(predictions)} predictions of {options.system} on {task.name} in {options.output}")


def run_tables(options: argparse.Namespace) -> None:
    from rich.console import Console

    from mtllm_ds.evaluation.answers.predictions import read_predictions
    from mtllm_ds.evaluation.report.parts import Report
    from mtllm_ds.evaluation.report.tables import build_tables
    from mtllm_ds.evaluation.report.writing import compare_systems, write_report

    predictions = read_predictions(options.predictions)
    tables = tuple(build_tables(predictions))
    comparisons = compare_systems(predictions, tables, *options.compare) if options.compare else ()
    report = Report(title=options.title or predictions.facts.task, tables=tables, comparisons=comparisons)
    write_report(report, options.output, Console())
    print(f"report: {options.output / 'report.html'}")


if __name__ == "__main__":
    quiet_libraries()
    run_and_exit(main)
