"""One teacher per language, of which a few are on the device at a time.

A bank's teachers are no part of the module that the engine wraps: under ZeRO-3 ranks that hold different languages would gather
different weights, and wait for each other for ever. Each rank keeps its teachers whole, those that it does not need in the host's
memory; or ranks hold shares of them, and agree in each forward whom to gather.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable

import numpy as np
import torch
from torch import nn

from mtllm_ds.cluster.agree import anywhere
from mtllm_ds.config.objective import TeacherModel
from mtllm_ds.config.schema import Settings
from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.data.text.token_map import TokenMap
from mtllm_ds.errors import UserError
from mtllm_ds.models.build import dtype_of
from mtllm_ds.models.lm_head import OutputHead, load_output_head
from mtllm_ds.models.loading import choose_attention, load_llm
from mtllm_ds.models.own_code import OwnCodeModel, load_own_code
from mtllm_ds.models.readers import LLMReader
from mtllm_ds.step_parts import in_part
from mtllm_ds.teachers.outputs import outputs_of
from mtllm_ds.teachers.storage import InShares, OnHost, Storage


class BankTeacher(nn.Module):
    """A frozen language model and, where its logits are not the student's one by one, the map to it."""

    reads: torch.Tensor
    """(V,) int64 what it reads in place of each of the student's ids; there with a map only, as are the next two"""
    own: torch.Tensor
    """(A,) int64 the student's ids of the tokens that both have"""
    theirs: torch.Tensor
    """(A,) int64 its own ids of those"""

    def __init__(
        self, model: LLMReader | OwnCodeModel, head: OutputHead | None, tokens: TokenMap | None = None, num_logits: int = 0
    ) -> None:  # fmt: skip
        """
        Args:
            model: with its own code, the whole model; else its body
            head: of a body
            tokens: None: its logits are the student's
            num_logits: of the student, whose ids `tokens` maps
        """
        super().__init__()
        self.model, self.head = model, head
        self.is_mapped = tokens is not None
        if tokens is not None:
            own = np.flatnonzero(tokens.tells >= 0)
            self.has_rest = len(own) < num_logits
            for name, table in (("reads", tokens.reads), ("own", own), ("theirs", tokens.tells[own])):
                self.register_buffer(name, torch.from_numpy(table), persistent=False)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def answers(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What it makes of the student's ids (B, S) int64 and their mask: states (B, S, D), without a head logits (B, S, V)."""
        with in_part("teacher"):
            read = self.reads[ids] if self.is_mapped else ids
            if isinstance(self.model, OwnCodeModel):
                return self.model.logits(read, mask)
            return self.model.states(read, mask)


class TeacherBank:
    """Teachers by language code; the least recently used one gives way on the device."""

    def __init__(
        self,
        teachers: Iterable[tuple[str, BankTeacher]],
        device: torch.device,
        on_device: int | None = None,
        *,
        in_shares: bool = False,
    ) -> None:
        """
        Args:
            teachers: by language code; each is put away before the next is asked for, so that they may be loaded one by one
            on_device: most teachers whole on the device; None: all
            in_shares: ranks hold each teacher between them
        """
        store = InShares if in_shares else OnHost
        self._teachers: dict[str, BankTeacher] = {}
        self._stored: dict[str, Storage] = {}
        for language, teacher in teachers:
            self._teachers[language], self._stored[language] = teacher, store(teacher, device)
        self._in_shares, self._device = in_shares, device
        self._most = on_device or len(self._teachers)
        self._resident: OrderedDict[str, None] = OrderedDict()

    @property
    def resident(self) -> tuple[str, ...]:
        """Languages whose teachers are on the device, the least recently used first."""
        return tuple(self._resident)

    def asked(self, languages: Collection[str]) -> list[str]:
        """Whose teachers a forward must ask, in order: those of its own languages and, where teachers are in shares, of all ranks'.

        Once per forward. In shares the host waits for an all-reduce.
        """
        if not self._in_shares:
            return list(languages)
        wanted = anywhere([language in languages for language in self._teachers], self._device)
        return [language for language, is_wanted in zip(self._teachers, wanted, strict=True) if is_wanted]

    def teacher(self, language: str) -> BankTeacher:
        """The teacher of a language, on the device from now on until others take its place."""
        self._bring(language)
        self._stored[language].wait()
        return self._teachers[language]

    def expect(self, languages: Iterable[str]) -> None:
        """Begin to fetch teachers that will soon be asked, as many as have room beside the one asked last; none from shares, as
        other ranks do not know of them."""
        if not self._in_shares:
            for language in list(dict.fromkeys(languages))[: self._most - 1]:
                self._bring(language)

    def _bring(self, language: str) -> None:
        if language not in self._resident:
            if len(self._resident) == self._most:
                self._stored[self._resident.popitem(last=False)[0]].release()
            self._stored[language].bring()
        self._resident[language] = None
        self._resident.move_to_end(language)


def load_bank(settings: Settings, device: torch.device) -> TeacherBank | None:
    """The teachers of a run, which look the way its student does; None where it has none.

    Raises:
        UserError: one cannot be loaded, naming its language.
    """
    bank, llm, dtype = settings.objective.bank, settings.model.given.get("llm"), dtype_of(settings)
    if bank is None:
        return None
    assert isinstance(llm, LLMSettings)
    attention, student = choose_attention(settings.model.attention, device, dtype), outputs_of(llm)

    def load(language: str, model: TeacherModel) -> BankTeacher:
        own = teacher_llm(model, llm)
        try:
            outputs = outputs_of(own)
            tokens = student.meet(outputs)
            if outputs.is_own_code:
                return BankTeacher(load_own_code(own, dtype), None, tokens, student.size)
            reader = LLMReader(load_llm(own, attention, dtype))
            return BankTeacher(reader, load_output_head(own, reader, dtype), tokens, student.size)
        except UserError as error:
            raise UserError(str(error).replace("model.llm", f"objective.teacher_of.{language}")) from error

    teachers = ((language, load(language, model)) for language, model in bank.models.items())
    return TeacherBank(teachers, device, bank.on_device, in_shares=bank.in_shares)


def teacher_llm(model: TeacherModel, student: LLMSettings) -> LLMSettings:
    """A teacher as settings of a language model."""
    return LLMSettings(
        name=model.name,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        bidirectional=student.bidirectional,
        max_length=student.max_length,
    )
