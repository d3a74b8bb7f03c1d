"""Everything that decides a folder of dialogues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mtllm_ds.data.text.chat import ChatSettings
from mtllm_ds.errors import UserError
from mtllm_ds.transfer_sets.sdrrl.chat_model import Generation
from mtllm_ds.transfer_sets.sdrrl.instructions import SelfInstructions
from mtllm_ds.transfer_sets.sdrrl.pairs import TEXT_TYPES, PairSettings
from mtllm_ds.transfer_sets.translation.mt_model import GREEDY, Decoding

TRANSLATOR, ALIGNED = "translator", "aligned"
"""Lexicons that are no files"""


@dataclass(frozen=True, kw_only=True)
class SdrrlSettings:
    """Everything that decides the dialogues."""

    llm: str
    revision: str | None = None
    trust_remote_code: bool = False
    chat: ChatSettings = field(default_factory=ChatSettings)
    dtype: torch.dtype = torch.float32
    instructions: tuple[str, ...] = ()
    """Files; without one the model writes its own, as `self_instructions` says."""
    instruction_field: str = "prompt"
    num_instructions: int | None = None
    """The first so many of the files."""
    gold_field: str | None = None
    """Field of the answers that stand in place of the model's own: translate-then-tune, SDRRL's rival."""
    self_instructions: SelfInstructions | None = None
    exclusion_list: str | None = None
    check_language: bool = True
    generation: Generation
    """Of answers."""
    batch_size: int = 16
    keep_sentences: bool = False
    """Of an answer that was cut off, keep the whole sentences."""
    translators: Mapping[str, str]
    """By language: `command:...` or an MT model"""
    decoding: Decoding = GREEDY
    time_out_seconds: float = 600.0
    lexicons: Mapping[str, str] = field(default_factory=dict)
    parallel: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pairs: PairSettings
    seed: int = 0

    def __post_init__(self) -> None:
        if bool(self.instructions) == (self.self_instructions is not None):
            raise UserError("--instructions: give files, or --self-instructions N; one of the two")
        if self.num_instructions is not None and self.self_instructions is not None:
            raise UserError(
                "--num-instructions: has no effect on --self-instructions, which names a number itself; remove it"
            )
        if self.gold_field is not None and self.self_instructions is not None:
            raise UserError(
                f"--gold-field={self.gold_field}: has no effect on --self-instructions, which nobody has answered; remove it"
            )
        if not self.translators:
            raise UserError("--translator: no language to translate into; give --translator CODE=command:'PROGRAM ...'")
        if self.chat.plain:
            raise UserError("--plain: a chat model answers by a chat template; leave it out")
        self._check_material("--lexicon", self.lexicons, ("code_switched",))
        aligned = any(given == ALIGNED for given in self.lexicons.values())
        self._check_material("--parallel", self.parallel, TEXT_TYPES, used=aligned)

    def _check_material(self, option: str, given: Mapping[str, Any], types: Sequence[str], used: bool = False) -> None:
        """Every language has what a type of pairs needs, and nothing is given that no type reads."""
        asked = [name for name in types if name in self.pairs.types]
        missing = [code for code in self.translators if code not in given]
        if asked and missing:
            raise UserError(f"--pairs {asked[0]}: needs {option} {missing[0]}=...; give it, or a weight of 0")
        if given and not asked and not used:
            raise UserError(f"{option}: has no effect without a weight of {' or '.join(types)} in --pairs; remove it")
        if unknown := [code for code in given if code not in self.translators]:
            raise UserError(
                f"{option} {unknown[0]}=...: there is no --translator of this language; give one, or remove it"
            )
