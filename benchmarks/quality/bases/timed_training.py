"""Training for a given time instead of a given number of steps, with Hugging Face's Trainer, resumable.

On a CPU the time is that of all cores together, not that on the wall: a run on a busy machine then learns as much as on an idle
one. On a GPU it is time on the wall.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback

from mtllm_ds.atomic import write_json
from mtllm_ds.command_line import positive_float
from mtllm_ds.errors import UserError

TRAINING = "training.json"
"""Of a finished run: how it was trained, and what came of it"""


class Clock(TrainerCallback):
    """Stops the trainer when `minutes` are spent over all resumed runs; `spent.json` in each checkpoint keeps count."""

    def __init__(self, minutes: float, resume_from: Path | None = None, device: str = "cpu"):
        self.budget_seconds = minutes * 60
        self.before_seconds = json.loads((resume_from / "spent.json").read_text())["seconds"] if resume_from else 0.0
        self.now = time.process_time if device == "cpu" else time.perf_counter
        self.start = self.now()

    def seconds(self) -> float:
        return self.before_seconds + self.now() - self.start

    def fraction(self) -> float:
        return min(1.0, self.seconds() / self.budget_seconds)

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = self.seconds() >= self.budget_seconds
        return control

    def on_save(self, args, state, control, **kwargs):
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        write_json(folder / "spent.json", {"seconds": self.seconds()})


class Milestones(TrainerCallback):
    """Saves the model as it is when a share of the budget is spent, as `OUT/at-25` for 0.25: rungs of a quality ladder."""

    def __init__(self, shares: list[float], clock: Clock, save: Callable[[Path], None]):
        self.left, self.clock, self.save = sorted(shares), clock, save

    def on_step_end(self, args, state, control, **kwargs):
        while self.left and self.clock.fraction() >= self.left[0]:
            folder = Path(args.output_dir) / f"at-{round(100 * self.left.pop(0))}"
            if not folder.exists():
                self.save(folder)


class TimedTrainer(Trainer):
    """Trainer whose learning rate warms up by steps and decays linearly by the clock, to 5% of its peak at the end."""

    def __init__(self, *, clock: Clock, **kwargs):
        super().__init__(callbacks=[clock], **kwargs)
        self.clock = clock

    def create_scheduler(self, num_training_steps, optimizer=None):
        if self.lr_scheduler is None:
            warmup = max(1, self.args.warmup_steps)

            def factor(step: int) -> float:
                return min(1.0, (step + 1) / warmup) * max(0.05, 1.0 - self.clock.fraction())

            stepped = optimizer or self.optimizer
            assert stepped is not None
            self.lr_scheduler = LambdaLR(stepped, factor)
        return self.lr_scheduler


def add_time_options(parser: argparse.ArgumentParser, minutes: float) -> None:
    """`--core-minutes` and `--device`, which `Clock` takes."""
    parser.add_argument(
        "--core-minutes",
        type=positive_float,
        default=minutes,
        help="CPU time of all cores together; on a GPU, time on the wall",
    )
    parser.add_argument("--device", choices=("cpu", "cuda") if torch.cuda.is_available() else ("cpu",), default="cpu")


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end (`spent.json` is the last file written), or None."""
    finished = [path.parent for path in folder.glob("checkpoint-*/spent.json")]
    return max(finished, key=lambda path: int(path.name.split("-")[1]), default=None)


def earlier_runs(start: Path | None) -> list[dict]:
    """How the model to go on from was trained: from the record of a finished run, or from the figures of a shipped asset."""
    if start is None:
        return []
    for name in (TRAINING, "figures.json"):
        if (start / name).exists():
            content = json.loads((start / name).read_text())
            return list(content.get("training", content)["runs"])
    raise UserError(
        f"--start {start}: neither {TRAINING} nor figures.json there; name a finished run or a folder of assets/"
    )
