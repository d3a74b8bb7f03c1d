"""Who writes: the trained model, and the plain LLM in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft import PeftModel

from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.data.shards.manifest import ChatEntry
from mtllm_ds.data.text.tokenization import TextTokenizer
from mtllm_ds.errors import UserError
from mtllm_ds.models.generation import require_causal
from mtllm_ds.models.lm_head import OutputHead, load_output_head
from mtllm_ds.models.readers import LLMReader, Reader
from mtllm_ds.models.speaker import Speaker
from mtllm_ds.models.stacked import StackedModel
from mtllm_ds.models.turns import Turn
from mtllm_ds.teachers.frozen_self import FrozenSelf


class Speakers:
    """The speakers of a model, each made when it is first asked for. They share the output head, which is read once.

    Args:
        llm: None where the model's LLM cannot write
        turn: held during every forward
    """

    def __init__(
        self,
        reader: Reader,
        llm: LLMSettings | None,
        tokenizers: Mapping[str, TextTokenizer],
        turn: Turn,
        *,
        chat: ChatEntry | None,
        layout: str,
    ) -> None:
        self._reader, self._llm, self._tokenizers, self._turn = reader, llm, tokenizers, turn
        self._chat, self._layout = chat, layout
        self._making = Turn()  # an encoding need not wait until a head is read
        self._made: dict[bool, Speaker] = {}
        self._head: OutputHead | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Who writes is bound to this model's turns and weights: a copy makes its own.
        return self.__dict__ | {"_made": {}, "_head": None}

    @property
    def holds_plain(self) -> bool:
        """Whether there is a plain LLM beside the trained model."""
        return isinstance(self._reader, StackedModel | LLMReader) and isinstance(self._reader.trained_model, PeftModel)

    def get(self, *, plain: bool) -> Speaker:
        """The trained model, or the plain LLM in it.

        Raises:
            UserError: there is no LLM, it attends both ways, or its own weights trained and no plain one is left.
        """
        reader, llm = self._reader, self._llm
        if not isinstance(reader, StackedModel | LLMReader) or llm is None:
            raise UserError(
                f"generate: this model is a {type(reader).__name__} without a language model; ask one that has one"
            )
        untrained = plain_llm(reader, "generate_with_llm").untrained if plain else None
        with self._making:
            if plain not in self._made:
                self._made[plain] = Speaker(
                    llm, reader, self._shared_head(llm, reader), self._tokenizers, self._turn, untrained,
                    chat=self._chat, layout=self._layout,
                )  # fmt: skip
            return self._made[plain]

    def _shared_head(self, llm: LLMSettings, reader: StackedModel | LLMReader) -> OutputHead:
        require_causal(llm)
        if self._head is None:
            weight = next(reader.trained_model.parameters())
            self._head = load_output_head(llm, reader, weight.dtype).to(weight.device)
        return self._head


def plain_llm(reader: StackedModel | LLMReader, asked: str) -> FrozenSelf:
    """The LLM without its LoRA; `UserError` where it has none to leave out. `asked` names what wants it."""
    if not isinstance(reader.trained_model, PeftModel):
        raise UserError(
            f"{asked}: this model's LLM has no LoRA (its own weights trained, or nothing did): it holds no other, plain LLM; "
            "load that alone"
        )
    return FrozenSelf(reader)
