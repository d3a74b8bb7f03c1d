"""Any masked language model in Hugging Face's format as what tells logits at masked positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForMaskedLM

from mtllm_ds.config.names import resolve_model_name
from mtllm_ds.data.text.tokenization import TextTokenizer, TokenizerSpec, load_text_tokenizer
from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.masked.passes import MaskedBatch
from mtllm_ds.models.loading import load_config, load_weights


class MaskedLM:
    """A masked language model and its tokenizer, for reading only."""

    def __init__(self, model: nn.Module, tokenizer: TextTokenizer, mask_id: int, max_length: int) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.mask_id = mask_id
        self.max_length = max_length
        """Most tokens that it reads at once"""
        self._masked: torch.Tensor | None = None
        output = model.get_output_embeddings()  # type: ignore[operator]
        if output is not None:
            output.register_forward_pre_hook(self._only_masked)

    @classmethod
    def load(cls, name: str, revision: str | None, dtype: torch.dtype, device: torch.device) -> MaskedLM:
        """The model in a folder or of a hub name.

        Raises:
            UserError: it is none, is no masked language model, or its tokenizer has no mask token.
        """
        place = resolve_model_name(name)
        config = load_config(place, revision, False, "--model")
        if type(config) not in AutoModelForMaskedLM._model_mapping:
            raise UserError(f"--model={name}: {config.model_type} has no masked language model; give one that has")
        tokenizer = load_text_tokenizer(TokenizerSpec(name=place, revision=revision, side="llm"))
        mask_id = tokenizer.pretrained.mask_token_id
        if mask_id is None:
            raise UserError(f"--model={name}: its tokenizer has no mask token; give a masked language model")
        model = load_weights(AutoModelForMaskedLM, place, "--model", revision=revision, dtype=dtype)
        model.to(device)  # type: ignore[arg-type]
        return cls(model, tokenizer, mask_id, _longest(config, tokenizer))

    @torch.inference_mode()
    def __call__(self, batch: MaskedBatch) -> torch.Tensor:
        """Logits (N, V) at the masked positions, row by row."""
        self._masked = batch.masked
        logits = self.model(input_ids=batch.ids, attention_mask=batch.attention_mask).logits
        return logits if logits.dim() == 2 else logits[batch.masked]

    def _only_masked(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The last matrix, which is most of a small model, reads the masked positions only."""
        (states,) = inputs
        return (states[self._masked],)


def _longest(config: Any, tokenizer: TextTokenizer) -> int:
    """What the position table holds; where a model numbers positions from behind its padding id, as many fewer."""
    longest = int(getattr(config, "max_position_embeddings", None) or 512)
    is_offset = config.model_type in ("xlm-roberta", "xlm-roberta-xl", "roberta", "camembert", "xmod")
    return longest - tokenizer.pad_id - 1 if is_offset else longest
