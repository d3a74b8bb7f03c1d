"""Memory of a computation on the CPU, counted rather than read off the process."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from mtllm_kernels.linear_kl.function import linear_kl
from mtllm_kernels.topk_kl.function import topk_kl
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

OPAQUE: dict[Any, Callable[..., Any]] = {
    torch.ops.mtllm_kernels.linear_kl.default: linear_kl.compute,
    torch.ops.mtllm_kernels.topk_kl.default: topk_kl.compute,
}


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that operators make, those inside this project's own operators included.

    `allocated` is their sum, `peak` the most that lived at once; what existed before does not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.allocated = self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, torch.Tensor):
                self.known.add(tensor.untyped_storage()._cdata)
        if func in OPAQUE:
            with self:
                out = OPAQUE[func](*args, **(kwargs or {}))
        else:
            out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._made(tensor.untyped_storage())
        return out

    def _made(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.allocated += size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size
