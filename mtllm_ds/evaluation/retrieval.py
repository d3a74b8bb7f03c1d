"""Retrieval of translations by centred cosine, on any parallel file: how well vectors of two languages meet.

Each side's own mean is subtracted first: what all vectors of a language share says nothing about a text. Cosines are computed
in blocks, so memory grows with n, not n squared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mtllm_ds.data.writing.sources import InputFile, SourceReader
from mtllm_ds.errors import UserError

Embed = Callable[[Sequence[str]], np.ndarray]
"""texts of one language -> (n, d) vectors"""


@dataclass(frozen=True)
class RetrievalScores:
    """One direction. A candidate that reads exactly like the wanted one counts as the wanted one."""

    accuracy: float
    """share of queries whose best candidate is the wanted one"""
    mean_reciprocal_rank: float
    margin: float
    """mean cosine of the wanted candidate minus that of the best other one"""


@dataclass(frozen=True)
class ParallelScores:
    """Both directions over n pairs."""

    forward: RetrievalScores
    """foreign queries, English candidates"""
    backward: RetrievalScores
    num_pairs: int

    def flat(self) -> dict[str, float]:
        """One flat mapping, as `summary.json` wants it."""
        sides = {"forward": self.forward, "backward": self.backward}
        return {f"{side}_{name}": value for side, scores in sides.items() for name, value in asdict(scores).items()} | {
            "num_pairs": self.num_pairs
        }


def read_parallel(
    path: Path, language: str, text_field: str, english_field: str, limit: int | None = None
) -> tuple[list[str], list[str]]:
    """(foreign, English) texts of a TSV or JSON-lines file (.gz, .xz, .zst too), in order; only the first `limit` if given.

    A field is a JSON key, a header's name, or a column's number from 1. Raises `UserError` on a missing file, field or pair.
    """
    source = InputFile(path=str(path), language=language, text_field=text_field, second_text_field=english_field)
    pairs = [document.segments for document in islice(SourceReader(source), limit)]
    if len(pairs) < 2:
        raise UserError(f"{path}: {len(pairs)} pairs read, retrieval needs at least two; give it more")
    return [foreign for foreign, _ in pairs], [english for _, english in pairs]


def score_parallel(
    foreign: Sequence[str], english: Sequence[str], read_foreign: Embed, read_english: Embed
) -> ParallelScores:
    """Scores of two readers on parallel texts; vectors are centred by their own mean over these texts."""
    left, right = _centred(read_foreign(foreign)), _centred(read_english(english))
    return ParallelScores(retrieve(left, right, english), retrieve(right, left, foreign), len(english))


def print_scores(scores: ParallelScores, language: str, console: Console | None = None) -> None:
    """Both directions as a table."""
    table = Table(title=f"Retrieval of translations among {scores.num_pairs}", title_justify="left")
    for heading in ("queries", "accuracy", "mean reciprocal rank", "margin"):
        table.add_column(heading, justify="left" if heading == "queries" else "right")
    for name, found in ((language, scores.forward), ("English", scores.backward)):
        figures = (found.accuracy, found.mean_reciprocal_rank, found.margin)
        table.add_row(name, *(f"{figure:.3f}" for figure in figures))
    (console or Console()).print(table)


def retrieve(queries: np.ndarray, candidates: np.ndarray, texts: Sequence[str], block: int = 1024) -> RetrievalScores:
    """Scores of one direction: row i of `queries` (n, d) wants row i of `candidates` (n, d), which reads `texts[i]`.

    Rows are unit vectors. Rank counts the different texts that score at least as high: where all vectors are alike, nothing
    is found.
    """
    numbers: dict[str, int] = {}
    identity = np.array([numbers.setdefault(text, len(numbers)) for text in texts])
    first = np.unique(identity, return_index=True)[
        1
    ]  # one column for each different text, in order of first appearance
    columns = candidates[first].T
    ranks, margins = [], []
    for start in range(0, len(queries), block):
        cosines = queries[start : start + block] @ columns
        rows, own = np.arange(len(cosines)), identity[start : start + block]
        wanted = cosines[rows, own]
        ranks.append((cosines >= wanted[:, None]).sum(1))
        cosines[rows, own] = -np.inf
        margins.append(wanted - cosines.max(1))
    rank, margin = np.concatenate(ranks), np.concatenate(margins)
    return RetrievalScores(
        accuracy=float(np.mean(rank == 1)),
        mean_reciprocal_rank=float(np.mean(1 / rank)),
        margin=float(np.mean(margin)) if len(numbers) > 1 else float("nan"),
    )


def _centred(vectors: np.ndarray) -> np.ndarray:
    """(n, d) unit vectors after their mean is subtracted."""
    centred = vectors - vectors.mean(0)
    return centred / np.linalg.norm(centred, axis=1, keepdims=True).clip(min=1e-12)
