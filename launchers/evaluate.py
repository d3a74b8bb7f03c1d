"""Evaluate: `retrieval` scores an exported model on a parallel file; `baseline` and `tables` need no model.

python launchers/evaluate.py retrieval --export EXPORT --file parallel.jsonl --language deu_Latn
python launchers/evaluate.py baseline --task lohelp_sample --system tfidf --output FILE
python launchers/evaluate.py tables --predictions FILE ... --output DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mtllm_ds.command_line import quiet_libraries, run_and_exit

TASKS = Path(__file__).parent / "tasks"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Evaluate models and baselines, and make tables.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    retrieval = commands.add_parser("retrieval", help="find translations by the vectors of an exported model")
    retrieval.set_defaults(run=run_retrieval)
    add = retrieval.add_argument
    add("--export", type=Path, required=True, help="folder written by launchers/export.py")
    add("--file", type=Path, required=True, help="parallel text: JSONL or TSV, plain, .gz, .xz or .zst")
    add("--language", required=True, help="FLORES-200 code of the foreign side")
    add("--text-field", default="text", help="JSON key, column name, or column number from 1 (default %(default)s)")
    add("--english-field", default="text_en", help="the same of the English side (default %(default)s)")
    add("--vectors", choices=("mtllm", "encoder"), default="mtllm", help="of the stack, or of its MT encoder alone")
    add("--limit", type=int, help="only the first so many pairs")
    add("--batch-size", type=int, default=32)
    add("--device", default="cpu")
    add("--output", type=Path, help="folder for summary.json")
    baseline = commands.add_parser("baseline", help="predictions of a baseline that needs no model")
    baseline.set_defaults(run=run_baseline)
    add = baseline.add_argument
    add("--task", required=True, help=f"a name in {TASKS.name}/ or a YAML file")
    add("--system", required=True, choices=("majority", "tfidf"))
    add("--languages", nargs="+", default=["all"], metavar="CODE")
    add("--data", help="folder or hub name, if not where the task says")
    add("--training-data", help="the same of a task whose training items are elsewhere")
    add("--train-items", type=int, help="draw that many training items")
    add("--output", type=Path, required=True, help="file of predictions to write, .parquet")
    tables = commands.add_parser("tables", help="tables, pictures and report.html from files of predictions")
    tables.set_defaults(run=run_tables)
    add = tables.add_argument
    add("--predictions", type=Path, nargs="+", required=True, metavar="FILE", help="of one task")
    add("--output", type=Path, required=True, metavar="DIR")
    add("--title", help="heading of the report (default: the task)")
    add("--compare", nargs=2, metavar=("FIRST", "SECOND"), help="paired bootstrap of one system minus another")
    return parser.parse_args()


def main() -> int:
    options = parse()
    options.run(options)
    return 0


def run_retrieval(options: argparse.Namespace) -> None:
    from mtllm_ds.atomic import write_json
    from mtllm_ds.evaluation.retrieval import print_scores, read_parallel, score_parallel

    foreign, english = read_parallel(options.file, options.language, options.text_field, options.english_field)
    foreign, english = foreign[: options.limit], english[: options.limit]
    from mtllm_ds.inference import MTLLM  # slow to import: mistakes in the file are told before

    model = MTLLM.from_pretrained(options.export, device=options.device)
    encode = model.encode if options.vectors == "mtllm" else model.encode_with_encoder
    scores = score_parallel(
        foreign,
        english,
        lambda texts: encode(texts, lang=options.language, batch_size=options.batch_size).numpy(),
        lambda texts: encode(texts, lang="eng_Latn", batch_size=options.batch_size).numpy(),
    )
    print_scores(scores, options.language)
    if options.output:
        write_json(
            options.output / "summary.json", {"language": options.language, "vectors": options.vectors, **scores.flat()}
        )


def run_baseline(options: argparse.Namespace) -> None:
    from mtllm_ds.evaluation.predictions import write_predictions
    from mtllm_ds.evaluation.tasks import load_task

    task = load_task(options.task, TASKS).located(options.data, options.training_data)
    languages = task.select(options.languages)
    from mtllm_ds.evaluation.baselines import predict_baseline  # slow to import: mistakes in the task are told before

    predictions = predict_baseline(options.system, task, languages, options.train_items)
    write_predictions(options.output, predictions)
    print(f"{len(predictions)} predictions of {options.system} on {task.name} in {options.output}")


def run_tables(options: argparse.Namespace) -> None:
    from rich.console import Console

    from mtllm_ds.evaluation.predictions import read_predictions
    from mtllm_ds.evaluation.report import compare_systems, write_report
    from mtllm_ds.evaluation.report_parts import Report
    from mtllm_ds.evaluation.tables import build_tables

    predictions = read_predictions(options.predictions)
    tables = tuple(build_tables(predictions))
    comparisons = compare_systems(predictions, tables, *options.compare) if options.compare else ()
    report = Report(title=options.title or predictions.facts.task, tables=tables, comparisons=comparisons)
    write_report(report, options.output, Console())
    print(f"report: {options.output / 'report.html'}")


if __name__ == "__main__":
    quiet_libraries()
    run_and_exit(main)
