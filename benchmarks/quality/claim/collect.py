"""Predictions, costs and gates of a finished run, read from the steps' folders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.quality.claim.plan import Plan
from benchmarks.quality.claim.trainings import LEARNERS, RIVALS, TEACHER
from benchmarks.quality.claim.verdict import LanguageGate, mean_accuracy
from benchmarks.steps import DONE
from mtllm_ds.evaluation.answers.predictions import Predictions, concatenate, read_predictions
from mtllm_ds.evaluation.items.translated import READINGS
from mtllm_ds.evaluation.report.parts import Cost

TRANSLATE_TEST = {"translate_test_greedy": "greedy", "translate_test_beam4": "beam4", "translate_test_tuned": "beam4"}
"""System -> decoding of what it reads."""
FILE = "predictions.parquet"


@dataclass(frozen=True)
class Readings:
    """Mean copy-masked accuracy of a translate-test by where it is masked; the better one is in the table."""

    system: str
    accuracy: Mapping[str, float]

    @property
    def better(self) -> str:
        return max(self.accuracy, key=lambda reading: self.accuracy[reading])


def gates_of(plan: Plan, num_items: Mapping[str, int]) -> dict[str, LanguageGate]:
    """Gates of the MT model by language."""
    measured = json.loads((plan.folder("gates") / "gates.json").read_text(encoding="utf-8"))
    return {
        code: LanguageGate(row["chrf"], row["retrieval"], num_items[code], development=code in plan.development)
        for code, row in measured.items()
    }


def in_setting(predictions: Predictions, setting: str) -> Predictions:
    """The same rows under another setting's name."""
    return replace(predictions, setting=np.full(len(predictions), setting, dtype=object))


def translate_test(
    folder: Path, seeds: Sequence[int], system: str, languages: Sequence[str]
) -> tuple[Predictions, Readings]:
    """Plain, and the better way of copy-masking over `languages`, of one translate-test; `folder` has a step a seed."""
    parts: dict[str, Predictions] = {
        reading: concatenate(
            read_predictions([folder / f"{system}-{seed}" / reading / system / FILE]) for seed in seeds
        )
        for reading in READINGS
    }
    return better_reading(parts, system, languages)


def better_reading(
    parts: Mapping[str, Predictions], system: str, languages: Sequence[str]
) -> tuple[Predictions, Readings]:
    """Answers by reading -> plain ones, and the copy-masked ones of the reading that is better over `languages`."""
    masked = [reading for reading in READINGS if reading != "plain"]
    readings = Readings(system, {reading: mean_accuracy(parts[reading], languages) for reading in masked})
    return concatenate([parts["plain"], in_setting(parts[readings.better], "copy_masked")]), readings


def collect(plan: Plan, backbone: str, counting: Sequence[str]) -> tuple[Predictions, list[Readings]]:
    """All predictions of one backbone, the baselines among them; translate-test is masked where that is better for it."""
    seeds, folder = plan.budget.seeds, plan.folder(f"{backbone}/eval")
    parts = [read_predictions([plan.folder(f"baseline/{system}") / FILE]) for system in ("majority", "tfidf")]
    names = [(learner.answers, learner.answers) for learner in LEARNERS if learner.answers not in TRANSLATE_TEST]
    names += [(TEACHER.answers, "english_originals"), ("ridge", "ridge")]
    for step, system in names:
        if was_asked(plan, backbone, step):
            parts += [read_predictions([folder / f"{step}-{seed}" / system / FILE]) for seed in seeds]
    controls = [folder / f"{control}-0" / control / FILE for control in ("wrong_tag", "shuffled_connector")]
    parts += [read_predictions([path]) for path in controls if (path.parents[1] / DONE).exists()]
    readings = []
    for system in TRANSLATE_TEST:
        found, reading = translate_test(folder, seeds, system, counting)
        parts.append(found)
        readings.append(reading)
    return concatenate(parts), readings


def was_asked(plan: Plan, backbone: str, step: str) -> bool:
    """Has a system answered with every seed? Rivals beside the verdict may be missing."""
    folder = plan.folder(f"{backbone}/eval")
    optional = [learner.answers for learner in RIVALS]
    return step not in optional or all((folder / f"{step}-{seed}" / DONE).exists() for seed in plan.budget.seeds)


def costs_of(plan: Plan, backbone: str) -> dict[str, Cost]:
    """Seconds an item of seed 0, translation included; with greedy decoding also chrF, on validation pairs."""
    folder = plan.folder(f"{backbone}/eval")
    costs = {}
    for learner in LEARNERS:
        if learner.answers not in TRANSLATE_TEST and was_asked(plan, backbone, learner.answers):
            costs[learner.answers] = Cost(
                seconds_of(folder / f"{learner.answers}-0" / learner.answers, learner.answers)
            )
    measured = json.loads((plan.folder("gates") / "gates.json").read_text(encoding="utf-8")).values()
    chrf = float(np.mean([row["chrf"] for row in measured]))
    costs["ridge"] = Cost(seconds_of(folder / "ridge-0" / "ridge", "ridge"))
    for system, decoding in TRANSLATE_TEST.items():
        read = seconds_of(folder / f"{system}-0" / "plain" / system, system)
        written = json.loads((plan.folder(f"translate/{decoding}") / "translation.json").read_text(encoding="utf-8"))
        each = written["seconds"] / written["num_items"] * len(READINGS) / 2  # two of three readings were translated
        costs[system] = Cost(read + each, chrf if decoding == "greedy" else None)
    return costs


def seconds_of(folder: Path, system: str) -> float:
    """That a system took for an item, as it noted in its folder."""
    return float(json.loads((folder / "summary.json").read_text(encoding="utf-8"))[f"seconds_per_item/{system}"])


def variants_of(plan: Plan, backbone: str) -> Predictions | None:
    """Answers of the variants on the development languages (seed 0), and those of the run's own systems beside them."""
    folder = plan.folder(backbone)
    files = sorted(folder.glob(f"*/*/stage2/variant_*/{FILE}"))
    if not files:
        return None
    own = [folder / "eval" / f"{system}-0" / system / FILE for system in ("mtllm_stage2", "mtllm_direct", "llm_direct")]
    return concatenate(read_predictions([path]) for path in [*filter(Path.is_file, own), *files])


@dataclass(frozen=True)
class Rung:
    """One checkpoint of the MT model on the development languages, copy-masked."""

    name: str
    chrf: float
    retrieval: float
    stack: float
    translate_test: float


def ladder_of(plan: Plan, backbone: str, ladder: Mapping[int, str]) -> list[Rung]:
    """The MT ladder (number of a rung -> its MT model), the run's own MT model last; greedy translate-test, seed 0."""
    rungs = []
    for number, mt in ladder.items():
        folder = plan.folder(f"{backbone}/ladder/{number}")
        parts: dict[str, Predictions] = {
            r: read_predictions([folder / r / "translate_test_greedy" / FILE]) for r in READINGS
        }
        rival, _ = better_reading(parts, "translate_test_greedy", plan.development)
        stack = read_predictions([folder / "mtllm_stage2" / FILE])
        rungs.append(_rung(Path(mt).name, folder / "gates.json", stack, rival, plan.development))
    folder = plan.folder(f"{backbone}/eval")
    rival, _ = translate_test(folder, [0], "translate_test_greedy", plan.development)
    stack = read_predictions([folder / "mtllm_stage2-0" / "mtllm_stage2" / FILE])
    return [*rungs, _rung(Path(plan.mt).name, plan.folder("gates") / "gates.json", stack, rival, plan.development)]


def _rung(name: str, gates: Path, stack: Predictions, rival: Predictions, languages: Sequence[str]) -> Rung:
    measured = json.loads(gates.read_text(encoding="utf-8"))
    figures = [float(np.mean([measured[code][key] for code in languages])) for key in ("chrf", "retrieval")]
    answers = [mean_accuracy(found.where(setting="copy_masked"), languages) for found in (stack, rival)]
    return Rung(name, *figures, *answers)
