"""`MTLLM`: a trained model in three lines, on one device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import torch

from mtllm_ds.checkpoint.trained import read_trained, tokenizer_specs
from mtllm_ds.config.names import resolve_model_name
from mtllm_ds.config.sections import EncoderSettings, LLMSettings, Pooling
from mtllm_ds.data.shards.manifest import ChatEntry, TaskEntry
from mtllm_ds.data.text.padding import longest_first, padded
from mtllm_ds.data.text.prompts import Prompt
from mtllm_ds.data.text.task_encoding import EncodedItem, encode_item
from mtllm_ds.data.text.tokenization import TextTokenizer, TokenizerSpec, load_text_tokenizer
from mtllm_ds.errors import UserError
from mtllm_ds.inference.given import (
    AnyItem,
    Languages,
    PlainItem,
    check_batch_size,
    check_item,
    checked_texts,
    listed_prompts,
    one_each,
    usable_device,
)
from mtllm_ds.inference.speakers import Speakers, plain_llm
from mtllm_ds.languages import check_language
from mtllm_ds.models.build import base_reader, load_reader, located
from mtllm_ds.models.heads import TaskHead, head_from, task_scores
from mtllm_ds.models.int8_linear import dequantise_layers
from mtllm_ds.models.pooling import pool, pool_spans
from mtllm_ds.models.readers import Reader
from mtllm_ds.models.speaker import Speaker
from mtllm_ds.models.stacked import StackedModel
from mtllm_ds.models.turns import Turn

Found = TypeVar("Found")
States = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class MTLLM:
    """A trained model; stacked, it reads any language of its MT encoder.

    >>> model = MTLLM.from_pretrained("runs/demo/export")
    >>> vectors = model.encode(["Guten Morgen"], lang="deu_Latn")   # float32, (1, d)

    Attributes:
        reader: the module that reads ids
        task: what its head answers; None without a head
        quantization: how the weights of its LLM's layers were rounded, also of the plain LLM in it; None where they were not
    """

    def __init__(
        self,
        reader: Reader,
        tokenizers: dict[str, TextTokenizer],
        device: torch.device,
        task: TaskEntry | None = None,
        head: TaskHead | None = None,
        llm: LLMSettings | None = None,
        chat: ChatEntry | None = None,
        layout: str = "replace",
    ) -> None:
        self.reader = reader
        self.task = task
        self.device = device
        self.quantization = None if llm is None else llm.quantization
        self._tokenizers = tokenizers
        self._head = head
        self._turn = Turn()
        self._speakers = Speakers(reader, llm, tokenizers, self._turn, chat=chat, layout=layout)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        encoder: str | None = None,
        llm: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        dequantise: bool = False,
    ) -> MTLLM:
        """Load an export, or a run's best checkpoint. `encoder` and `llm` replace the places of base models that it remembers.
        With `dequantise` an LLM that trained with layers in 8 bits has what they stand for in `dtype`: the same answers, faster
        where it writes token by token, in the memory of plain weights.

        Raises `UserError` if a file is missing, a base model is not the one it was trained on, or there is nothing to dequantise.
        """
        trained = read_trained(folder)
        place = usable_device(device)
        places = {side: name for side, name in (("encoder", encoder), ("llm", llm)) if name is not None}
        model = located(trained.model, trained.bases, f"model {folder}", places)
        reader = load_reader(model, trained.weights, place, dtype)
        if dequantise:
            if "llm" not in model.sides or model.given_llm.quantization is None:
                raise UserError(f"dequantise=True: has no effect, {folder} has no weights in 8 bits; leave it out")
            dequantise_layers(reader)
        tokenizers = {side: load_text_tokenizer(spec) for side, spec in tokenizer_specs(trained, model).items()}
        head = None
        if trained.head is not None:
            head = head_from(trained.head, reader.hidden_size, f"model {folder}").to(place)
        # A head that trained is a part of what is exported as a model of transformers, and of nothing that is read here.
        llm_settings = model.llm if trained.lm_head is None else None
        return cls(reader, tokenizers, place, trained.task, head, llm_settings, trained.chat, trained.layout)

    @classmethod
    def from_base(
        cls,
        side: Literal["encoder", "llm"],
        name: str,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> MTLLM:
        """A base model of transformers (folder or hub name) as it is: a causal `llm` that reads and writes, or an `encoder`.

        Raises `UserError` if it cannot be loaded.
        """
        place, settings = usable_device(device), _base_settings(side, resolve_model_name(name), revision)
        reader = base_reader(settings, place, dtype)
        spec = TokenizerSpec(name=settings.name, revision=revision, side=side, max_length=settings.max_length)
        llm = settings if isinstance(settings, LLMSettings) else None
        return cls(reader, {side: load_text_tokenizer(spec)}, place, llm=llm)

    @property
    def languages(self) -> tuple[str, ...]:
        """FLORES-200 codes that its tokenizer has a tag for; empty where none is needed."""
        return self._tokenizer.language_codes

    @property
    def pad_id(self) -> int:
        """What fills up the ids of shorter texts in a batch, where the mask is 0."""
        return self._tokenizer.pad_id

    def ids(self, segments: Sequence[str], lang: str) -> list[int]:
        """Ids of one text (or of segments that belong together), special tokens included, cut to the model's limit."""
        return self._encoded(PlainItem(tuple(segments)), lang).ids

    def encode(self, texts: Iterable[str], lang: Languages, batch_size: int = 32) -> torch.Tensor:
        """Vectors of texts in one language (FLORES-200 code), or one a text, pooled as in training: (n, d) float32 on the CPU.

        A text longer than the model's limit is cut there. An unknown tag raises `UserError` with the nearest code. A model
        whose LLM reads alone takes no notice of the language.
        """
        encoded = self._encoded_texts(texts, lang)
        return self._pooled(
            encoded, self._tokenizer, batch_size, self.reader.states, self.reader.hidden_size, self.reader.pooling
        )

    def encode_with_llm(self, texts: Iterable[str], batch_size: int = 32) -> torch.Tensor:
        """Vectors of the plain LLM of a stack reading the texts itself (the teacher's view): (n, d) float32 on the CPU."""
        stack, tokenizer = self._stack, self._tokenizers["llm"]
        read = plain_llm(stack, "encode_with_llm").read
        encoded = [
            encode_item(tokenizer, (text,), (), None, tokenizer.spec.max_length) for text in checked_texts(texts)
        ]
        return self._pooled(encoded, tokenizer, batch_size, read, stack.hidden_size, stack.pooling)

    def encode_with_encoder(self, texts: Iterable[str], lang: Languages, batch_size: int = 32) -> torch.Tensor:
        """Mean states of a stack's MT encoder alone: (n, d_encoder) float32 on the CPU."""
        stack = self._stack
        encoded = self._encoded_texts(texts, lang)
        return self._pooled(
            encoded, self._tokenizer, batch_size, stack.encoder.final_states, stack.encoder.hidden_size, "mean"
        )

    def encode_both(
        self, texts: Iterable[str], lang: Languages, batch_size: int = 32
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What `encode` and `encode_with_encoder` give, of one reading: (n, d) and (n, d_encoder), float32 on the CPU."""
        stack = self._stack
        encoded = self._encoded_texts(texts, lang)
        vectors = torch.empty(len(encoded), stack.hidden_size)
        means = torch.empty(len(encoded), stack.encoder.hidden_size)
        ids = [one.ids for one in encoded]
        for rows, (states, said), mask in self._run(ids, self._tokenizer, batch_size, stack.states_of_both):
            vectors[rows], means[rows] = pool(states, mask, self.reader.pooling).cpu(), pool(said, mask, "mean").cpu()
        return vectors, means

    def predict(self, items: Sequence[AnyItem], lang: Languages, batch_size: int = 32) -> list[torch.Tensor]:
        """Scores of each item's answers, float32 on the CPU: (K,) in the order of `task.labels`, or one an option.

        `lang` is one code or one an item. Raises `UserError` without a head, or for items that do not fit its task.
        """
        if self.task is None or self._head is None:
            raise UserError(
                "predict: this model has no head; export a run of objective.name=task_tuning or task_distillation"
            )
        for number, item in enumerate(items):
            check_item(item, self.task, number)
            checked_texts([*item.segments, *item.options])
        encoded = [self._encoded(item, code) for item, code in zip(items, one_each(lang, items), strict=True)]
        found: dict[int, torch.Tensor] = {}
        for rows, states, mask in self._run(
            [one.ids for one in encoded], self._tokenizer, batch_size, self.reader.states
        ):
            spans = [encoded[row].choice_spans for row in rows]
            found |= dict(zip(rows, self._scores(states, mask, spans), strict=True))
        return [found[row] for row in range(len(encoded))]

    def classify(self, texts: Iterable[str | tuple[str, str]], lang: Languages, batch_size: int = 32) -> list[str]:
        """The label of each text, or of each pair (premise, hypothesis)."""
        if self.task is not None and self.task.type == "multiple_choice":
            raise UserError(f"classify: the task '{self.task.name}' is a multiple choice; use MTLLM.choose")
        items = [PlainItem((text,) if isinstance(text, str) else tuple(text)) for text in checked_texts(texts)]
        scores = self.predict(items, lang, batch_size)
        return [self.task.labels[int(row.argmax())] for row in scores] if self.task is not None else []

    def choose(self, question: str, options: Sequence[str], lang: str, passage: str | None = None) -> int:
        """Place of the option that answers a question (on a passage), from 0."""
        segments = (question,) if passage is None else (passage, question)
        (scores,) = self.predict([PlainItem(segments, tuple(options))], lang)
        return int(scores.argmax())

    @overload
    def generate(
        self, prompts: Iterable[Prompt], lang: Languages | None = ..., *, stream: Literal[False] = ..., **options: Any
    ) -> list[str]: ...

    @overload
    def generate(
        self, prompts: Iterable[Prompt], lang: Languages | None = ..., *, stream: Literal[True], **options: Any
    ) -> Iterator[str]: ...

    def generate(
        self, prompts: Iterable[Prompt], lang: Languages | None = None, *, stream: bool = False, **options: Any
    ) -> list[str] | Iterator[str]:
        """What the trained model writes after each prompt, a text or messages of a chat ({"role", "content"}).

        Args:
            lang: language of the prompts (FLORES-200 code), or one each; an LLM that reads alone needs none
            stream: give the response to the one prompt piece by piece, as it is written
            options: `max_new_tokens` (256), `batch_size` (8), `seed` and `chat_template` (see `Speaker.respond`), those of
                transformers' `generate`, such as `do_sample`, `temperature`, `top_p`, `num_beams` and `stop_strings`; what is left
                out is as in the LLM's own `generation_config.json`

        Raises:
            UserError: the LLM attends both ways, a prompt is empty or too long, a language has no tag, or an option does not fit.
        """
        return self.speaker(plain=False).respond(listed_prompts(prompts), lang, stream=stream, **options)

    @overload
    def generate_with_llm(
        self, prompts: Iterable[Prompt], *, stream: Literal[False] = ..., **options: Any
    ) -> list[str]: ...

    @overload
    def generate_with_llm(
        self, prompts: Iterable[Prompt], *, stream: Literal[True], **options: Any
    ) -> Iterator[str]: ...

    def generate_with_llm(
        self, prompts: Iterable[Prompt], *, stream: bool = False, **options: Any
    ) -> list[str] | Iterator[str]:
        """What the plain LLM writes after each prompt that it reads itself (the teacher's view); as `generate`."""
        return self.speaker(plain=True).respond(listed_prompts(prompts), None, stream=stream, **options)

    @property
    def holds_plain_llm(self) -> bool:
        """Whether its LLM can be asked without what was trained."""
        return self._speakers.holds_plain

    def speaker(self, *, plain: bool) -> Speaker:
        """Who writes, the trained model or the plain LLM in it; made once. For what given responses are worth to each."""
        return self._speakers.get(plain=plain)

    @property
    def _tokenizer(self) -> TextTokenizer:
        return self._tokenizers[self.reader.side]

    @property
    def _stack(self) -> StackedModel:
        if not isinstance(self.reader, StackedModel):
            raise UserError(f"model: it is a {type(self.reader).__name__}, not a stack; use MTLLM.encode")
        return self.reader

    def _encoded_texts(self, texts: Iterable[str], lang: Languages) -> list[EncodedItem]:
        items = [PlainItem((text,)) for text in checked_texts(texts)]
        return [self._encoded(item, code) for item, code in zip(items, one_each(lang, items), strict=True)]

    def _encoded(self, item: AnyItem, lang: str) -> EncodedItem:
        code = check_language(lang)
        tokenizer = self._tokenizer
        encoded = encode_item(tokenizer, item.segments, item.options, code, tokenizer.spec.max_length)
        if isinstance(self.reader, StackedModel):
            self.reader.require_mean_of(encoded.ids[0], code)
        return encoded

    def _scores(
        self, states: torch.Tensor, mask: torch.Tensor, spans: list[list[tuple[int, int]]]
    ) -> list[torch.Tensor]:
        assert self._head is not None
        if not spans[0]:
            return list(task_scores(self._head, pool(states, mask, self.reader.pooling), None).cpu())
        width = max(map(len, spans))
        padded = torch.tensor([[*row, *[(0, 0)] * (width - len(row))] for row in spans], device=self.device)
        scores = task_scores(
            self._head, pool_spans(states, padded, self.reader.pooling), padded[..., 1] > padded[..., 0]
        )
        return [row[: len(own)] for row, own in zip(scores.cpu(), spans, strict=True)]

    def _pooled(
        self,
        encoded: list[EncodedItem],
        tokenizer: TextTokenizer,
        batch_size: int,
        states: States,
        hidden_size: int,
        pooling: Pooling,
    ) -> torch.Tensor:
        pooled = torch.empty(len(encoded), hidden_size)
        for rows, found, mask in self._run([one.ids for one in encoded], tokenizer, batch_size, states):
            pooled[rows] = pool(found, mask, pooling).cpu()
        return pooled

    @torch.no_grad()
    def _run(
        self,
        ids: list[list[int]],
        tokenizer: TextTokenizer,
        batch_size: int,
        states: Callable[[torch.Tensor, torch.Tensor], Found],
    ) -> Iterator[tuple[list[int], Found, torch.Tensor]]:
        """Row numbers, what `states` finds, such as (b, S, d), and mask (b, S) of batches of similar length."""
        check_batch_size(batch_size)
        for rows in longest_first(list(map(len, ids)), batch_size):
            tokens, mask = (side.to(self.device) for side in padded([ids[row] for row in rows], tokenizer.pad_id))
            with self._turn:
                found = states(tokens, mask)
            yield rows, found, mask


def _base_settings(side: str, name: str, revision: str | None) -> EncoderSettings | LLMSettings:
    if side == "encoder":
        return EncoderSettings(name=name, revision=revision)
    return LLMSettings(name=name, revision=revision, bidirectional=False)
