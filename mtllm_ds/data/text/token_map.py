"""From the pieces of one tokenizer to those of another: the same letters in the same place of a word are the same piece.

Byte-level pieces are compared by the text that their bytes spell, word beginnings by what marks them (`Ġ`, `▁`, or that `##` is
absent), all in Unicode's form NFC. Special tokens meet by what they are for. A piece that only one side has maps to nothing.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtllm_ds.data.text.tokenization import TextTokenizer
from mtllm_ds.data.text.vocabulary import Vocabulary, vocabulary_of

Key = tuple[str, str]
_ROLES = (("mask",), ("pad",), ("unk",), ("cls", "bos"), ("sep", "eos"))


@dataclass(frozen=True)
class TokenMap:
    """For each of the V ids of one tokenizer the id of another."""

    tells: np.ndarray
    """(V,) int64, -1 where the other has no such piece; no id of the other stands twice"""
    reads: np.ndarray
    """(V,) int64, what the other reads in place of each: its unknown token where it has no such piece"""

    @property
    def num_matched(self) -> int:
        return int((self.tells >= 0).sum())

    def coverage(self, ids: np.ndarray) -> float:
        """Share of some ids that the other has too."""
        return float((self.tells[ids] >= 0).mean()) if len(ids) else 0.0


def map_tokens(student: TextTokenizer, teacher: TextTokenizer) -> TokenMap:
    """What the student's ids are to the teacher."""
    own, other = vocabulary_of(student), vocabulary_of(teacher)
    theirs: dict[Key, int] = {}
    for key, token_id in _keys(teacher, other):
        theirs.setdefault(key, token_id)
    tells = np.full(own.size, -1, np.int64)
    taken: set[int] = set()
    for key, token_id in _keys(student, own):
        found = theirs.get(key)
        if found is not None and found not in taken:
            tells[token_id] = found
            taken.add(found)
    unknown = next(i for i in (teacher.unknown_id, other.mask_id, teacher.pad_id) if i is not None)
    return TokenMap(tells, np.where(tells >= 0, tells, unknown))


def _keys(tokenizer: TextTokenizer, vocabulary: Vocabulary) -> list[tuple[Key, int]]:
    """What each piece is, by ascending id."""
    spelled = _spelling(tokenizer.pretrained)
    roles = _roles(tokenizer.pretrained)
    found = []
    for piece, token_id in sorted(vocabulary.pieces.items(), key=lambda pair: pair[1]):
        if token_id in roles:
            found.append((("role", roles[token_id]), token_id))
        elif not vocabulary.is_special[token_id] and (key := spelled(piece)) is not None:
            found.append((key, token_id))
    return found


def _roles(pretrained: Any) -> dict[int, str]:
    """What special ids are for; the token that begins a text is [CLS] or <s>, whatever it is called."""
    found: dict[int, str] = {}
    for names in _ROLES:
        ids = [getattr(pretrained, f"{name}_token_id", None) for name in names]
        for token_id in ids:
            if token_id is not None and names[0] not in found.values():
                found.setdefault(token_id, names[0])
    return found


def _spelling(pretrained: Any) -> Callable[[str], Key | None]:
    """How a piece of this tokenizer is spelled: ("begins" or "goes on", text)."""
    state = json.loads(pretrained.backend_tokenizer.to_str()) if pretrained.is_fast else {}
    prefix = state.get("model", {}).get("continuing_subword_prefix")
    if prefix:
        return lambda piece: _key(not piece.startswith(prefix), piece.removeprefix(prefix))
    if '"ByteLevel"' in json.dumps([state.get("pre_tokenizer"), state.get("decoder")]):
        return _byte_level
    return lambda piece: _key(piece.startswith("▁"), piece.removeprefix("▁"))


def _byte_level(piece: str) -> Key | None:
    try:
        text = bytes(_BYTES[character] for character in piece).decode("utf-8")
    except (KeyError, UnicodeDecodeError):  # a part of a character has no spelling
        return None
    return _key(text.startswith(" "), text.removeprefix(" "))


def _key(begins: bool, text: str) -> Key:
    return ("begins" if begins else "goes on", unicodedata.normalize("NFC", text))


def _byte_alphabet() -> dict[str, int]:
    """The characters that byte-level tokenizers write for bytes, as GPT-2 does."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _byte_alphabet()
