"""What a tokenizer's vocabulary says: which ids are special, which pieces begin a word, and whether two are the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtllm_ds.data.text.tokenization import TextTokenizer


@dataclass(frozen=True)
class Vocabulary:
    """The ids of a tokenizer. V is their number; `pieces` may leave some out."""

    pieces: dict[str, int]
    is_special: np.ndarray
    """(V,) bool: no piece of a text (the unknown token among them)"""
    continues_word: np.ndarray | None
    """(V,) bool: the piece goes on with the word of the piece before; None where pieces do not tell"""
    mask_id: int | None

    @property
    def size(self) -> int:
        return len(self.is_special)

    @property
    def hash(self) -> str:
        """sha256 of every piece and its id: texts tokenized with one of two vocabularies of one hash mean the same to the other."""
        canonical = json.dumps(sorted(self.pieces.items()), ensure_ascii=False)
        return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def vocabulary_of(tokenizer: TextTokenizer) -> Vocabulary:
    """The vocabulary of a tokenizer."""
    pretrained = tokenizer.pretrained
    pieces: dict[str, int] = pretrained.get_vocab()
    special = {*pretrained.all_special_ids, tokenizer.pad_id}
    special |= {i for i, token in pretrained.added_tokens_decoder.items() if token.special}
    is_special = np.zeros(tokenizer.vocab_size, bool)
    is_special[sorted(special)] = True
    return Vocabulary(pieces, is_special, _continues_word(pretrained, pieces, is_special), pretrained.mask_token_id)


def _continues_word(pretrained: Any, pieces: dict[str, int], is_special: np.ndarray) -> np.ndarray | None:
    """WordPiece marks pieces that go on (`##ing`); others mark those that begin a word, with the blank before it."""
    model = json.loads(pretrained.backend_tokenizer.to_str())["model"] if pretrained.is_fast else {}
    prefix = model.get("continuing_subword_prefix")
    found = np.zeros(len(is_special), bool)
    if prefix:
        found[[i for piece, i in pieces.items() if piece.startswith(prefix)]] = True
        return found
    beginnings = {blank: [i for piece, i in pieces.items() if piece.startswith(blank)] for blank in ("▁", "Ġ")}
    begin = max(beginnings.values(), key=len)
    if not begin:
        return None
    found[list(pieces.values())] = True
    found[begin] = False
    return found & ~is_special
