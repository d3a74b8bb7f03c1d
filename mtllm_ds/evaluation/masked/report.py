"""Scores of masked language models as a table, as flat figures, and a row a text for whoever wants to resample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet
from rich.console import Console
from rich.table import Table

from mtllm_ds.atomic import write_bytes, write_figures, write_json
from mtllm_ds.evaluation.masked.scores import LanguageScores, LineSums, Texts, by_language, mean_of

Systems = Mapping[str, Mapping[str, LanguageScores]]
"""system -> row (a language, or a mean) -> its scores"""


def systems_of(sums: Mapping[str, LineSums], texts: Texts, low_resource: Sequence[str]) -> Systems:
    """Figures of every system: a row a language, then `mean`, `mean_low` and `mean_high` where low-resource ones are named."""
    languages = list(dict.fromkeys(texts.languages))
    groups = {"mean": languages}
    if low_resource:
        groups |= {
            "mean_low": list(low_resource),
            "mean_high": [code for code in languages if code not in low_resource],
        }
    found = {}
    for system, own in sums.items():
        scores = by_language(own, texts)
        found[system] = scores | {name: mean_of(scores, codes) for name, codes in groups.items() if codes}
    return found


def write_masked(folder: Path, sums: Mapping[str, LineSums], texts: Texts, systems: Systems, settings: dict) -> None:
    """`tables.json`, `summary.json` (flat) and `lines.parquet` (a row a system and text)."""
    tables = {name: {row: asdict(scores) for row, scores in rows.items()} for name, rows in systems.items()}
    write_json(folder / "tables.json", {"settings": settings, "systems": tables})
    figures = {
        f"{system}/{row}/{name}": value
        for system, rows in tables.items()
        for row, scores in rows.items()
        for name, value in scores.items()
    }
    first = next(iter(sums.values()))
    counts = {f"tokens/{code}": 0 for code in texts.languages}
    for code, number in zip(texts.languages, first.num_tokens, strict=True):
        counts[f"tokens/{code}"] += int(number)
    unknown = {f"unknown_share/{code}": share for code, share in texts.unknown_shares(first.num_tokens).items()}
    write_figures(folder / "summary.json", figures | counts | unknown)
    stream = pa.BufferOutputStream()
    parquet.write_table(_lines(sums, texts), stream)
    write_bytes(folder / "lines.parquet", stream.getvalue().to_pybytes())


def print_masked(systems: Systems, unknown_shares: Mapping[str, float], console: Console) -> None:
    """A row a language, the means last; below, what tokens are left out."""
    table = Table(title="Masked tokens: nats per token, nats per byte, mean reciprocal rank", title_justify="left")
    table.add_column("language", no_wrap=True)
    for system in systems:
        for name in ("NLL", "per byte", "MRR"):
            table.add_column(f"{system} {name}", justify="right")
    rows = list(next(iter(systems.values())))
    for row in rows:
        if row == "mean":
            table.add_section()
        scores = [own[row] for own in systems.values()]
        cells = [f"{value:.3f}" for own in scores for value in (own.nll, own.nll_per_byte, own.mrr)]
        table.add_row(row.replace("_", ", ") + "-resource" if row.startswith("mean_") else row, *cells)
    console.print(table)
    left_out = [f"{code} {share:.2%}" for code, share in unknown_shares.items() if share]
    if left_out:
        console.print(f"not scored, since the tokenizer does not know them: {', '.join(left_out)} of the tokens")


def _lines(sums: Mapping[str, LineSums], texts: Texts) -> pa.Table:
    num_bytes = texts.num_bytes
    parts = [
        pa.table(
            {
                "system": pa.array([system] * len(texts.texts)).dictionary_encode(),
                "language": pa.array(list(texts.languages)).dictionary_encode(),
                "line": range(len(texts.texts)), "bytes": num_bytes, "tokens": own.num_tokens, "nll": own.nll,
                "reciprocal_rank": own.reciprocal_rank,
            }
        )
        for system, own in sums.items()
    ]  # fmt: skip
    return pa.concat_tables(parts)
