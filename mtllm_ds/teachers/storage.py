"""Where a teacher's weights are while nobody asks it: in the host's memory, or in shares on all ranks."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn

from mtllm_ds.cluster.shares import Shares


class Storage(ABC):
    """The weights of a frozen module, which are whole on the device between `bring` and `release`."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._module, self._device = module, device

    @abstractmethod
    def bring(self) -> None:
        """Begin to make them whole."""

    def wait(self) -> None:  # noqa: B027 - what is there at once need not be waited for
        """What the device does from here on has them."""

    @abstractmethod
    def release(self) -> None:
        """Give the memory on the device back."""


class OnHost(Storage):
    """The weights stay in the host's memory, pinned, and have a copy on the device while they are there."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        super().__init__(module, device)
        self._copied: torch.cuda.Event | None = None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        tensors = [*module.parameters(), *module.buffers()]
        if self._stream is not None:
            for tensor in tensors:
                tensor.data = tensor.data.pin_memory()
        self._homes = [(tensor, tensor.data) for tensor in tensors] if device.type != "cpu" else []

    def bring(self) -> None:
        # The memory is the compute stream's, which alone will use and free it; the copy waits for what used it before.
        places = [torch.empty_like(home, device=self._device) for _, home in self._homes]
        if self._stream is None:
            self._fill(places)
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            self._fill(places)
            self._copied = self._stream.record_event()

    def _fill(self, places: list[torch.Tensor]) -> None:
        for (tensor, home), place in zip(self._homes, places, strict=True):
            place.copy_(home, non_blocking=True)
            tensor.data = place

    def wait(self) -> None:
        if self._copied is not None:
            torch.cuda.current_stream(self._device).wait_event(self._copied)

    def release(self) -> None:
        self.wait()
        for tensor, home in self._homes:
            tensor.data = home


class InShares(Storage):
    """Every rank holds its share on the device. All ranks bring and release the same modules in the same order."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        super().__init__(module, device)
        for buffer in module.buffers():
            buffer.data = buffer.data.to(device)
        head = getattr(module, "head", None)
        outliving = set(head.parameters()) if isinstance(head, nn.Module) else set()
        # A loss holds on to the head after the release: in one buffer with the body it would hold that too.
        groups: dict[tuple[bool, torch.dtype], list[nn.Parameter]] = {}
        for parameter in module.parameters():
            groups.setdefault((parameter in outliving, parameter.dtype), []).append(parameter)
        self._shares = [(group, Shares(group, device)) for group in groups.values()]
        self.release()

    def bring(self) -> None:
        for group, shares in self._shares:
            for parameter, whole in zip(group, shares.gathered(), strict=True):
                parameter.data = whole

    def release(self) -> None:
        for group, _ in self._shares:
            for parameter in group:
                parameter.data = torch.empty(0, dtype=parameter.dtype, device=self._device)
