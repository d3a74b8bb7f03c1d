"""What decides the order of a data set: draws, the samples of each draw, lengths. Read-only, the same for all lanes and ranks."""

import numpy as np

from mtllm_ds.config.data import OrderSettings
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.stream.epochs import EpochStream
from mtllm_ds.data.stream.filling import MAX_STRETCH_SAMPLES, STRETCH_QUEUES, Budgets, CellStream
from mtllm_ds.data.stream.mixing import DrawSequence
from mtllm_ds.data.stream.sources import mixed_sources
from mtllm_ds.errors import UserError

STEPS_OF_ROUND = 32
"""Under token budgets: steps for which a lane stays with its stretch of a data set. The fewer, the more ranks read one block."""

DRAW_SAMPLES = 32
"""Samples of a draw under token budgets. The fewer, the closer are shares at any time."""

CACHED_BYTES = 1 << 25
"""Memory of a reader for orders of epochs and rows, over all languages."""


class Order:
    """A data set's index as the settings and the seed have it read."""

    def __init__(self, manifest: Manifest, settings: OrderSettings, seed: int) -> None:
        self.settings = settings
        self.seed = seed
        self.first_row = manifest.first_row
        self.encoder_lengths = manifest.encoder_lengths
        self.llm_lengths = manifest.llm_lengths
        if not manifest.num_samples:
            raise UserError(f"data set {manifest.storage.root}: holds no samples; prepare it from a file with text")
        self._check_budgets()
        self.sources = mixed_sources(manifest, settings.mixing, seed)
        self.shares = self.sources.shares
        self.block_samples = int(np.diff(self.first_row).max())
        """Samples of a block, but for the last of each language"""
        count = settings.num_samples_per_cell
        self.draw_samples = DRAW_SAMPLES if settings.has_budgets else count * max(1, round(self.block_samples / count))
        """Samples of every draw: about a block in whole cells, which one lane reads; less where cells are dealt out anyway"""
        lane_samples = self.samples_of_lane(STEPS_OF_ROUND)
        self.round_draws = settings.lanes * (-(-lane_samples // self.draw_samples) if settings.has_budgets else 1)
        """Draws of a round (`rounds.py`)"""
        self.first_cycles = [self._first_cycle(step) for step, _ in self.sources.later]
        """First cycle of draws of each later phase of the mixing"""
        if len(set(self.first_cycles)) < len(self.first_cycles):
            raise UserError(
                f"data.mixing.phases: two begin within one cycle of {settings.mixing.cycle_draws} draws, which is "
                f"{self.step_of_cycle(1):,} steps; lower data.mixing.cycle_draws or put them further apart"
            )
        later = [
            (cycle, shares.weights) for cycle, (_, shares) in zip(self.first_cycles, self.sources.later, strict=True)
        ]
        self.draws = DrawSequence(self.shares.weights, settings.mixing.cycle_draws, seed, later)
        self.epoch_samples = np.array([epoch.num_samples for epoch in self.shares.epochs])
        """(sources,) samples of one epoch, after sub-sampling"""
        own_bytes = CACHED_BYTES // len(self.shares.epochs)
        self.streams = [
            EpochStream(epoch, source, self.first_row, seed, own_bytes)
            for source, epoch in enumerate(self.shares.epochs)
        ]
        """By source: its samples, epoch after epoch"""
        self.cells = [self._cell_stream(stream) for stream in self.streams] if settings.has_budgets else []
        """By source, under token budgets: its cells"""

    def _check_budgets(self) -> None:
        budgets = {side: getattr(self.settings, f"{side}_tokens_per_cell") for side in ("encoder", "llm")}
        for side, lengths in (("encoder", self.encoder_lengths), ("llm", self.llm_lengths)):
            # A side that reads nothing has no length, and needs no budget.
            if self.settings.has_budgets and budgets[side] is None and lengths.max() > 0:
                raise UserError(f"data.{side}_tokens_per_cell=null: the other side has a budget; set both or none")
            if (budget := budgets[side]) is not None and budget < lengths.max():
                raise UserError(
                    f"data.{side}_tokens_per_cell={budget}: too small, the longest sample has {lengths.max()} tokens; raise it"
                )

    def samples_of_lane(self, steps: int) -> int:
        """Samples that a lane emits in some steps; under token budgets so many as fit on average, and at least one."""
        settings = self.settings
        if not settings.has_budgets:
            return steps * settings.num_samples_per_cell
        budgets = settings.encoder_tokens_per_cell, settings.llm_tokens_per_cell
        tokens = int(self.encoder_lengths.sum(dtype=np.int64)), int(self.llm_lengths.sum(dtype=np.int64))
        fitting = (
            steps * budget * len(self.llm_lengths) // total
            for budget, total in zip(budgets, tokens, strict=True)
            if budget and total
        )
        return max(1, min(fitting))

    def _first_cycle(self, step: int) -> int:
        """The first cycle of draws that begins at or after a step."""
        samples = self.settings.lanes * self.samples_of_lane(step)
        return -(-samples // (self.draw_samples * self.settings.mixing.cycle_draws))

    def step_of_cycle(self, cycle: int) -> int:
        """The first step with draws of a cycle; under token budgets about."""
        million = 10**6
        samples = cycle * self.settings.mixing.cycle_draws * self.draw_samples
        return samples * million // (self.settings.lanes * self.samples_of_lane(million))

    def _cell_stream(self, stream: EpochStream) -> CellStream:
        settings = self.settings
        budgets = Budgets(settings.encoder_tokens_per_cell or 0, settings.llm_tokens_per_cell or 0, settings.queue_size)
        stretch = min(STRETCH_QUEUES * settings.queue_size, MAX_STRETCH_SAMPLES)
        stretch = self.draw_samples * -(-stretch // self.draw_samples)
        return CellStream(stream, self.encoder_lengths, self.llm_lengths, budgets, stretch)
