"""What a language model tells apart, and how a teacher's tokens meet a student's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.data.text.token_map import TokenMap, map_tokens
from mtllm_ds.data.text.tokenization import TextTokenizer, TokenizerSpec, load_text_tokenizer
from mtllm_ds.data.text.vocabulary import vocabulary_of
from mtllm_ds.models.head_probe import probe_head
from mtllm_ds.models.loading import llm_config
from mtllm_ds.models.own_code import has_own_code


@dataclass(frozen=True)
class Outputs:
    """The logits of a language model, known without its weights."""

    tokenizer: TextTokenizer
    vocabulary: str
    """Hash of the tokenizer's pieces and ids"""
    size: int
    """Logits; a table of embeddings can be longer than the vocabulary"""
    softcap: float | None
    is_own_code: bool = False
    """Whether its head is code that comes with it, of which only the logits are known"""

    def meet(self, teacher: Outputs) -> TokenMap | None:
        """What this student's ids are to a teacher; None where the two tell the very same, and both heads are known."""
        if teacher.vocabulary != self.vocabulary:
            return map_tokens(self.tokenizer, teacher.tokenizer)
        if (teacher.size, teacher.softcap) == (self.size, self.softcap) and not teacher.is_own_code:
            return None
        same = np.arange(self.size)
        there = same < teacher.size
        return TokenMap(np.where(there, same, -1), np.where(there, same, 0))


def outputs_of(llm: LLMSettings) -> Outputs:
    """Of the model that settings name; `UserError` where it or its tokenizer cannot be found, or its head is not understood."""
    spec = TokenizerSpec(
        name=llm.name, revision=llm.revision, side="llm", family="own", trust_remote_code=llm.trust_remote_code
    )
    tokenizer, config = load_text_tokenizer(spec), llm_config(llm)
    is_own_code = has_own_code(llm, config)
    return Outputs(
        tokenizer,
        vocabulary_of(tokenizer).hash,
        int(config.get_text_config().vocab_size),
        None if is_own_code else probe_head(llm, config).softcap,
        is_own_code,
    )
