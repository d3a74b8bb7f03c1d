"""`evaluation.json`: what was asked of which model, and what is finished; an interrupted evaluation goes on from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtllm_ds import atomic
from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.answers.survey import LanguageSurvey, Unit

NAME = "evaluation.json"


class EvaluationJournal:
    """The journal of one folder; only rank 0 holds one."""

    def __init__(self, folder: Path, asked: Mapping[str, Any], surveys: Mapping[str, LanguageSurvey]) -> None:
        """Open or begin it. `asked` is what must not change between a start and its continuation.

        Languages and settings may be added later. Raises `UserError` if the folder holds something else.
        """
        self.folder = folder
        items = {code: found.sha256 for code, found in surveys.items()}
        known = _read(folder / NAME)
        for name, old in known.get("asked", {}).items():
            if old != asked.get(name):
                raise UserError(
                    f"output {folder}: holds an evaluation with {name} {old}, not {asked.get(name)}; choose another folder"
                )
        for code, old in known.get("items", {}).items():
            if items.get(code, old) != old:
                raise UserError(
                    f"output {folder}: the items of {code} have changed since it was begun; choose another folder"
                )
        self._content = {"asked": dict(asked), "items": {**known.get("items", {}), **items}}
        self._content["finished"] = known.get("finished", {})

    def path_of(self, unit: Unit) -> Path:
        """The file of a unit's predictions."""
        return self.folder / "predictions" / unit.setting / f"{unit.language}.parquet"

    def is_finished(self, unit: Unit) -> bool:
        return unit.key in self._content["finished"] and self.path_of(unit).is_file()

    def finish(self, unit: Unit, seconds: float) -> None:
        """Note that a unit's file is written, and the seconds that all ranks together spent on its answers."""
        self._content["finished"][unit.key] = {"num_items": unit.num_items, "seconds": seconds}
        atomic.write_json(self.folder / NAME, self._content)

    def seconds_per_item(self) -> float:
        """Over what is finished of plain text, or of masked text if there is no other; summed over ranks, without loading."""
        finished = self._content["finished"]
        plain = [row for key, row in finished.items() if key.startswith("plain/")]
        rows = plain or list(finished.values())
        return sum(row["seconds"] for row in rows) / sum(row["num_items"] for row in rows)

    def finished_files(self) -> list[Path]:
        """Every file of predictions that is whole, in the order they were finished."""
        return [self.folder / "predictions" / f"{key}.parquet" for key in self._content["finished"]]


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); choose another folder") from error
