"""Whether a run's teachers, one per language, fit its student and its data; nothing of their weights is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mtllm_ds.cluster.agree import is_main_rank
from mtllm_ds.config.data import DataSettings
from mtllm_ds.config.names import lasting_name
from mtllm_ds.config.objective import BankSettings
from mtllm_ds.config.schema import Settings
from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.data.columns import LLM_IDS
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.stream.block_cache import readable_blocks
from mtllm_ds.data.text.token_map import TokenMap
from mtllm_ds.data.text.vocabulary import vocabulary_of
from mtllm_ds.errors import UserError
from mtllm_ds.models.checks import require_room
from mtllm_ds.models.loading import base_fingerprint, llm_config
from mtllm_ds.preflight.start import Bases
from mtllm_ds.teachers.bank import teacher_llm
from mtllm_ds.teachers.outputs import Outputs, outputs_of

_BLOCKS_READ = 8
"""Of each language, to see how much of its text a teacher's vocabulary has."""


@dataclass(frozen=True)
class CheckedBank:
    """Teachers that fit."""

    bases: Bases = field(default_factory=dict)
    """Name, revision and fingerprint by `teacher_of.CODE`"""
    lines: tuple[str, ...] = ()
    """A line for each: who it is, and how its vocabulary meets the student's"""


def check_bank(settings: Settings, manifests: Sequence[Manifest]) -> CheckedBank:
    """The run's teachers, none where its objective has none.

    Raises:
        UserError: a language without teacher or samples, or a teacher whose vocabulary the student's does not meet.
    """
    bank = settings.objective.bank
    if bank is None:
        return CheckedBank()
    _check_languages(bank, manifests)
    student, checked = outputs_of(settings.model.given_llm), CheckedBank()
    longest = max(int(manifest.llm_lengths.max(initial=0)) for manifest in manifests)
    lines = []
    for language, model in bank.models.items():
        where, llm = f"objective.teacher_of.{language}", teacher_llm(model, settings.model.given_llm)
        teacher, fingerprint = _found(where, llm, longest)
        checked.bases[f"teacher_of.{language}"] = {
            "name": lasting_name(llm.name), "revision": llm.revision, "fingerprint": fingerprint,
        }  # fmt: skip
        met = _met(f"{where}={llm.name}", student, teacher, settings, manifests[0], language)
        lines.append(f"teacher of {language}: {llm.name}, {fingerprint}{met}")
    return CheckedBank(checked.bases, tuple(lines))


def _found(where: str, llm: LLMSettings, longest: int) -> tuple[Outputs, str]:
    if (Path(llm.name) / "checkpoints").is_dir():
        raise UserError(
            f"{where}={llm.name}: it is a run; name the folder that `mtllm-ds export {llm.name} FOLDER` writes"
        )
    try:
        found = outputs_of(llm)
        if not found.is_own_code:
            require_room(llm, llm_config(llm), longest)
        return found, base_fingerprint(llm)
    except UserError as error:
        message = str(error).replace("model.llm.name", where).replace("model.llm", where)
        raise UserError(message if where in message else f"{where}: {message}") from error


def _met(where: str, student: Outputs, teacher: Outputs, settings: Settings, train: Manifest, language: str) -> str:
    if teacher.vocabulary == student.vocabulary:
        return ""
    bank = settings.objective.bank
    assert bank is not None
    if bank.min_coverage is None:
        raise UserError(
            f"{where}: its vocabulary is not the student's; take a teacher that was trained with the same tokenizer, or set "
            "objective.min_coverage, such as 0.8, to learn through the pieces that both have"
        )
    tokens = student.meet(teacher)
    assert tokens is not None
    if not is_main_rank():  # once per run: it reads blocks of every language
        return ""
    covered = _coverage(tokens, vocabulary_of(student.tokenizer).is_special, train, language, settings.data)
    if covered < bank.min_coverage:
        raise UserError(
            f"{where}: its vocabulary has {covered:.1%} of the tokens of {language}, less than objective.min_coverage="
            f"{bank.min_coverage}; take a teacher with a tokenizer like the student's, or lower it"
        )
    return f"; it has {covered:.1%} of the text's tokens, {tokens.num_matched:,} of {student.size:,} pieces"


def _coverage(tokens: TokenMap, is_special: np.ndarray, manifest: Manifest, language: str, data: DataSettings) -> float:
    """Share of a language's tokens that the map has, by some of its blocks, spread evenly.

    Of pieces of the text alone: the tokens around a text are in every map, and would hide what is missing in short lines.
    """
    blocks = np.flatnonzero(manifest.index.language == manifest.languages.index(language))
    chosen = blocks[np.linspace(0, len(blocks) - 1, min(len(blocks), _BLOCKS_READ)).astype(np.int64)]
    readable = readable_blocks(manifest, chosen.tolist(), data.on_error, data.max_skipped_share)
    rows: list[Any] = [block[LLM_IDS] for block in readable]
    ids = np.concatenate([ragged.values for ragged in rows]).astype(np.int64)
    return tokens.coverage(ids[~is_special[ids]])


def _check_languages(bank: BankSettings, manifests: Sequence[Manifest]) -> None:
    for name, manifest in zip(("data.train", "data.validation"), manifests, strict=False):
        place = manifest.storage.root
        counts = dict(zip(manifest.languages, manifest.samples_of_language.tolist(), strict=True))
        if missing := [code for code in manifest.languages if code not in bank.models]:
            raise UserError(
                f"objective.teacher_of: no teacher for {', '.join(missing)}, which {name}={place} holds; name one, or leave "
                "its text out"
            )
        empty = [code for code in bank.models if not counts.get(code)]
        if name == "data.train" and empty:
            raise UserError(
                f"objective.teacher_of.{empty[0]}: {name}={place} holds no sample of {', '.join(empty)}; add text, or leave the "
                "teacher out"
            )
