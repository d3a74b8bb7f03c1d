"""What an evaluation of generation found, language by language, as it lies on disk.

FOLDER/CODE.jsonl    a row per prompt (`GenerationEvaluation.rows`)
FOLDER/CODE.json     what it was made with, and figures of the answers
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.generation.evaluation import GenerationEvaluation, Row
from mtllm_ds.evaluation.generation.heldout import Heldout, digest
from mtllm_ds.evaluation.generation.readings import Estimate, Readings, estimate
from mtllm_ds.languages import ENGLISH, FLORES_200
from mtllm_ds.transfer_sets.sdrrl.stages import Progress, Stage, read_summary


@dataclass(frozen=True)
class Found:
    """One language."""

    rows: Sequence[Row]
    figures: Mapping[str, Mapping[str, float]]
    """Of the answers, by side"""

    @cached_property
    def readings(self) -> dict[str, Readings]:
        """Sums over the tokens of each response, by reading."""
        tokens = np.array([row["num_tokens"] for row in self.rows])
        return {
            name: Readings(tokens, *(np.array([row[kind][name] for row in self.rows]) for kind in ("nll", "kl")))
            for name in self.rows[0]["nll"]
        }

    def mean(self, reading: str, kind: str) -> float:
        """`nll` or `kl` of a reading, in nats per token; NaN where nobody read so."""
        if reading not in self.readings:
            return float("nan")
        own = self.readings[reading]
        return float(getattr(own, kind).sum() / max(1, own.num_tokens.sum()))

    def difference(self, first: str, second: str) -> Estimate:
        """NLL of one reading minus that of another, in nats per token, with the bootstrap's 95% over groups of prompts."""
        one, other = self.readings[first], self.readings[second]
        return estimate(one.nll - other.nll, one.num_tokens, [row["group"] for row in self.rows])


def evaluate_languages(
    items: Mapping[str, Sequence[Heldout]],
    folder: Path,
    made_with: Mapping[str, Any],
    evaluation: GenerationEvaluation,
    progress: Progress,
) -> None:
    """Evaluate each language that is not there yet.

    Args:
        made_with: everything beside the prompts that decides what is found, as plain JSON values

    Raises:
        UserError: the folder holds a language that was made with something else, or a prompt cannot be read.
    """
    stages = {code: Stage(folder, code, {**made_with, "prompts": digest(own)}) for code, own in items.items()}
    left = [code for code, stage in stages.items() if not stage.is_done]
    for done, code in enumerate(left):
        progress(done, len(left))
        rows = evaluation.rows(items[code])
        stages[code].finish(rows, {"prompts": len(rows), "figures": evaluation.figures(rows)})


def load_found(folder: Path, languages: Sequence[str] | None = None) -> dict[str, Found]:
    """Language -> what was found, English first; None for all that are there.

    Raises:
        UserError: nothing is there.
    """
    codes = (
        [path.stem for path in folder.glob("*.jsonl") if path.stem in FLORES_200] if languages is None else languages
    )
    if not codes:
        raise UserError(
            f"{folder}: holds nothing that `evaluate generation` found; name the folder `found` of its --output"
        )
    found = {}
    for code in sorted(codes, key=lambda code: (code != ENGLISH, code)):
        rows, counts = read_summary(folder, code)
        found[code] = Found(rows, counts["figures"])
    return found


def flat_figures(found: Mapping[str, Found]) -> dict[str, float]:
    """Every figure by name, as in `deu_Latn/model/nll`; means are over languages but English."""
    flat: dict[str, float] = {}
    for code, own in found.items():
        flat[f"{code}/prompts"] = len(own.rows)
        for name in own.readings:
            flat |= {f"{code}/{name}/{kind}": own.mean(name, kind) for kind in ("nll", "kl")}
        for side, figures in own.figures.items():
            flat |= {f"{code}/{side}/{name}": value for name, value in figures.items()}
        flat[f"{code}/model-llm/nll"] = own.difference("model", "llm").mean
    foreign = [code for code in found if code != ENGLISH]
    for name in dict.fromkeys(key.partition("/")[2] for key in flat):
        values = [flat[f"{code}/{name}"] for code in foreign if f"{code}/{name}" in flat]
        if values and name != "prompts":
            flat[f"mean/{name}"] = float(np.mean(values))
    if ENGLISH in found:
        flat |= {f"retention/{name}": value for name, value in retention(found[ENGLISH]).items()}
    return flat


def retention(english: Found) -> dict[str, float]:
    """What training cost in English: NLL of the model and of the untouched LLM, both reading English, the change in per cent of
    the latter, and the divergence; nats per token."""
    model, untouched = english.mean("model", "nll"), english.mean("english", "nll")
    change = 100 * (model / untouched - 1) if untouched else float("nan")
    return {"nll": model, "nll_untouched": untouched, "nll_change_percent": change, "kl": english.mean("model", "kl")}
