"""Any masked language model in Hugging Face's format, also with code of its own, as what tells logits at masked positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForMaskedLM

from mtllm_ds.config.names import is_code_unpinned, resolve_model_name
from mtllm_ds.data.text.tokenization import TextTokenizer, TokenizerSpec, load_text_tokenizer
from mtllm_ds.data.text.vocabulary import vocabulary_of
from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.masked.passes import MaskedBatch
from mtllm_ds.models.loading import load_config, load_weights


class MaskedLM:
    """A masked language model and its tokenizer, for reading only."""

    def __init__(
        self, model: nn.Module, tokenizer: TextTokenizer, mask_id: int, max_length: int, *, tells_all: bool = False
    ) -> None:
        """`tells_all`: nothing is known of its parts, so that it makes logits of every token."""
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.mask_id = mask_id
        self.max_length = max_length
        """Most tokens that it reads at once"""
        self.is_special = vocabulary_of(tokenizer).is_special
        """(V,) bool: no piece of a text, the unknown token among them; never masked"""
        self.tells_all = tells_all
        self._masked: torch.Tensor | None = None
        output = None if tells_all else model.get_output_embeddings()  # type: ignore[operator]
        if output is not None:
            output.register_forward_pre_hook(self._only_masked)

    @classmethod
    def load(
        cls,
        name: str,
        revision: str | None,
        dtype: torch.dtype,
        device: torch.device,
        *,
        trust_remote_code: bool = False,
    ) -> MaskedLM:
        """The model in a folder or of a hub name.

        Raises:
            UserError: it is none, is no masked language model, its tokenizer has no mask token, or it brings code that is not
                trusted, or is on the hub and not held to one commit.
        """
        if trust_remote_code and is_code_unpinned(name, revision):
            raise UserError(
                f"--revision={revision}: code from the hub runs at one commit only; give the 40 digits of one that you have read"
            )
        place = resolve_model_name(name)
        config = load_config(place, revision, trust_remote_code, "--model")
        brings_code = "AutoModelForMaskedLM" in (getattr(config, "auto_map", None) or {}) and trust_remote_code
        if not brings_code and type(config) not in AutoModelForMaskedLM._model_mapping:
            raise UserError(f"--model={name}: {config.model_type} has no masked language model; give one that has")
        spec = TokenizerSpec(
            name=place, revision=revision, side="llm", trust_remote_code=trust_remote_code,
            family="own" if brings_code else "auto",
        )  # fmt: skip
        tokenizer = load_text_tokenizer(spec)
        mask_id = tokenizer.pretrained.mask_token_id
        if mask_id is None:
            raise UserError(f"--model={name}: its tokenizer has no mask token; give a masked language model")
        model = load_weights(
            AutoModelForMaskedLM, place, "--model", revision=revision, dtype=dtype, trust_remote_code=trust_remote_code
        )
        model.to(device)  # type: ignore[arg-type]
        return cls(model, tokenizer, mask_id, _longest(config, tokenizer), tells_all=brings_code)

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
