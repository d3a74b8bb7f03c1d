"""Predictions, one row per item, system, seed and setting, in Parquet: every table is rebuilt from them without any model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.items.items import Item
from mtllm_ds.evaluation.items.tasks import TaskFacts

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("group", pa.string()),
        ("language", pa.string()),
        ("system", pa.string()),
        ("seed", pa.int64()),
        ("setting", pa.string()),
        ("label", pa.string()),
        ("prediction", pa.string()),
        ("score", pa.float64()),
    ]
)
_KEY = b"mtllm_ds"


@dataclass(frozen=True)
class Predictions:
    """Columns of equal length n; strings as numpy object arrays, `seed` int64, `score` float64 (NaN where there is none)."""

    facts: TaskFacts
    id: np.ndarray
    group: np.ndarray
    language: np.ndarray
    system: np.ndarray
    seed: np.ndarray
    setting: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.id)

    @property
    def correct(self) -> np.ndarray:
        """(n,) bool."""
        return self.label == self.prediction

    def where(self, **wanted: str | int) -> Predictions:
        """The rows whose columns have the wanted values."""
        keep = np.ones(len(self), dtype=bool)
        for name, value in wanted.items():
            keep &= getattr(self, name) == value
        return self._rows(keep)

    def of_languages(self, languages: Sequence[str]) -> Predictions:
        """The rows of some languages."""
        return self._rows(np.isin(self.language, list(languages)))

    def _rows(self, chosen: np.ndarray) -> Predictions:
        return Predictions(self.facts, **{name: getattr(self, name)[chosen] for name in SCHEMA.names})


def predictions_of(
    facts: TaskFacts,
    items: Sequence[Item],
    answers: Sequence[str],
    *,
    language: str,
    system: str,
    seed: int = 0,
    setting: str = "plain",
    scores: Sequence[float] | None = None,
) -> Predictions:
    """Predictions of one system on one language; `answers[i]` is what it said to item i."""
    assert len(items) == len(answers)
    constant = {"language": language, "system": system, "setting": setting}
    columns = {name: np.full(len(items), value, dtype=object) for name, value in constant.items()}
    for name in ("id", "group", "label"):
        columns[name] = np.array([getattr(item, name) for item in items], dtype=object)
    columns["prediction"] = np.array(list(answers), dtype=object)
    columns["seed"] = np.full(len(items), seed, dtype=np.int64)
    given = [float("nan")] * len(items) if scores is None else scores
    return Predictions(facts, score=np.asarray(given, dtype=np.float64), **columns)


def concatenate(parts: Iterable[Predictions], places: Sequence[object] = ()) -> Predictions:
    """All rows of several predictions of one task; `places` says where they come from.

    Raises `UserError` if tasks differ or a row is there twice.
    """
    listed = list(parts)
    if not listed:
        raise UserError("--predictions: none were given; name at least one file")
    facts = listed[0].facts
    for part in listed[1:]:
        if part.facts != facts:
            raise UserError(
                f"--predictions: '{facts.task}' and '{part.facts.task}' do not fit in one table; make a table for each task"
            )
    whole = Predictions(
        facts, **{name: np.concatenate([getattr(part, name) for part in listed]) for name in SCHEMA.names}
    )
    _each_row_once(
        whole, [str(place) for place, part in zip(places, listed, strict=True) for _ in part.id] if places else []
    )
    return whole


def _each_row_once(whole: Predictions, places: list[str]) -> None:
    seen: dict[tuple, int] = {}
    rows = zip(whole.id, whole.language, whole.system, whole.seed.tolist(), whole.setting, strict=True)
    for number, row in enumerate(rows):
        first = seen.setdefault(row, number)
        if first != number:
            item, language, system, seed, setting = row
            where = f", in {' and '.join(dict.fromkeys((places[first], places[number])))}" if places else ""
            raise UserError(
                f"predictions of {whole.facts.task}: item {item} in {language} is answered twice by {system} "
                f"(seed {seed}, {setting}){where}; give each file once"
            )


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write the file whole or not at all."""
    columns = {name: pa.array(getattr(predictions, name).tolist(), SCHEMA.field(name).type) for name in SCHEMA.names}
    facts = {entry.name: getattr(predictions.facts, entry.name) for entry in fields(TaskFacts)}
    table = pa.table(columns, schema=SCHEMA.with_metadata({_KEY: json.dumps({"version": 1, **facts})}))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    parquet.write_table(table, temporary, compression="zstd")
    os.replace(temporary, path)


def read_predictions(paths: Sequence[Path]) -> Predictions:
    """Read and join the files of one task. Raises `UserError` if one is missing, damaged or of another kind."""
    return concatenate(map(_read, paths), paths)


def _read(path: Path) -> Predictions:
    if not path.is_file():
        raise UserError(f"{path}: no such file; name a file of predictions, as `mtllm-ds evaluate` writes them")
    try:
        table = parquet.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a Parquet file ({str(error).splitlines()[0]}); write it anew") from error
    metadata = (table.schema.metadata or {}).get(_KEY)
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if metadata is None or missing:
        what = f"it lacks {', '.join(missing)}" if missing else "it names no task"
        raise UserError(f"{path}: not a file of predictions ({what}); write it with `mtllm-ds evaluate`")
    facts = json.loads(metadata)
    if facts.pop("version") != 1:
        raise UserError(f"{path}: predictions written by a newer version of mtllm-ds; update it")
    columns = {}
    for name in SCHEMA.names:
        values = table.column(name).cast(SCHEMA.field(name).type)
        columns[name] = values.to_numpy()
        if columns[name].dtype.kind not in "if":
            columns[name] = columns[name].astype(object)
    return Predictions(TaskFacts(**facts), **columns)
