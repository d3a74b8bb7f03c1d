"""What a caller may ask of `generate`: transformers' own options, read strictly, sampling taken apart from the rest."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig, LogitsProcessor

from mtllm_ds.errors import UserError
from mtllm_ds.models.sampling import Sampling

_PASSED_ON = ("logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn")
_OURS = (
    "max_length", "num_return_sequences", "return_dict_in_generate", "pad_token_id", "use_cache", "output_scores", "output_logits",
    "output_attentions", "output_hidden_states",
)  # fmt: skip
_OTHER_SAMPLING = ("typical_p", "top_h", "epsilon_cutoff", "eta_cutoff", "watermarking_config")


@dataclass(frozen=True)
class GenerationOptions:
    """What to generate with."""

    config: GenerationConfig
    """Greedy or beams: drawing is left to the sampler."""
    sampling: Sampling | None
    """None: nothing is drawn."""
    passed_on: dict[str, Any]
    """Objects for `generate` itself, and None for what it would else take from the model's own settings again."""

    @property
    def max_new_tokens(self) -> int:
        return int(self.config.max_new_tokens)

    @property
    def stop_strings(self) -> list[str]:
        found = self.config.stop_strings or []
        return [found] if isinstance(found, str) else list(found)

    @property
    def are_rows_alone(self) -> bool:
        """Whether prompts are written one by one: only where a token can end a row does transformers keep a row as it ended while
        others go on."""
        return self.config.eos_token_id is None and bool(self.stop_strings or self.passed_on.get("stopping_criteria"))

    @property
    def processors(self) -> list[LogitsProcessor]:
        """The caller's own."""
        return list(self.passed_on.get("logits_processor") or [])


def read_options(model: Any, ends: list[int], max_new_tokens: int, given: Mapping[str, Any]) -> GenerationOptions:
    """The model's own generation settings (`generation_config.json`) with what was given over them.

    Raises:
        UserError: an option is unknown, without effect, or its value is refused by transformers.
    """
    for name in given:
        if name in _OURS:
            raise UserError(
                f"{name}: is not for the caller to set; leave it out, and set max_new_tokens for the length"
            )
    own = model.generation_config
    config = copy.deepcopy(own)
    config.max_length = None
    passed_on = {name: given[name] for name in _PASSED_ON if name in given}
    settings = {name: value for name, value in given.items() if name not in passed_on}
    for name in settings:
        if not hasattr(config, name) or name.startswith("_") or callable(getattr(config, name)):
            nearest = difflib.get_close_matches(name, [*vars(config), *_PASSED_ON], n=1, cutoff=0.0)[0]
            raise UserError(f"{name}={settings[name]}: generate has no such option; the nearest is '{nearest}'")
    config.update(eos_token_id=ends, max_new_tokens=max_new_tokens)
    config.update(**settings)
    passed_on |= {name: None for name, value in settings.items() if value is None and getattr(own, name) is not None}
    config.pad_token_id = (_end_tokens(config.eos_token_id) or ends)[0]  # a row ends at the first token that ends it
    beams = config.num_beams
    if beams is not None and (not isinstance(beams, int) or beams < 1):
        raise UserError(f"num_beams={beams}: not a whole number from 1 up; leave it out for none")
    sampling = _sampling(config, settings)
    try:
        config.validate(strict=True)
        if sampling is not None:
            sampling.warpers()
    except (ValueError, TypeError) as error:
        raise UserError(f"generate: {' '.join(str(error).split())[:300]}") from error
    return GenerationOptions(config, sampling, passed_on)


def _sampling(config: GenerationConfig, given: Mapping[str, Any]) -> Sampling | None:
    """Takes what belongs to drawing out of the settings."""
    asked = {name: getattr(config, name, None) for name in Sampling.NAMES}
    if config.do_sample:
        if (config.num_beams or 1) > 1:
            raise UserError(f"num_beams={config.num_beams}: beams are not drawn; leave out do_sample, or num_beams")
        for name in _OTHER_SAMPLING:
            if name in given:
                raise UserError(f"{name}={given[name]}: is not known to this sampler; use {', '.join(Sampling.NAMES)}")
    else:
        for name in Sampling.NAMES:
            if name in given:
                raise UserError(
                    f"{name}={given[name]}: has no effect without do_sample=True; add that, or leave it out"
                )
    sampling = Sampling(**{k: v for k, v in asked.items() if v is not None}) if config.do_sample else None
    config.do_sample = False
    for name in (*Sampling.NAMES, *_OTHER_SAMPLING):
        setattr(config, name, None)
    return sampling


def _end_tokens(given: Any) -> list[int]:
    """Tokens that end a response; none where None was asked for, as nothing but its length or a stop string then ends it."""
    if given is None:
        return []
    found = list(given) if isinstance(given, list | tuple) else [given]
    if not found or not all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in found):
        raise UserError(f"eos_token_id={given}: not a token id or several; leave it out, or set None to end at none")
    return found
