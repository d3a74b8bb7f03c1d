"""What a family's output head does beside its matrix: measured at toy size against transformers' own logits, not believed.

Some families scale their logits, some cap them, and each calls it by a name of its own; other settings of that name do nothing. So
the family's whole model is built at toy size, and what its configuration says is tried until the head gives the model's logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch.nn import functional
from transformers import PretrainedConfig

from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.errors import UserError
from mtllm_ds.models.head_parts import entrance, head_class, parts_of
from mtllm_ds.models.probe import small_model
from mtllm_ds.models.quiet import quiet_transformers

_SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap", "softcap")
_LOUD = 10.0
"""Makes the toy's logits large enough for a cap to show."""


@dataclass(frozen=True)
class HeadProbe:
    """What becomes of a head's product."""

    scale: float
    softcap: float | None


def probe_head(settings: LLMSettings, config: PretrainedConfig) -> HeadProbe:
    """How a model of this configuration makes logits of its states.

    Raises:
        UserError: in another way than those that are known here.
    """
    text = config.get_text_config()
    head = head_class(settings, text)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), quiet_transformers():
        torch.manual_seed(0)
        try:
            states, logits, parts, weight = _run(small_model(head, text, False))
        except UserError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            raise UserError(
                f"model.llm.name={settings.name}: the head of a {text.model_type} model cannot be tried ({reason}); name another"
            ) from error
        read = parts.transform(states)
        for scale, softcap in product(_scales(text), (None, *_caps(text))):
            told = functional.linear(read * scale, weight, parts.bias)
            if softcap is not None:
                told = softcap * torch.tanh(told / softcap)
            if torch.allclose(told, logits, rtol=1e-4, atol=1e-4 * float(logits.abs().max())):
                return HeadProbe(scale, softcap)
    raise UserError(
        f"model.llm.name={settings.name}: the head of a {text.model_type} model does something to its logits that is not known "
        "here; name another"
    )


def _run(model: Any) -> tuple[torch.Tensor, torch.Tensor, Any, torch.Tensor]:
    """Final states and logits of some ids, and the head that lies between them."""
    weight, seen = model.get_output_embeddings().weight, []
    weight.mul_(_LOUD)
    hook = entrance(model).register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    logits = model(input_ids=torch.tensor([[5, 6, 7, 8, 9]])).logits
    hook.remove()
    return seen[0], logits, parts_of(model), weight


def _numbers(config: PretrainedConfig, names: tuple[str, ...]) -> Iterator[float]:
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            yield float(value)


def _scales(config: PretrainedConfig) -> list[float]:
    found = list(_numbers(config, _SCALES))
    return [1.0, *found, *(1 / value for value in found)]


def _caps(config: PretrainedConfig) -> list[float]:
    return list(_numbers(config, _CAPS))
