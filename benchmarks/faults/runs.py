"""The run that faults strike, an on-policy one with embedded models, and what is left of it afterwards."""

from __future__ import annotations

import contextlib
import datetime
import json
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import load_file

from benchmarks.faults.injection import NAN, POLITE, Fault
from benchmarks.faults.ranks import Ranks
from benchmarks.steps import commit
from mtllm_ds.errors import UnsoundStepError, UserError
from mtllm_ds.preflight.resume import find_checkpoint
from mtllm_ds.training.preemption import EXIT_PREEMPTED

BOUND_SECONDS = 90.0
"""A run with a fault has ended by then."""
_RUN_SECONDS = 600.0
"""For a whole run without one, on a busy machine."""
STEPS, SAVED, STRUCK = 6, 2, {"step": 3, "rollout": 3, "save": 4, "evaluation": 4}
"""Length of a run, steps between its checkpoints, and where faults strike."""
WORDS = {
    "step": "taking step 3",
    "rollout": "preparing step 3 (its rollouts or previews)",
    "save": "saving step 4",
    "evaluation": "validating after step 4",
}


@dataclass(frozen=True)
class Outcome:
    """What came of a case; `mistakes` is empty where all was as promised."""

    name: str
    seconds: float
    """From the strike until all ranks had ended"""
    statuses: list[int | None]
    said: str
    """The line that names the rank and the phase"""
    saved: int
    """Step of the newest whole checkpoint"""
    mistakes: list[str]
    commit: str = ""
    """Of the code that was struck"""


class Material:
    """A recipe with its overrides, and the losses of the run that nothing strikes."""

    def __init__(self, folder: Path, arguments: Sequence[str], bound_seconds: float = 30.0) -> None:
        self.folder = folder
        bounds = [f"failures.{phase}_seconds={bound_seconds:g}" for phase in ("step", "validation", "save")]
        steps = [f"run.max_steps={STEPS}", f"run.save_every={SAVED}", "run.validate_every=4", "run.log_every=1"]
        self._arguments = [*arguments, *bounds, *steps, "run.keep_checkpoints=99", "run.tensorboard=false"]
        self._truth: dict[int, float] | None = None

    def start(
        self, name: str, *more: str, world_size: int = 2, fault: Fault | None = None, memory: Path | None = None
    ) -> Ranks:
        """A run, new or going on, in the folder of that name."""
        words = [*self._arguments, "--resume", "auto", f"run.output_dir={self.run(name)}", *more]
        return Ranks(world_size, words, self.folder / name / "log.txt", fault, memory)

    def run(self, name: str) -> Path:
        """Its run folder."""
        return self.folder / name / "run"

    def fresh(self, name: str) -> Path:
        """A case's folder without what a case that was itself killed has left there."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / name).mkdir(parents=True)
        return self.folder / name

    def finish(self, name: str, *more: str, world_size: int = 2) -> list[str]:
        """Go on with a run, or begin one, to its end; what is wrong with it then."""
        ranks = self.start(name, *more, world_size=world_size)
        statuses = ranks.wait(_RUN_SECONDS)
        ranks.kill()
        if statuses != [0] * world_size:
            return [f"going on ended with {statuses}: {ranks.said[-600:]}"]
        return self.differences(name)

    def differences(self, name: str) -> list[str]:
        """Where a finished run's losses, or weights where it logs means of several steps, are not those of the undisturbed run."""
        found, truth = losses_of(self.run(name)), self.truth
        if yaml.safe_load((self.run(name) / "config.yaml").read_text(encoding="utf-8"))["run"]["log_every"] > 1:
            return self._other_weights(name)
        if found.keys() != truth.keys():
            return [f"steps {sorted(found)} instead of {sorted(truth)}"]
        return [
            f"step {step}: loss {found[step]} instead of {loss}"
            for step, loss in truth.items()
            if abs(found[step] - loss) > 1e-5 * abs(loss)
        ]

    def _other_weights(self, name: str) -> list[str]:
        found, truth = (
            load_file(self.run(one) / "checkpoints" / f"step_{STEPS:08d}" / "trainable.safetensors")
            for one in (name, "truth")
        )
        if found.keys() != truth.keys():
            return ["other weights than those of the undisturbed run"]
        return [key for key in truth if not np.allclose(found[key], truth[key], rtol=1e-4, atol=1e-6)]

    @property
    def train(self) -> Path:
        """The training shards."""
        return Path(
            next(word for word in self._arguments if word.startswith("data.train=")).removeprefix("data.train=")
        )

    @property
    def truth(self) -> dict[int, float]:
        """Losses by step of the undisturbed run."""
        if self._truth is None:
            if not (self.run("truth") / "checkpoints" / f"step_{STEPS:08d}").exists():
                ranks = self.start("truth")
                statuses = ranks.wait(_RUN_SECONDS)
                assert statuses == [0, 0], ranks.said
            self._truth = losses_of(self.run("truth"))
        return self._truth

    def strike(
        self, kind: str, place: str, rank: int, *more: str, name: str = "", share_of_save: float | None = None
    ) -> Outcome:
        """Put a fault into a fresh run, see it end, go on to the end."""
        name = name or f"{kind} in a {place}, rank {rank}".replace(" a evaluation", " an evaluation")
        fault = Fault(kind, place, rank, STRUCK[place], self.fresh(name) / "struck", share_of_save)
        ranks = self.start(name, *more, fault=fault)
        end = time.monotonic() + _RUN_SECONDS
        while not fault.note.exists() and None in ranks.wait(0.1) and time.monotonic() < end:
            pass
        began = time.monotonic()
        statuses = ranks.wait(BOUND_SECONDS)
        seconds = time.monotonic() - began
        ranks.kill()
        mistakes = [] if fault.note.exists() else ["the fault never struck"]
        if None in statuses:
            mistakes.append(f"still there after {BOUND_SECONDS:.0f} s: {statuses}")
        line, wrong = _named(ranks.said, kind, place, rank, statuses, anywhere=share_of_save is not None)
        mistakes += wrong
        try:
            newest, damaged, _ = find_checkpoint(self.run(name) / "checkpoints", "auto")
            saved = 0 if newest is None else newest.step
            mistakes += [f"damaged checkpoints: {list(damaged)}"] if damaged else []
        except UserError as error:
            saved = 0
            mistakes.append(str(error))
        if saved < SAVED:
            mistakes.append("the checkpoint before the strike is gone")
        mistakes += self.finish(name, *more)
        return Outcome(name, seconds, statuses, line, saved, mistakes, commit())


def _named(
    said: str, kind: str, place: str, rank: int, statuses: list[int | None], *, anywhere: bool = False
) -> tuple[str, list[str]]:
    """The line that tells of a fault, and what it or the statuses lack; with `anywhere` it may name another phase."""
    if kind in POLITE:
        line = next((line for line in said.splitlines() if "stopped by request" in line), "")
        return line, [] if line and statuses == [EXIT_PREEMPTED] * 2 else [f"no good order: {statuses}"]
    if kind == NAN:
        wanted = f"error: step {STRUCK[place]}: rank {rank} could not take it soundly"
        line = next((line for line in said.splitlines() if line.startswith(wanted)), "")
        return line, [] if line and statuses == [UnsoundStepError.exit_status] * 2 else [
            f"not stopped by all: {statuses}"
        ]
    if place == "save" and "exception" in kind and statuses == [0, 0]:  # as of a full disk: told, and the run goes on
        line = next((line for line in said.splitlines() if "NOT SAVED: training goes on" in line), "")
        return line, [] if line else ["a save that failed is not told"]
    told = [line for line in said.splitlines() if line.startswith("watch: ")]
    line = next((line for line in told if line.startswith(f"watch: rank {rank} ")), "")
    mistakes = [] if line else [f"rank {rank} is not named: {told}"]
    if line and WORDS[place] not in line and not anywhere:
        mistakes.append(f"'{WORDS[place]}' is not named: {line}")
    return line, mistakes + (["a rank ended as if all were well"] if 0 in statuses else [])


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Of a file with a JSON object per line, whose last may be cut off by a kill."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def losses_of(run: Path) -> dict[int, float]:
    """Training losses by step."""
    return {row["step"]: row["loss"] for row in rows_of(run / "metrics.jsonl") if "loss" in row}


def origin() -> dict[str, object]:
    """Where figures come from."""
    return {
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "deepspeed": metadata.version("deepspeed"),
        "machine": platform.machine(),
        "ranks": 2,
    }


def embedded_material(folder: Path) -> Material:
    """Of the models and texts that come with the repository, prepared below `folder`."""
    from mtllm_ds.commands import run_command

    models = ["--encoder", "assets/mt", "--llm", "assets/llm", "--max-length", "48"]
    for name, text in (("train", "stage1_valid"), ("valid", "topics_valid")):
        if not (folder / name / "manifest.json").exists():
            source = f"eng_Latn=assets/text/{text}_eng_Latn.jsonl.xz"
            output = ["--output", str(folder / name), "--block-samples", "8"]
            run_command(["prepare", "dialogues", "--plain", "--input", source, *models, *output])
    return Material(
        folder / "cases",
        [
            "--recipe", "mtllm_generative", f"data.train={folder / 'train'}", f"data.validation={folder / 'valid'}",
            "data.validation_samples=64", "data.lanes=4", "data.cells_per_forward=1", "data.queue_size=8",
            "data.encoder_tokens_per_cell=64", "data.llm_tokens_per_cell=64", "model.connector.init=default",
            "model.connector.match_scale=false",
            "objective.rollouts={max_new_tokens: 4, share: 0.5}", "model.encoder.max_length=48", "model.llm.max_length=48",
        ],
    )  # fmt: skip
