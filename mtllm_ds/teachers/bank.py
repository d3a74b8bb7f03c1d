"""One teacher per language, of which a few are on the device at a time.

A bank's teachers are no part of the module that the engine wraps: under ZeRO-3 ranks that hold different languages would gather
different weights, and wait for each other for ever. Each rank keeps its teachers whole, those that it does not need in the host's
memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from mtllm_ds.config.objective import TeacherModel
from mtllm_ds.config.schema import Settings
from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.errors import UserError
from mtllm_ds.models.build import dtype_of
from mtllm_ds.models.lm_head import OutputHead, load_output_head
from mtllm_ds.models.loading import choose_attention, load_llm
from mtllm_ds.models.readers import LLMReader


class BankTeacher(nn.Module):
    """A frozen language model: body and head."""

    def __init__(self, reader: LLMReader, head: OutputHead) -> None:
        super().__init__()
        self.reader, self.head = reader, head
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def states(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Final states: (B, S) int64 ids and mask -> (B, S, D)."""
        return self.reader.states(ids, mask)

    @torch.no_grad()
    def prepared(self, states: torch.Tensor) -> torch.Tensor:
        """What its matrix reads of states: (N, D) -> (N, D)."""
        return self.head.prepared(states)


class TeacherBank:
    """Teachers by language code; the least recently used one gives way on the device."""

    def __init__(self, teachers: Mapping[str, BankTeacher], device: torch.device, on_device: int | None = None) -> None:
        """`on_device`: most teachers on the device; None: all."""
        self._teachers = {language: _Movable(teacher, device) for language, teacher in teachers.items()}
        self._most = on_device or len(teachers)
        self._resident: OrderedDict[str, None] = OrderedDict()

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(self._teachers)

    @property
    def resident(self) -> tuple[str, ...]:
        """Languages whose teachers are on the device, the least recently used first."""
        return tuple(self._resident)

    def teacher(self, language: str) -> BankTeacher:
        """The teacher of a language, on the device from now on until others take its place."""
        self._bring(language)
        self._teachers[language].wait()
        return self._teachers[language].teacher

    def expect(self, languages: Iterable[str]) -> None:
        """Begin to fetch teachers that will soon be asked, as many as have room beside the one asked last."""
        for language in list(dict.fromkeys(languages))[: self._most - 1]:
            self._bring(language, keep=next(reversed(self._resident), None))

    def _bring(self, language: str, keep: str | None = None) -> None:
        if language not in self._resident and len(self._resident) == self._most:
            leaving = next(other for other in self._resident if other != keep)
            del self._resident[leaving]
            self._teachers[leaving].to_host()
        if language not in self._resident:
            self._teachers[language].to_device()
        self._resident[language] = None
        self._resident.move_to_end(language)


class _Movable:
    """A teacher whose weights stay in the host's memory and have a copy on the device while it is there."""

    def __init__(self, teacher: BankTeacher, device: torch.device) -> None:
        self.teacher = teacher
        self._device = device
        self._moves = device.type != "cpu"
        self._copied: torch.cuda.Event | None = None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        tensors = [*teacher.parameters(), *teacher.buffers()]
        if device.type == "cuda":
            for tensor in tensors:
                tensor.data = tensor.data.pin_memory()
        self._on_host = [(tensor, tensor.data) for tensor in tensors]

    def to_device(self) -> None:
        """Begin to copy."""
        if not self._moves:
            return
        # The memory is the compute stream's, which alone will use and free it; the copy waits for what used it before.
        places = [torch.empty_like(home, device=self._device) for _, home in self._on_host]
        if self._stream is None:
            self._fill(places)
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            self._fill(places)
            self._copied = self._stream.record_event()

    def _fill(self, places: list[torch.Tensor]) -> None:
        for (tensor, home), place in zip(self._on_host, places, strict=True):
            place.copy_(home, non_blocking=True)
            tensor.data = place

    def wait(self) -> None:
        """What the device does from here on has the copy."""
        if self._copied is not None:
            torch.cuda.current_stream(self._device).wait_event(self._copied)

    def to_host(self) -> None:
        """Free the copy."""
        if not self._moves:
            return
        self.wait()
        for tensor, home in self._on_host:
            tensor.data = home


def load_bank(settings: Settings, device: torch.device) -> TeacherBank:
    """The teachers of a run, which look the way its student does.

    Raises:
        UserError: one cannot be loaded, naming its language.
    """
    objective, student, dtype = settings.objective, settings.model.given_llm, dtype_of(settings)
    attention = choose_attention(settings.model.attention, device, dtype)
    teachers = {
        language: _load(language, model, student, attention, dtype)
        for language, model in objective.teacher_models.items()
    }
    return TeacherBank(teachers, device, objective.most_teachers_on_device)


def teacher_llm(model: TeacherModel, student: LLMSettings) -> LLMSettings:
    """A teacher as settings of a language model."""
    return LLMSettings(
        name=model.name,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        bidirectional=student.bidirectional,
        max_length=student.max_length,
    )


def _load(language: str, model: TeacherModel, student: LLMSettings, attention: str, dtype: torch.dtype) -> BankTeacher:
    llm = teacher_llm(model, student)
    try:
        reader = LLMReader(load_llm(llm, attention, dtype))
        return BankTeacher(reader, load_output_head(llm, reader, dtype))
    except UserError as error:
        raise UserError(str(error).replace("model.llm", f"objective.teacher_of.{language}")) from error
