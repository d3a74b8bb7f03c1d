"""Prompts in, text out: the language model of a reader, with the tokenizers that read its prompts.

Shapes: n tokens of a response, D the width of the LLM's states, V its vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch

from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.data.shards.manifest import ChatEntry
from mtllm_ds.data.text.chat import ChatSettings, DialogueTokenizer
from mtllm_ds.data.text.padding import longest_first, padded
from mtllm_ds.data.text.prompts import PromptReader
from mtllm_ds.data.text.tokenization import TextTokenizer, pretrained_tokenizer
from mtllm_ds.draws import seed_of
from mtllm_ds.errors import UserError
from mtllm_ds.models.generation import causal_model, end_ids, left_padded
from mtllm_ds.models.generation_options import GenerationOptions, read_options
from mtllm_ds.models.lm_head import OutputHead
from mtllm_ds.models.readers import LLMReader, read_padded, token_embeddings
from mtllm_ds.models.stacked import StackedModel
from mtllm_ds.models.writer import ReadPrompt, Response, Writer

_NEW_TOKENS = 256


class Speaker:
    """Responds to prompts, as the trained model or as the plain LLM in it.

    Attributes:
        sides: who reads the prompts, in this order
    """

    def __init__(
        self,
        llm: LLMSettings,
        reader: StackedModel | LLMReader,
        head: OutputHead,
        tokenizers: Mapping[str, TextTokenizer],
        turn: AbstractContextManager[Any],
        plain: Callable[[], AbstractContextManager[Any]] | None = None,
        *,
        chat: ChatEntry | None = None,
        layout: str = "replace",
    ) -> None:
        """
        Args:
            head: of the LLM, on its device
            chat: how the dialogues that it learnt from are put into words, where it did
            layout: of a stack, `prepend` where the LLM reads the prompt behind the encoder's states
            turn: held during every forward, as others use the same weights from other threads
            plain: makes the LLM the plain one inside, which then reads the prompts itself

        Raises:
            UserError: the LLM attends both ways, or has parts beside its head that are not known.
        """
        self._reader = reader
        self._tokenizers = tokenizers
        self._around = _both(turn, plain or nullcontext)
        self._head = head
        self._learnt = chat
        is_stack = isinstance(reader, StackedModel) and plain is None
        self.sides = [
            side for side, reads in (("encoder", is_stack), ("llm", not is_stack or layout == "prepend")) if reads
        ]
        self._model = causal_model(llm, reader, head, self._around)
        own = pretrained_tokenizer(tokenizers["llm"].spec)
        self._writer = Writer(self._model, own, self._embed)
        self._own_chat = self._chat(None)

    def respond(
        self,
        prompts: Sequence[Any],
        languages: str | Sequence[str] | None,
        *,
        stream: bool = False,
        max_new_tokens: int | None = None,
        batch_size: int = 8,
        seed: int | None = None,
        chat_template: str | None = None,
        **options: Any,
    ) -> list[str] | Iterator[str]:
        """A response to each prompt; with `stream` the pieces of the one.

        Args:
            max_new_tokens: None for 256, or as many as the LLM has positions left for
            batch_size: prompts at once
            seed: of what is drawn, where `do_sample=True`: a response depends on it, on the prompt's place in the list and on its
                logits alone. None draws one from torch's generator
            chat_template: Jinja, in place of the one that it learnt by, or the tokenizer's own
            options: of transformers' `generate`
        """
        _require_whole("batch_size", batch_size, 1)
        chat = self._chat_by(chat_template)
        rows = self._read(prompts, languages, chat)
        how = self._options(rows, chat, max_new_tokens, options)
        start = int(torch.randint(2**62, ())) if seed is None else _require_whole("seed", seed, 0)
        seeds = [seed_of(start, number) for number in range(len(rows))]
        if not stream:
            return [response.text for response in self.write(rows, seeds, how, batch_size)]
        if len(rows) != 1:
            raise UserError(f"stream=True: writes one response piece by piece, got {len(rows)} prompts; give one")
        return self._writer.stream(rows[0], seeds[0], how)

    def read(
        self,
        prompts: Sequence[Any],
        languages: str | Sequence[str | None] | None,
        template: str | None = None,
        places: Sequence[str] | None = None,
    ) -> list[ReadPrompt]:
        """Ids of prompts.

        Args:
            template: Jinja, in place of the one that it learnt by, or the tokenizer's own
            places: what prompts are called in messages; None for `prompts[0]` and so on

        Raises:
            UserError: a prompt is empty, too long for an encoder, or its language has no tag.
        """
        return self._read(prompts, languages, self._chat_by(template), places)

    def options(
        self, rows: Sequence[ReadPrompt], max_new_tokens: int | None = None, template: str | None = None, **given: Any
    ) -> GenerationOptions:
        """What all of these prompts are answered with, as `respond` reads its arguments.

        Raises:
            UserError: an option is unknown or refused, or a prompt leaves no room for so many tokens.
        """
        return self._options(rows, self._chat_by(template), max_new_tokens, given)

    def write(
        self, rows: Sequence[ReadPrompt], seeds: Sequence[int], options: GenerationOptions, batch_size: int = 8
    ) -> list[Response]:
        """A response to each prompt; what is drawn depends on its own seed alone."""
        return self._writer.write(rows, seeds, options, batch_size)

    def response_ids(self, response: str) -> list[int]:
        """Ids of a given response, without the token that ends a turn."""
        return self._tokenizers["llm"].continuation(response)

    def _options(
        self, rows: Sequence[ReadPrompt], chat: DialogueTokenizer | None, wanted: int | None, given: Mapping[str, Any]
    ) -> GenerationOptions:
        ends = end_ids(self._model, self._ends_of_turns(chat)) or [self._tokenizers["llm"].pad_id]
        return read_options(self._model, ends, self._num_new_tokens(rows, wanted), given)

    def _read(
        self,
        prompts: Sequence[Any],
        languages: Any,
        chat: DialogueTokenizer | None,
        places: Sequence[str] | None = None,
    ) -> list[ReadPrompt]:
        codes = _one_each(languages, prompts)
        names = [f"prompts[{number}]" for number in range(len(prompts))] if places is None else places
        by_side: dict[str, list[list[int]]] = {side: [[]] * len(prompts) for side in ("encoder", "llm")}
        for side in self.sides:
            reader = PromptReader(self._tokenizers[side], chat, learnt_dialogues=self._learns_chat)
            by_side[side] = [reader(*given) for given in zip(prompts, codes, names, strict=True)]
        if "encoder" in self.sides:
            assert isinstance(self._reader, StackedModel)
            for row, code in zip(by_side["encoder"], codes, strict=True):
                self._reader.require_mean_of(row[0], code)
        return [ReadPrompt(*row) for row in zip(by_side["encoder"], by_side["llm"], names, strict=True)]

    def read_with(
        self,
        prompts: Sequence[Any],
        continuations: Sequence[str],
        languages: str | Sequence[str] | None,
        template: str | None = None,
    ) -> tuple[list[ReadPrompt], list[list[int]]]:
        """Ids of prompts, and of texts that go on with them; an empty prompt is read as `read_nothing` says.

        Both are tokenized apart, as in training, but where an LLM alone reads a text and goes on with it: there they are one text,
        parted at the prompt's number of tokens (as language models are compared elsewhere).
        """
        codes = _one_each(languages, prompts)
        read, told = [], []
        for prompt, continuation, code in zip(prompts, continuations, codes, strict=True):
            is_empty = prompt == ""
            read.append(self.read_nothing(code) if is_empty else self.read([prompt], code, template)[0])
            if isinstance(prompt, str) and not is_empty and self.sides == ["llm"] and not self._learns_chat:
                (whole,) = self.read([prompt + continuation], code)
                told.append(whole.llm[len(read[-1].llm) :])
            else:
                told.append(self._tokenizers["llm"].continuation(continuation))
        return read, told

    def read_nothing(self, language: str | None) -> ReadPrompt:
        """What stands where nothing was said: to an encoder an empty text, to an LLM the token that begins a text, or ends one."""
        ids: dict[str, list[int]] = {"encoder": [], "llm": []}
        if "encoder" in self.sides:
            ids["encoder"] = self._tokenizers["encoder"]([""], language)
        if "llm" in self.sides:
            own = self._tokenizers["llm"].pretrained
            ids["llm"] = [own.eos_token_id if own.bos_token_id is None else own.bos_token_id]
        return ReadPrompt(ids["encoder"], ids["llm"])

    def tokens_of(self, text: str) -> list[int]:
        """Ids of a text as the LLM tells it behind nothing, without special tokens."""
        return self._tokenizers["llm"].tokenize([text])[0].ids

    @property
    def num_positions(self) -> int | None:
        """Most places that the LLM reads; None where it has no bound."""
        return getattr(self._model.config, "max_position_embeddings", None)

    @property
    def chat_template(self) -> str | None:
        """Jinja by which the LLM reads messages; None where nothing says so."""
        return None if self._own_chat is None else self._own_chat.template

    @torch.no_grad()
    def states_before(
        self, prompts: Sequence[ReadPrompt], responses: Sequence[Sequence[int]], batch_size: int = 8
    ) -> list[torch.Tensor]:
        """Final states that tell each token of given responses: (n, D) of each, on the model's device.

        Args:
            prompts: as `read` gives them, at least one each
            responses: ids of the LLM's tokenizer
        """
        found: dict[int, torch.Tensor] = {}
        lengths = [len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)]
        for rows in longest_first(lengths, batch_size):
            whole, mask = self._joined([prompts[row] for row in rows], [responses[row] for row in rows])
            with self._around():
                states = read_padded(self._reader.trained_model, mask, inputs_embeds=whole)
            for place, row in enumerate(rows):
                last = len(prompts[row]) - 1
                found[row] = states[place, last : last + len(responses[row])]
        return [found[row] for row in range(len(prompts))]

    @torch.no_grad()
    def log_probs(self, states: torch.Tensor) -> torch.Tensor:
        """What final states tell of the next token: (n, D) -> (n, V) float32 log-probabilities."""
        return self._head(states).float().log_softmax(-1)

    def _joined(
        self, prompts: Sequence[ReadPrompt], responses: Sequence[Sequence[int]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What is read of prompts with their responses behind them, but for the last token, (B, S, D), and the mask (B, S)."""
        read, _ = left_padded(*self._embed(prompts))
        rows = []
        for place, response in enumerate(responses):
            told = token_embeddings(
                self._reader.trained_model, torch.tensor([response[:-1]], dtype=torch.long, device=read.device)
            )
            rows.append(torch.cat([read[place, read.shape[1] - len(prompts[place]) :], told[0].to(read.dtype)]))
        lengths = torch.tensor([len(row) for row in rows], device=read.device)
        whole = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return whole, (torch.arange(whole.shape[1], device=read.device) < lengths[:, None]).long()

    @torch.no_grad()
    def _embed(self, prompts: Sequence[ReadPrompt]) -> tuple[torch.Tensor, torch.Tensor]:
        device = next(self._reader.parameters()).device
        parts, masks = [], []
        with self._around():
            for side in self.sides:
                rows = [getattr(prompt, side) for prompt in prompts]
                ids, mask = (tensor.to(device) for tensor in padded(rows, self._tokenizers[side].pad_id))
                if side == "encoder":
                    assert isinstance(self._reader, StackedModel)
                    parts.append(self._reader.embeddings(ids, mask))
                else:
                    parts.append(token_embeddings(self._reader.trained_model, ids))
                masks.append(mask)
        return torch.cat([part.to(parts[0].dtype) for part in parts], 1), torch.cat(masks, 1)

    @property
    def _learns_chat(self) -> bool:
        return self._learnt is not None and self._learnt.template is not None

    def _chat_by(self, template: str | None) -> DialogueTokenizer | None:
        return self._own_chat if template is None else self._chat(template)

    def _chat(self, template: str | None) -> DialogueTokenizer | None:
        """How the LLM reads messages: by the template that is given, that it learnt by, or that its tokenizer has."""
        tokenizer, learnt = self._tokenizers["llm"], self._learnt
        if template is None and learnt is not None:
            template = learnt.template
        if template is None and not tokenizer.has_chat_template:
            return None
        system_prompt = None if learnt is None else learnt.system_prompt
        return DialogueTokenizer(tokenizer, ChatSettings(template=template, system_prompt=system_prompt))

    def _ends_of_turns(self, chat: DialogueTokenizer | None) -> list[int]:
        """Tokens that end a response: of the dialogues that it learnt, and by the template in use."""
        return [*([] if self._learnt is None else [self._learnt.end_id]), *([] if chat is None else [chat.end_id])]

    def _num_new_tokens(self, rows: Sequence[ReadPrompt], wanted: int | None) -> int:
        """Most tokens of a response; refused where a prompt leaves no room for them."""
        positions = self.num_positions
        longest = max(map(len, rows), default=0)
        room = _NEW_TOKENS if positions is None else positions - longest
        number = min(_NEW_TOKENS, room) if wanted is None else _require_whole("max_new_tokens", wanted, 1)
        if positions is not None and (number < 1 or number > room):
            place = next(row.where for row in rows if len(row) == longest)
            raise UserError(
                f"{place}: {longest} tokens and max_new_tokens={wanted or 1} are more than the LLM's {positions} "
                "positions; shorten it, or lower max_new_tokens"
            )
        return number


def _one_each(languages: str | Sequence[str | None] | None, prompts: Sequence[Any]) -> Sequence[str | None]:
    codes = [languages] * len(prompts) if languages is None or isinstance(languages, str) else list(languages)
    if len(codes) != len(prompts):
        raise UserError(f"lang: {len(codes)} languages for {len(prompts)} prompts; give one, or one for each prompt")
    return codes


def _both(
    turn: AbstractContextManager[Any], plain: Callable[[], AbstractContextManager[Any]]
) -> Callable[[], AbstractContextManager[None]]:
    @contextmanager
    def around() -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(turn)
            stack.enter_context(plain())
            yield

    return around


def _require_whole(name: str, value: Any, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{name}={value}: not a whole number from {least} up; leave it out for the default")
    return value
