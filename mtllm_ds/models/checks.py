"""Whether the LLM of a run can do what the run asks of it, from its configuration and a probe: no weight is loaded."""

from __future__ import annotations

import copy

import torch
from transformers import PretrainedConfig

from mtllm_ds.config.sections import LLMSettings, ModelSettings
from mtllm_ds.errors import UserError
from mtllm_ds.models.from_scratch import draw_weights
from mtllm_ds.models.int8_trial import require_int8
from mtllm_ds.models.lora import require_modules
from mtllm_ds.models.packed import require_packing
from mtllm_ds.models.probe import Probe
from mtllm_ds.models.room import num_positions
from mtllm_ds.models.text_models import probe_llm, text_model_class


def check_llm(
    model: ModelSettings, config: PretrainedConfig, *, packed: bool, longest_row: int | None = None
) -> Probe | None:
    """What was found of the LLM; None where the reader does without one.

    `longest_row`: most tokens of a sample that it reads, the longest side's where None.

    Raises:
        UserError: it cannot look the way the settings say, read what the reader gives it, be packed, or attend as asked.
    """
    if "llm" not in model.sides:
        return None
    text = config.get_text_config()
    if model.given_llm.from_scratch:
        with torch.device("meta"):
            draw_weights(text_model_class(text, model.given_llm), text, 0, torch.float32, attn_implementation="eager")
    found = probe_llm(model.given_llm, config)
    if model.reader == "stacked" and not found.failure and not found.takes_embeddings:
        raise UserError(
            f"model.reader=stacked: {model.given_llm.name} is a {text.model_type} model whose layers look up ids of their own, "
            "so it cannot read an encoder's states; name another model"
        )
    if model.given_llm.quantization == "int8":
        require_int8(text_model_class(text, model.given_llm), text, model.given_llm.bidirectional)
    if model.attention == "sdpa" and not text_model_class(text, model.given_llm)._supports_sdpa:
        raise UserError(
            f"model.attention=sdpa: transformers has none for a {text.model_type} model; set model.attention=auto"
        )
    if not isinstance(model.trainable, str):
        with torch.device("meta"):
            require_modules(text_model_class(text, model.given_llm)(copy.deepcopy(text)), model)
    if packed:
        longest = longest_row or max(side.max_length for side in model.given.values())
        require_packing(text, found.packs or bool(found.failure), longest)
    return found


def unprobed_warning(model: ModelSettings, found: Probe | None) -> list[str]:
    """Said where nobody could measure which way the LLM looks."""
    if found is None or not found.failure:
        return []
    return [
        f"model.llm.name={model.given_llm.name}: {found}; make sure that it attends as model.llm.bidirectional="
        f"{str(model.given_llm.bidirectional).lower()} says, or name a model of a known family"
    ]


def quantization_line(model: ModelSettings) -> tuple[str, ...]:
    """What to print of it."""
    if "llm" not in model.sides or model.given_llm.quantization is None:
        return ()
    return ("LLM         its layers' weights have 8 bits and a step per output (model.llm.quantization=int8)",)


def pooling_line(model: ModelSettings) -> tuple[str, ...]:
    """What to print of how vectors are made, where not by the mean."""
    if model.pooling == "mean":
        return ()
    return (f"vectors     of teacher and student are pooled by {model.pooling} (model.pooling)",)


def require_room(llm: LLMSettings, config: PretrainedConfig, longest: int, where: str = "model.llm.name") -> None:
    """Refuse texts of `longest` tokens where a model has fewer positions."""
    room = num_positions(llm, config)
    if room is not None and longest > room:
        raise UserError(
            f"{where}={llm.name}: reads at most {room} tokens, and a sample has {longest}; prepare the shards with a "
            "smaller --max-length"
        )


def room_warning(llm: LLMSettings, config: PretrainedConfig, longest: int) -> list[str]:
    """Said where rows of up to `longest` tokens, whose lengths no index tells, may be more than a model has positions."""
    room = num_positions(llm, config)
    if room is None or longest <= room:
        return []
    return [
        f"model.llm.name={llm.name}: reads at most {room} tokens, and a prompt with its response may take {longest}, as max_length "
        "allows; lower model.llm.max_length and model.encoder.max_length, or make sure that none does"
    ]
