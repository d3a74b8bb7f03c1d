"""A run's checkpoints: written at once or beside the training; where one cannot be written, the run goes on and says so."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mtllm_ds.checkpoint.retention import drop_old, note_best
from mtllm_ds.checkpoint.store import (
    CheckpointState,
    amend_state,
    checkpoint_root,
    folder_of_step,
    gather_tensors,
    write_checkpoint,
)
from mtllm_ds.cluster.agree import together
from mtllm_ds.cluster.launch import Cluster
from mtllm_ds.cluster.zero import TrainableState
from mtllm_ds.config.schema import Settings
from mtllm_ds.errors import UserError


class Best(NamedTuple):
    """The figure in which a checkpoint is the best so far."""

    figure: str
    value: float


@dataclass
class Saver:
    """Saves for all ranks; only the main one writes. `warn` tells a line."""

    settings: Settings
    cluster: Cluster
    kept: dict[str, torch.Tensor]
    """The frozen tensors of no base model."""
    warn: Callable[[str], None]
    num_failed: int = 0
    """Checkpoints that could not be written, as the main rank knows."""
    _beside: Future[None] | None = field(default=None, init=False)
    _failure: str | None = field(default=None, init=False)

    @property
    def root(self) -> Path:
        """Folder of the checkpoints."""
        return checkpoint_root(self.settings)

    def save(self, state: CheckpointState, trainable: TrainableState, best: Best | None, *, must: bool) -> None:
        """Save on all ranks. What `must` be saved, since the run ends there, is on the disk when this returns.

        Raises:
            UserError: it must, and cannot.
        """
        self.finish()
        tensors = gather_tensors(trainable, self.cluster.is_main)

        def write() -> None:
            self._failure = self._written(lambda: write_checkpoint(self.root, state, tensors, self.kept), state.step)
            if self._failure is None:
                self._try(lambda: self._tidy(state.step, best), "old checkpoints stay, or the best is not noted")

        if self.settings.run.save_beside and not must:
            self._beside = ThreadPoolExecutor(1, "checkpoint").submit(write) if self.cluster.is_main else None
            return

        def write_now() -> None:
            if self.cluster.is_main:
                write()
                self._tell(must=must)

        together(write_now, self.cluster.device)

    def finish(self) -> None:
        """Wait for what is being written beside the training (on the main rank; others have nothing to wait for)."""
        if self._beside is not None:
            writing, self._beside = self._beside, None
            writing.result()
            self._tell(must=False)

    def note(self, step: int, best: Best | None = None, **changes: Any) -> None:
        """Write what has come to be known of a checkpoint into it, on the main rank; where that cannot be, warn."""

        def write() -> None:
            amend_state(folder_of_step(self.root, step), **changes)
            if best is not None:
                note_best(self.root, step, *best)

        if self.cluster.is_main:
            self._try(write, f"the checkpoint of step {step} does not know of its {' and '.join(changes)}")

    def _tell(self, *, must: bool) -> None:
        if self._failure is None:
            return
        self.num_failed += 1
        if must:
            raise UserError(f"{self._failure}; make room, then go on with --resume from the one before it")
        self.warn(f"{self._failure}; NOT SAVED: training goes on, and the checkpoints before it stay; make room")

    def _written(self, write: Callable[[], None], step: int) -> str | None:
        """Why it could not be written, or None."""
        try:
            write()
        except OSError as error:
            why = str(error)
        except Exception as error:  # raised here alone, it would leave the other ranks waiting
            why = f"{type(error).__name__}: {error}"
        else:
            return None
        return f"checkpoint {folder_of_step(self.root, step)}: cannot be written ({why})"

    def _tidy(self, step: int, best: Best | None) -> None:
        """Note the best, remove old ones: the new one is whole already."""
        if best is not None:
            note_best(self.root, step, *best)
        drop_old(self.root, self.settings.run.keep_checkpoints, self.settings.run.keep_every)

    def _try(self, work: Callable[[], None], otherwise: str) -> None:
        """What ends no training where it fails."""
        try:
            work()
        except Exception as error:  # the main rank alone: raised, it would leave the others waiting
            self.warn(f"{self.root}: {otherwise} ({error}); make room")
