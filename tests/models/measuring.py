"""What a loaded LLM does, measured on its own weights and beside transformers: the truth that `models.probe` is held against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.data.stream.packing import pack_rows
from mtllm_ds.errors import UserError
from mtllm_ds.models.base_dropout import set_attention_dropout
from mtllm_ds.models.loading import load_llm
from mtllm_ds.models.packed import run_packed
from mtllm_ds.models.paired import layers_of
from mtllm_ds.models.text_models import embedding_size
from tests.fixtures.rounding import rounded_to_8_bits
from tests.models.families import Family

TEXT, NEXT_TEXT = (5, 9, 6, 7, 8), (3, 4, 9)


@dataclass(frozen=True)
class Measured:
    """One family, loaded as far as it may look."""

    model: Any
    looks_both_ways: bool
    ignores_padding: bool
    packs: bool
    takes_embeddings: bool
    has_own_dropout: bool
    takes_attention_dropout: bool
    takes_8_bits: bool


def load(folder: Path, bidirectional: bool, **more: Any) -> Any:
    settings = LLMSettings(name=str(folder), bidirectional=bidirectional, **more)
    return load_llm(settings, "sdpa", torch.float32).eval()


@torch.no_grad()
def measure(family: Family, folder: Path) -> Measured:
    """Load the family from `folder`, looking both ways where it is not refused that, and look at its states."""
    ways = not family.refused
    model = load(folder, bidirectional=ways)
    alone, changed = states(model, [TEXT]), states(model, [(*TEXT[:-1], 4)])
    padded = states(model, [TEXT, (*TEXT, 3, 3)])
    padded_changed = states(model, [(*TEXT[:-1], 4), (*TEXT, 3, 3)])
    plain_train = drawn(model)
    own_dropout = not torch.equal(*plain_train)
    places = set_attention_dropout(model, 0.5)
    dropped = drawn(model)
    set_attention_dropout(model, 0.0)
    return Measured(
        model=model,
        looks_both_ways=far(alone[0, 0], changed[0, 0]) and far(padded[0, 0], padded_changed[0, 0]),
        ignores_padding=not far(alone[0], padded[0, : len(TEXT)]),
        packs=_packs(model, alone[0]),
        takes_embeddings=_takes_embeddings(model),
        has_own_dropout=own_dropout,
        takes_attention_dropout=places > 0 and not torch.equal(*dropped),
        takes_8_bits=_takes_8_bits(folder, ways),
    )


def states(model: Any, texts: list[tuple[int, ...]]) -> torch.Tensor:
    """Final states of texts padded on the right, (B, S, D)."""
    width = max(map(len, texts))
    ids = torch.tensor([[*text, *[1] * (width - len(text))] for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts])
    return model(input_ids=ids, attention_mask=mask).last_hidden_state


def far(one: torch.Tensor, other: torch.Tensor) -> bool:
    return not torch.allclose(one, other, atol=2e-5, rtol=1e-4)


def drawn(model: Any) -> list[torch.Tensor]:
    """States in training under two draws of whatever is random."""
    model.train()
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(states(model, [TEXT]))
    model.eval()
    return found


def _packs(model: Any, alone: torch.Tensor) -> bool:
    lengths = np.array([len(NEXT_TEXT), len(TEXT)])
    layout = pack_rows(lengths, np.cumsum(lengths) - lengths, [0, 0])
    try:
        packed = run_packed(model, layout, input_ids=torch.tensor([[*NEXT_TEXT, *TEXT]]))[0]
    except (TypeError, ValueError, RuntimeError):
        return False
    first = states(model, [NEXT_TEXT])[0]
    return not far(packed[: len(NEXT_TEXT)], first) and not far(packed[len(NEXT_TEXT) :], alone)


def _takes_embeddings(model: Any) -> bool:
    torch.manual_seed(3)
    vectors = torch.randn(1, 4, embedding_size(model))
    try:
        model(inputs_embeds=vectors, attention_mask=torch.ones(1, 4, dtype=torch.int64))
    except RuntimeError:
        return False
    return True


def _takes_8_bits(folder: Path, ways: bool) -> bool:
    """Whether 8-bit weights give the states of a model whose layers' linear weights were rounded."""
    try:
        quantised = load(folder, ways, quantization="int8")
    except UserError:
        return False
    rounded = load(folder, ways)
    owner, name = layers_of(rounded)
    for part in owner.get_submodule(name).modules():
        if isinstance(part, torch.nn.Linear):
            part.weight.data = rounded_to_8_bits(part.weight)
    return torch.equal(states(quantised, [TEXT]), states(rounded, [TEXT]))
