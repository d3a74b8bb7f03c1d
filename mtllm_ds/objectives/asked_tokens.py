"""Which tokens of a text a language model is asked for: masked ones, or every next one. Draws are made where the batch is.

What is drawn is a function of (step seed, sample, position): the same bits on any device, in any batch,
on any ranks, after a resume.
How many tokens are asked for the host works out before the batch leaves it, so that no forward waits for the device.

Shapes: B samples of S tokens, padded; V ids.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.data.text.vocabulary import Vocabulary
from mtllm_ds.errors import UserError
from mtllm_ds.tensor_draws import seeds_of

LONGEST_WORD = 8
"""Pieces that are masked together: in a script without blanks a sentence would be one word."""
_LAST = torch.iinfo(torch.int64).max
_PARTS = 2**30
"""A draw as a number in [0, 1) is one of so many."""
_WHICH, _HOW, _WHAT, _WHETHER = 0, 1, 2, 3
"""Streams of draws: which words are masked, what becomes of a masked token, which random token takes its place, and whether the
word at the end of the share is masked too."""


class Draw(NamedTuple):
    """What the draws of a forward depend on, beside sample and position."""

    step_seed: int | None
    """None in validation, where a sample's masks are always the same"""
    mask_share: float


class Shown(NamedTuple):
    """What a model reads, and what it is asked for."""

    ids: torch.Tensor
    """(B, S) int64 that student and teacher read"""
    asked: torch.Tensor
    """(B, S) bool, tokens that they are to tell"""


class AskedTokens(nn.Module, ABC):
    """A way of asking."""

    back: int
    """The state so many places before a token tells it"""

    @abstractmethod
    def numbers(self, batch: Batch, draw: Draw) -> list[int]:
        """(B,) how many tokens of each row are asked for, 0 where it is not valid."""

    @abstractmethod
    def shown(self, batch: Batch, draw: Draw) -> Shown:
        """What of a batch is read and asked for; rows that are not valid are asked for nothing."""


class NextTokens(AskedTokens):
    """Every token but a text's first."""

    back = 1

    def numbers(self, batch: Batch, draw: Draw) -> list[int]:
        return [max(0, length - 1) for length in batch.host.num_tokens["llm"]]

    def shown(self, batch: Batch, draw: Draw) -> Shown:
        asked = batch.llm_mask.bool() & batch.valid[:, None]
        asked[:, 0] = False
        return Shown(batch.llm_ids, asked)


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How tokens are masked: BERT's 80/10/10 (Devlin et al., NAACL 2019, arXiv 1810.04805) unless said otherwise."""

    mask_token_share: float = 0.8
    random_token_share: float = 0.1
    whole_words: bool = False


class MaskedTokens(AskedTokens):
    """A share of a text's tokens, at least one; special tokens never.

    Words come in random order and are masked up to the share. Where a word lies across its end, so many of its tokens as lie before
    it, out of all its tokens, are the chance that it is masked: in expectation the share is exact, though a text may be asked for
    some tokens more or fewer, and for none. Without `whole_words` every token is a word, and the share is rounded to tokens.
    """

    back = 0

    def __init__(self, vocabulary: Vocabulary, masking: Masking) -> None:
        """Raises `UserError` where the vocabulary has no mask token, or does not tell words apart."""
        super().__init__()
        if vocabulary.mask_id is None:
            raise UserError(
                "model.llm.name: its tokenizer has no mask token; name a masked language model, or set "
                "model.llm.bidirectional=false for a causal one"
            )
        if masking.whole_words and vocabulary.continues_word is None:
            raise UserError(
                "objective.whole_words=true: this tokenizer does not tell where a word begins; set it to false"
            )
        self.masking, self.mask_id = masking, vocabulary.mask_id
        continues = vocabulary.continues_word if masking.whole_words else np.zeros(vocabulary.size, bool)
        tables = {
            "is_special": torch.from_numpy(vocabulary.is_special),
            "continues_word": torch.from_numpy(continues),
            "ordinary_ids": torch.from_numpy(np.flatnonzero(~vocabulary.is_special)),
        }
        self._on_host = dict(tables)
        for name, table in tables.items():
            self.register_buffer(name, table.clone(), persistent=False)

    def numbers(self, batch: Batch, draw: Draw) -> list[int]:
        maskable = self._maskable(batch)
        if not self.masking.whole_words:  # then the lengths tell, and nothing need be drawn
            return self._wanted(maskable, draw.mask_share)[:, 0].long().tolist()
        return self._masked(batch, maskable, draw).sum(1).tolist()

    def shown(self, batch: Batch, draw: Draw) -> Shown:
        ids, masked = batch.llm_ids, self._masked(batch, self._maskable(batch), draw)
        how = _uniform(self._draws(batch, draw, _HOW))
        other = self._draws(batch, draw, _WHAT) % len(self._table("ordinary_ids", ids))
        by_mask = self.masking.mask_token_share
        shown = ids.masked_fill(masked & (how < by_mask), self.mask_id)
        is_random = masked & (how >= by_mask) & (how < by_mask + self.masking.random_token_share)
        return Shown(torch.where(is_random, self._table("ordinary_ids", ids)[other], shown), masked)

    def _maskable(self, batch: Batch) -> torch.Tensor:
        """(B, S) bool"""
        special = self._table("is_special", batch.llm_ids)[batch.llm_ids]
        return batch.llm_mask.bool() & batch.valid[:, None] & ~special

    def _masked(self, batch: Batch, maskable: torch.Tensor, draw: Draw) -> torch.Tensor:
        """(B, S) bool"""
        places = torch.arange(maskable.shape[1], device=maskable.device).expand_as(maskable)
        begins = self._word_begins(batch.llm_ids, maskable, places)
        keys = self._draws(batch, draw, _WHICH).gather(1, begins).masked_fill(~maskable, _LAST)
        # A word's tokens have one key and so stay together, in their order.
        order = keys.argsort(dim=1, stable=True)
        rank = torch.empty_like(order).scatter_(1, order, places)
        left = self._wanted(maskable, draw.mask_share) - (rank - (places - begins))
        if not self.masking.whole_words:
            return maskable & (left > 0)
        sizes = torch.zeros_like(places).scatter_add(1, begins, maskable.long()).gather(1, begins)
        chances = _uniform(self._draws(batch, draw, _WHETHER)).gather(1, begins)
        return maskable & (chances * sizes < left)

    def _wanted(self, maskable: torch.Tensor, share: float) -> torch.Tensor:
        """(B, 1) float64 tokens to mask: the share, but at least one where there is any; rounded where tokens come one by one."""
        there = maskable.sum(1, keepdim=True).double()
        wanted = there * share
        return torch.minimum(there, (wanted if self.masking.whole_words else (wanted + 0.5).floor()).clamp(min=1))

    def _word_begins(self, ids: torch.Tensor, maskable: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """(B, S) int64 where the word of each token begins."""
        before = nn.functional.pad(maskable, (1, 0))[:, :-1]
        goes_on = maskable & before & self._table("continues_word", ids)[ids]
        begins = places.masked_fill(goes_on, 0).cummax(1).values
        return places - (places - begins) % LONGEST_WORD

    def _draws(self, batch: Batch, draw: Draw, stream: int) -> torch.Tensor:
        """(B, S) int64 in [0, 2**63)."""
        device = batch.llm_ids.device
        places = torch.arange(batch.llm_ids.shape[1], device=device)
        step = () if draw.step_seed is None else (draw.step_seed,)
        return seeds_of(*step, batch.sample_ids[:, None], places[None], stream, device=device)

    def _table(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """A table of the vocabulary where the batch is."""
        return self._on_host[name] if like.device.type == "cpu" else getattr(self, name)


def _uniform(draws: torch.Tensor) -> torch.Tensor:
    """Numbers in [0, 1), exact in float32 and so the same on any device."""
    return (draws % _PARTS).double() / _PARTS
