"""Frozen weights that ranks hold in equal shares, and gather whole when all of them ask together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

from mtllm_ds.cluster.agree import world_size
from mtllm_ds.cluster.collectives import counted


class Shares:
    """This rank's share of some floating tensors of one dtype; made by all ranks alike, of equal tensors."""

    def __init__(self, tensors: Sequence[torch.Tensor], device: torch.device) -> None:
        self._shapes = [tensor.shape for tensor in tensors]
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        self._numel, world = len(flat), world_size()
        size = -(-len(flat) // world)
        flat = torch.nn.functional.pad(flat, (0, size * world - len(flat)))
        rank = dist.get_rank() if world > 1 else 0
        self._own = flat[rank * size : (rank + 1) * size].to(device, copy=True)

    def gathered(self) -> list[torch.Tensor]:
        """The whole tensors, views of one; called by all ranks alike."""
        flat = self._own
        if world_size() > 1:
            flat = self._own.new_empty(len(self._own) * world_size())
            with counted("all_gather", flat):
                dist.all_gather_into_tensor(flat, self._own)
        parts = flat[: self._numel].split([shape.numel() for shape in self._shapes])
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]
