"""Text that a causal model writes after prompts, which may be states of an encoder as well as tokens.

Shapes: B prompts, S tokens of the longest, D the width of the LLM's embeddings.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import torch
from torch import nn
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from mtllm_ds.data.text.padding import longest_first, padded
from mtllm_ds.errors import UserError
from mtllm_ds.models.generation import left_padded
from mtllm_ds.models.generation_options import GenerationOptions
from mtllm_ds.models.quiet import quiet_transformers
from mtllm_ds.models.sampling import Sampler


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt as ids of those who read it."""

    encoder: list[int]
    """Empty where no encoder reads"""
    llm: list[int]
    """Empty where the encoder's states stand in place of the prompt"""
    where: str = ""
    """What it is called in messages"""

    def __len__(self) -> int:
        """What the LLM reads, in places."""
        return len(self.encoder) + len(self.llm)


Embed = Callable[[Sequence[Any]], tuple[torch.Tensor, torch.Tensor]]
"""Prompts as the LLM reads them, padded anywhere: (B, S, D), (B, S)"""


@dataclass(frozen=True)
class Response:
    """What was written after one prompt."""

    text: str
    """Ends with the stop string, where that ended it."""
    ids: list[int]
    """Without the token that ended it."""
    is_cut: bool
    """Whether only `max_new_tokens` ended it."""


def token_rows(table: nn.Embedding, pad_id: int) -> Embed:
    """How an LLM reads prompts that are lists of its own ids."""

    def embed(rows: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        ids, mask = (side.to(table.weight.device) for side in padded(rows, pad_id))
        return table(ids), mask

    return embed


class Writer:
    """Writes after prompts.

    Args:
        model: as `generation.causal_model` gives it
        tokenizer: transformers' own of the LLM
        embed: prompts as the LLM reads them
    """

    def __init__(self, model: Any, tokenizer: Any, embed: Embed) -> None:
        self.model = model
        self._tokenizer = tokenizer
        self._embed = embed

    def write(
        self, prompts: Sequence[Sized], seeds: Sequence[int], options: GenerationOptions, batch_size: int
    ) -> list[Response]:
        """A response to each prompt; what is drawn depends on its own seed alone."""
        found: dict[int, Response] = {}
        for rows in longest_first(list(map(len, prompts)), 1 if options.are_rows_alone else batch_size):
            written = self._generate([prompts[row] for row in rows], [seeds[row] for row in rows], options)
            found |= {row: self._response(ids, options) for row, ids in zip(rows, written.tolist(), strict=True)}
        return [found[row] for row in range(len(prompts))]

    def stream(self, prompt: Sized, seed: int, options: GenerationOptions) -> Iterator[str]:
        """The response to one prompt, piece by piece as it is written. Who stops listening stops the writing."""
        said: SimpleQueue[list[int] | BaseException | None] = SimpleQueue()
        leave = threading.Event()

        def work() -> None:
            try:
                self._generate([prompt], [seed], options, _Listener(said), _Until(leave))
                said.put(None)
            except BaseException as error:
                said.put(error)

        writing = threading.Thread(target=work, daemon=True)
        writing.start()
        try:
            yield from self._pieces(said, options)
        finally:
            leave.set()
            writing.join()

    @torch.no_grad()
    def _generate(
        self,
        prompts: Sequence[Sized],
        seeds: Sequence[int],
        options: GenerationOptions,
        streamer: BaseStreamer | None = None,
        until: StoppingCriteria | None = None,
    ) -> torch.Tensor:
        """(B, n) int64 tokens, filled up with a token that ends."""
        embeddings, mask = left_padded(*self._embed(prompts))
        processors = options.processors
        if options.sampling is not None:
            processors.append(Sampler(options.sampling, torch.tensor(seeds, device=mask.device)))
        criteria = [*(options.passed_on.get("stopping_criteria") or []), *([] if until is None else [until])]
        try:
            with quiet_transformers():
                return self.model.generate(
                    inputs_embeds=embeddings,
                    attention_mask=mask,
                    generation_config=options.config,
                    streamer=streamer,
                    tokenizer=self._tokenizer if options.stop_strings else None,
                    **options.passed_on
                    | {
                        "logits_processor": LogitsProcessorList(processors),
                        "stopping_criteria": StoppingCriteriaList(criteria),
                    },
                )
        except ValueError as error:
            raise UserError(f"generate: {' '.join(str(error).split())[:300]}") from error

    def _response(self, written: list[int], options: GenerationOptions) -> Response:
        ids = _until_end(written, options)
        text = self._decode(ids)
        stopped = len(ids) < len(written) or any(stop in text for stop in options.stop_strings)
        return Response(text, ids, is_cut=not stopped and len(ids) == options.max_new_tokens)

    def _pieces(self, said: SimpleQueue[list[int] | BaseException | None], options: GenerationOptions) -> Iterator[str]:
        ids: list[int] = []
        sent = ""
        while (item := said.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            ids += item
            text = self._decode(_until_end(ids, options))
            # Half a character may become a whole one with the next token.
            if not text.endswith("\ufffd") and text.startswith(sent) and text != sent:
                yield text[len(sent) :]
                sent = text
        if rest := self._decode(_until_end(ids, options))[len(sent) :]:
            yield rest

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


def _until_end(ids: list[int], options: GenerationOptions) -> list[int]:
    ends = options.config.eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends or ())
    return ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))]


class _Listener(BaseStreamer):
    """Hands on tokens as they are written."""

    def __init__(self, said: SimpleQueue[list[int] | BaseException | None]) -> None:
        self._said = said

    def put(self, value: torch.Tensor) -> None:
        """(1,) a token; at the start the prompt, which has no tokens here."""
        self._said.put(value.flatten().tolist())

    def end(self) -> None:
        """What is left to say, the thread says."""


class _Until(StoppingCriteria):
    """Stops all rows when an event is set."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self._event.is_set(), device=input_ids.device)
