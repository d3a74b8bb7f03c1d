"""Which way a model's tokens look, what padding does and whether rows may be packed: measured, not believed.

A configuration can promise attention in both directions that its layers do not give: recurrent layers have one direction only,
and some families build a causal mask whatever `is_causal` says. What decides this is code and configuration, not weights. So the
model's own class is built at toy size (`small.py`) with random weights, in float32 on the CPU, and asked: a fraction of a second
at any model size, the same with partitioned weights, on every rank and in a dry run. A change of the last token then moves the
states at position 0, or it does not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from mtllm_ds.data.stream.packing import pack_rows
from mtllm_ds.models.base_dropout import set_attention_dropout, switch_off_dropout
from mtllm_ds.models.direction import set_direction
from mtllm_ds.models.packed import run_packed
from mtllm_ds.models.quiet import quiet_transformers
from mtllm_ds.models.small import small_config

_TEXT, _OTHER_END, _NEXT_TEXT, _PADDING = (5, 6, 7, 8), (5, 6, 7, 9), (9, 3, 4), (4, 4)
_MOST_PARAMETERS = 3_000_000
_NOISE = 1e-4
"""Differences below this share of the largest state are rounding."""


@dataclass(frozen=True)
class Probe:
    """What was found of one model, attending as asked."""

    model_class: str
    sees_end: bool = False
    """Position 0 sees the last token, in padded rows and in others."""
    one_way: tuple[str, ...] = ()
    """Parts of layers that pass something on from earlier tokens but nothing back from later ones."""
    ignores_padding: bool = False
    """Right padding changes no state of a text."""
    packs: bool = False
    """Texts in one row have the states that they have alone."""
    takes_embeddings: bool = False
    """It reads vectors that are no row of its own table, as a stack gives it."""
    drops_attention: bool = False
    """`set_attention_dropout` changes what it does in training."""
    failure: str = ""
    """Why nothing could be measured; empty otherwise."""

    @property
    def both_ways(self) -> bool:
        """Every token sees every other."""
        return self.sees_end and not self.one_way

    def __str__(self) -> str:
        if self.failure:
            return f"{self.model_class} could not be probed ({self.failure})"
        sight = "both ways" if self.both_ways else "back only"
        padding = "padding changes nothing" if self.ignores_padding else "padding changes states"
        packing = "rows can be packed" if self.packs else "rows cannot be packed"
        return f"{self.model_class}: tokens look {sight}, {padding}, {packing} (probed)"


_found: dict[tuple[type, str, bool], Probe] = {}


def probe(model_class: type[PreTrainedModel], config: PretrainedConfig, bidirectional: bool) -> Probe:
    """What a class of text model does with this configuration, asked to look both ways or left as it is; once a process."""
    key = (model_class, config.to_json_string(use_diff=False), bidirectional)
    if key not in _found:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), quiet_transformers():
            torch.manual_seed(0)
            try:
                _found[key] = _probe(small_model(model_class, config, bidirectional))
            except Exception as error:
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
                _found[key] = Probe(model_class.__name__, failure=reason)
    return _found[key]


def _probe(model: PreTrainedModel) -> Probe:
    alone = _states(model, [_TEXT, _OTHER_END])
    text, other_end = alone
    padded, padded_other_end, _ = _states(model, [_TEXT, _OTHER_END, (*_TEXT, *_PADDING)])
    if not torch.isfinite(padded).all():
        raise ValueError("its states are not finite at toy size")
    return Probe(
        type(model).__name__,
        sees_end=_differ(text[0], other_end[0]) and _differ(padded[0], padded_other_end[0]),
        one_way=tuple(sorted(_one_way_parts(model))),
        ignores_padding=not _differ(padded[: len(_TEXT)], text),
        packs=_packs(model, text),
        takes_embeddings=_takes_embeddings(model, alone),
        drops_attention=_drops_attention(model),
    )


def small_model(model_class: type[PreTrainedModel], config: PretrainedConfig, bidirectional: bool) -> PreTrainedModel:
    """A model of this class at toy size, random weights, attending as asked."""
    small: Any = small_config(config)
    small.use_cache = False
    small._attn_implementation = "sdpa" if model_class._supports_sdpa else "eager"
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in model_class(copy.deepcopy(small)).parameters())
    if size > _MOST_PARAMETERS:
        raise ValueError(f"{size:,} parameters at toy size")
    # The constructor, as `from_config` would partition it under ZeRO-3.
    model = model_class(small).float().eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:  # norms, gates and decays keep their start
            nn.init.normal_(parameter, std=0.1)
    set_direction(model, bidirectional)
    return model


def _states(model: Any, texts: Sequence[tuple[int, ...]]) -> torch.Tensor:
    """Final states (B, S, D) of texts padded on the right."""
    width = max(map(len, texts))
    ids = torch.tensor([[*text, *_PADDING[: width - len(text)]] for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts])
    return model(input_ids=ids, attention_mask=mask).last_hidden_state


def _differ(one: torch.Tensor, other: torch.Tensor) -> bool:
    return float((one - other).abs().max()) > _NOISE * float(one.abs().max())


def _packs(model: PreTrainedModel, alone: torch.Tensor) -> bool:
    rows = (_TEXT, _NEXT_TEXT)
    lengths = np.array([len(row) for row in rows])
    layout = pack_rows(lengths, np.cumsum(lengths) - lengths, [0, 0])
    ids = layout.gather(torch.tensor([token for row in rows for token in row]))
    try:
        packed = run_packed(model, layout, input_ids=ids)[0]
    except Exception:
        return False
    (second,) = _states(model, [_NEXT_TEXT])
    return not _differ(packed[: lengths[0]], alone) and not _differ(packed[lengths[0] :], second)


def _takes_embeddings(model: Any, text: torch.Tensor) -> bool:
    try:
        out = model(inputs_embeds=torch.randn_like(text), attention_mask=torch.ones(text.shape[:2], dtype=torch.int64))
    except Exception:
        return False
    return out.last_hidden_state.shape == text.shape


def _drops_attention(model: PreTrainedModel) -> bool:
    switch_off_dropout(model)
    set_attention_dropout(model, 0.5)
    one, other = (_states(model.train(), [_TEXT]) for _ in range(2))
    return _differ(one, other)


def _one_way_parts(model: nn.Module) -> set[str]:
    """Classes of the innermost modules that look back only, in a padded row or in a row without padding.

    Every module that takes hidden states runs again on the inputs it had, with one token changed: the first, the last, or a
    neighbour, as convolutions reach no further.
    """
    found = {}
    for texts in ([_TEXT], [_TEXT, (*_TEXT, *_PADDING)]):
        for name, part, states, run in _calls(model, texts):
            before = run(states)
            if before.shape[:2] == states.shape[:2] and _is_one_way(run, states, before):
                found[name] = type(part).__name__
    return {kind for name, kind in found.items() if not any(other.startswith(f"{name}.") for other in found)}


def _is_one_way(run: Callable[[torch.Tensor], torch.Tensor], states: torch.Tensor, before: torch.Tensor) -> bool:
    first, neighbour, last = 0, 1, len(_TEXT) - 1

    def moved(source: int, *targets: int) -> bool:
        after = run(_changed(states, source))
        return any(_differ(before[0, target], after[0, target]) for target in targets)

    return moved(first, neighbour, last) and not (moved(neighbour, first) or moved(last, first))


def _calls(model: nn.Module, texts: Sequence[tuple[int, ...]]) -> list[tuple[str, nn.Module, torch.Tensor, Callable]]:
    """Each call of a module with hidden states (B, S, D): name, module, states, and a function that runs it on others."""
    calls = []

    def keep(name: str, part: nn.Module, given: tuple, named: dict[str, Any]) -> None:
        states = given[0] if given else named.get("hidden_states")
        if not isinstance(states, torch.Tensor) or states.ndim != 3:
            return

        def run(other: torch.Tensor) -> torch.Tensor:
            out = (
                part.forward(other, *given[1:], **named) if given else part.forward(**named | {"hidden_states": other})
            )
            return out if isinstance(out, torch.Tensor) else out[0]

        calls.append((name, part, states, run))

    parts = [(name, part) for name, part in model.named_modules() if name and next(part.children(), None) is not None]
    hooks = [part.register_forward_pre_hook(partial(keep, name), with_kwargs=True) for name, part in parts]
    _states(model, texts)
    for hook in hooks:
        hook.remove()
    return calls


def _changed(states: torch.Tensor, position: int) -> torch.Tensor:
    changed = states.clone()
    changed[0, position] += torch.linspace(-1, 1, states.shape[-1])
    return changed
