"""The report of one model's evaluation: what its answers are worth, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from mtllm_ds.cluster.agree import together
from mtllm_ds.evaluation.answers.model_evaluation import ModelEvaluation
from mtllm_ds.evaluation.report.parts import Cost, Report
from mtllm_ds.evaluation.report.tables import build_tables
from mtllm_ds.evaluation.report.writing import write_report


def report_model(evaluation: ModelEvaluation, facts: Mapping[str, str], console: Console | None = None) -> None:
    """Join the predictions and write the report into the evaluation's folder. Called by all ranks; rank 0 alone does anything."""

    def write() -> None:
        predictions = evaluation.predictions()
        if predictions is None:
            return
        question = evaluation.question
        report = Report(
            title=f"{question.system} on {question.task.name}",
            tables=tuple(build_tables(predictions)),
            costs={question.system: Cost(evaluation.seconds_per_item())},
            facts=facts,
        )
        write_report(report, evaluation.output, console)

    together(write, evaluation.cluster.device)
