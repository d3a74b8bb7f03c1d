"""What decides the order of a data set: draws, the samples of each draw, lengths. Read-only, the same for all lanes and ranks."""

import numpy as np

from mtllm_ds.config.data import OrderSettings
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.stream.epochs import EpochStream
from mtllm_ds.data.stream.filling import STRETCH_QUEUES, Budgets, CellStream
from mtllm_ds.data.stream.mixing import DrawSequence
from mtllm_ds.data.stream.sources import mixed_sources
from mtllm_ds.errors import UserError

STEPS_OF_ROUND = 32
"""Under token budgets: steps for which a lane stays with its stretch of a data set. The fewer, the more ranks read one block."""


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
        samples = np.diff(self.first_row)
        self.sources = mixed_sources(manifest, settings.mixing, seed)
        self.shares = self.sources.shares
        self.draws = DrawSequence(self.shares, settings.mixing.cycle_draws, seed)
        count = settings.num_samples_per_cell
        self.draw_samples = count * max(1, round(int(samples.max()) / count))
        """Samples of every draw: about a block, and whole cells"""
        self.round_draws = settings.lanes * (self._draws_of_lane() if settings.has_budgets else 1)
        """Draws of a round (`rounds.py`)"""
        self.epoch_samples = np.array([epoch.num_samples for epoch in self.shares.epochs])
        """(sources,) samples of one epoch, after sub-sampling"""
        self.streams = [
            EpochStream(epoch, source, self.first_row, seed) for source, epoch in enumerate(self.shares.epochs)
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

    def _draws_of_lane(self) -> int:
        """Draws that give a lane about `STEPS_OF_ROUND` cells."""
        budgets = self.settings.encoder_tokens_per_cell, self.settings.llm_tokens_per_cell
        tokens = int(self.encoder_lengths.sum(dtype=np.int64)), int(self.llm_lengths.sum(dtype=np.int64))
        samples = min(
            STEPS_OF_ROUND * budget * len(self.llm_lengths) // total
            for budget, total in zip(budgets, tokens, strict=True)
            if budget and total
        )
        return max(1, -(-samples // self.draw_samples))

    def _cell_stream(self, stream: EpochStream) -> CellStream:
        settings = self.settings
        budgets = Budgets(settings.encoder_tokens_per_cell or 0, settings.llm_tokens_per_cell or 0, settings.queue_size)
        stretch = self.draw_samples * -(-STRETCH_QUEUES * settings.queue_size // self.draw_samples)
        return CellStream(stream, self.encoder_lengths, self.llm_lengths, budgets, stretch)
