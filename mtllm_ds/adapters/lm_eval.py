"""A model of ours in lm-evaluation-harness, as its model `mtllm`: contexts are read in their language, the LLM tells continuations.

    python -m mtllm_ds.adapters.lm_eval run --model mtllm --model_args pretrained=my_writer --tasks belebele_deu_Latn

is the harness's own command line with this model in it. From Python, importing this module registers it:

>>> import mtllm_ds.adapters.lm_eval
>>> lm_eval.simple_evaluate("mtllm", {"pretrained": "my_writer", "lang": "deu_Latn"}, tasks=["my_task"])

A request is a context and its continuation, which is what a stack takes: the encoder reads the context, with the tag of the task's
language, and the LLM tells the continuation. Tasks whose text stands in their choices (xnli, pawsx) leave an encoder nothing to
read, and are refused. An LLM that reads alone is asked as the harness asks any other.

Needs the extra `lm-eval`.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, simple_parse_args_string
from tqdm import tqdm

from mtllm_ds.adapters.task_languages import TaskLanguages
from mtllm_ds.command_line import quiet_libraries, run_and_exit
from mtllm_ds.data.text.padding import longest_first
from mtllm_ds.draws import seed_of
from mtllm_ds.errors import UserError
from mtllm_ds.inference import MTLLM
from mtllm_ds.models.sampling import Sampling
from mtllm_ds.models.writer import ReadPrompt

_NEW_TOKENS = 256
_UNBOUNDED = 2048
"""Tokens of a window of a long text where the LLM has no bound, as in the harness."""
_LOGIT_ROWS = 256
_MESSAGES = "mtllm messages: "
"""Begins what stands for a chat in a request, which has to be text."""
_DTYPES = ("float32", "bfloat16", "float16")
_log = logging.getLogger("lm_eval.mtllm")  # the harness shows those below its own


@dataclass(frozen=True)
class _Told:
    """Tokens behind a prompt, of which the last `num_asked` count."""

    prompt: ReadPrompt
    ids: list[int]
    num_asked: int


@register_model("mtllm")
class MTLLMForHarness(LM):
    """A trained model, or the plain LLM in it, on one device."""

    def __init__(
        self,
        pretrained: str,
        *,
        encoder: str | None = None,
        llm: str | None = None,
        lang: str | None = None,
        languages: Mapping[str, str] | str | None = None,
        plain: bool = False,
        template: str | None = None,
        dtype: str = "float32",
        device: str = "cuda:0",
        batch_size: int | str = 8,
    ) -> None:
        """
        Args:
            pretrained: an export, or the folder of a run
            encoder, llm: where base models are, if they moved
            lang: FLORES-200 code of the tasks' texts
            languages: of tasks by name; see `TaskLanguages`
            plain: ask the plain LLM in it, which reads the contexts itself
            template: file of a chat template (Jinja), in place of the one that it learnt by or its tokenizer's own
            device: the harness's own default; where there is no GPU, the CPU stands in for one
            batch_size: requests per forward

        Raises:
            UserError: as `MTLLM.from_pretrained` and `MTLLM.speaker`, or a setting does not fit.
        """
        super().__init__()
        if dtype not in _DTYPES:
            raise UserError(f"dtype={dtype}: no type for a model's weights; use one of {', '.join(_DTYPES)}")
        self._batch_size = _whole(batch_size)
        self._template = None if template is None else Path(template).read_text(encoding="utf-8")
        model = MTLLM.from_pretrained(
            pretrained, encoder=encoder, llm=llm, device=_device(device), dtype=getattr(torch, dtype)
        )
        self._device = model.device
        self._speaker = model.speaker(plain=bool(plain))
        self._has_encoder = "encoder" in self._speaker.sides
        self._needs_language = self._has_encoder and bool(model.languages)
        if not self._needs_language and (lang is not None or languages is not None):
            name = "lang" if lang is not None else "languages"
            who = "an encoder without tags" if self._has_encoder else "an LLM"
            raise UserError(f"{name}: has no effect where {who} reads the contexts; leave it out")
        self._language_of = TaskLanguages(lang, languages)
        bits = "" if model.quantization is None else f"-{model.quantization}"
        self._name = f"{pretrained}{'-plain' if plain else ''}{bits}"
        self._shown: set[str] = set()
        self._ends_blank: set[str] = set()

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> MTLLMForHarness:
        """From `--model_args`; `UserError` for one that there is not."""
        given = arg_dict | {name: value for name, value in (additional_config or {}).items() if value is not None}
        known = list(inspect.signature(cls).parameters)
        if unknown := [name for name in given if name not in known]:
            raise UserError(f"{unknown[0]}={given[unknown[0]]}: mtllm has no such setting; it has {', '.join(known)}")
        if "pretrained" not in given:
            raise UserError("pretrained: not given; name the folder of an export or a run")
        return cls(**given)

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> MTLLMForHarness:
        """As `create_from_arg_obj`, from `name=value,name=value`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Of each (context, continuation): the continuation's log-probability, and whether greedy decoding would write it."""
        told, num_cut = [], 0
        for request, language in self._with_languages(requests):
            context, continuation = request.args
            blanks = context[len(context.rstrip()) :] if not context.startswith(_MESSAGES) else ""
            context, continuation = context[: len(context) - len(blanks)], blanks + continuation
            with _named(request):
                self._require_context(request, context, blanks)
                (prompt,), (ids,) = self._speaker.read_with(
                    [_prompt(context)], [continuation], language, self._template
                )
                told.append(_Told(self._fitted(prompt, len(ids) - 1), ids, len(ids)))
                num_cut += len(told[-1].prompt) < len(prompt)
        self._say_cut(num_cut)
        answers = self._tell(told, disable_tqdm)
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of each whole text behind nothing; a longer one than the LLM reads is told in windows."""
        told, owners = [], []
        for number, (request, language) in enumerate(self._with_languages(requests)):
            windows = list(self._windows(request.args[0], language))
            told += windows
            owners += [number] * len(windows)
        sums = [0.0] * len(requests)
        for owner, (log_probability, _) in zip(owners, self._tell(told, disable_tqdm), strict=True):
            sums[owner] += log_probability
        for request, answer in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
        return sums

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What is written after each context, up to a stop string, which is left out."""
        lengths, languages = [], []
        for request, language in self._with_languages(requests):
            with _named(request):
                (prompt,) = self._speaker.read([_prompt(request.args[0])], language, self._template)
            lengths.append(len(prompt))
            languages.append(language)
        by_options: dict[str, list[int]] = {}
        for row in sorted(range(len(requests)), key=lambda row: -lengths[row]):
            by_options.setdefault(json.dumps(requests[row].args[1], sort_keys=True, default=str), []).append(row)
        written: dict[int, str] = {}
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests") as bar:
            for rows in by_options.values():
                for start in range(0, len(rows), 4 * self._batch_size):
                    part = rows[start : start + 4 * self._batch_size]
                    texts = self._write([requests[row] for row in part], [languages[row] for row in part])
                    written |= dict(zip(part, texts, strict=True))
                    bar.update(len(part))
        return [written[row] for row in range(len(requests))]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Text that stands for messages until they are read: an encoder reads their contents, an LLM its chat template.

        Raises:
            UserError: the answer is begun (`gen_prefix`).
        """
        if not add_generation_prompt:
            raise UserError(
                "gen_prefix: the task begins the assistant's turn, which has no place here; run it without a chat template"
            )
        return _MESSAGES + json.dumps(chat_history, ensure_ascii=False)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template by which the LLM reads messages; empty where none is read by it."""
        if isinstance(chat_template, str):
            raise UserError(f"apply_chat_template={chat_template}: there are no templates by name; give template=FILE")
        return (self._template or self._speaker.chat_template or "") if chat_template else None

    @property
    def tokenizer_name(self) -> str:
        """Tells caches of requests apart."""
        return self._name.replace("/", "__")

    def _with_languages(self, requests: Sequence[Instance]) -> Iterator[tuple[Instance, str | None]]:
        """Requests with the language of their task, which is said once."""
        for request in requests:
            task = str(request.task_name)
            language = self._language_of(task) if self._needs_language else None
            if language is not None and task not in self._shown:
                _log.info("%s is read as %s", task, language)
                self._shown.add(task)
            yield request, language

    def _require_context(self, request: Instance, context: str, blanks: str) -> None:
        """Refuse to have an encoder read nothing; with examples in front of nothing say so once, for the LLM's sake.

        Choices behind nothing (`acc_mutual_info`) are asked after those of the document, which are the first.
        """
        if not self._has_encoder or request.idx:
            return
        if not context:
            raise UserError(
                "prompts[0]: no context that the encoder could read, the task's text stands in its choices; take a task with "
                "contexts, such as belebele, or plain=true"
            )
        if "\n\n" in blanks and (task := str(request.task_name)) not in self._ends_blank:
            _log.warning(
                "contexts of %s end with an empty line: does its text stand in its choices, unread by the encoder?",
                task,
            )
            self._ends_blank.add(task)

    def _windows(self, text: str, language: str | None) -> Iterator[_Told]:
        """A whole text behind nothing: the harness's windows, each behind the one token before it (in a stack behind an empty
        text of the encoder)."""
        nothing = self._speaker.read_nothing(language)
        room = (self._speaker.num_positions or _UNBOUNDED) - (len(nothing) if nothing.encoder else 0)
        windows = get_rolling_token_windows(
            token_list=self._speaker.tokens_of(text), prefix_token=-1, max_seq_len=room, context_len=1
        )
        for before, asked in map(make_disjoint_window, windows):
            if before == [-1]:
                yield _Told(nothing, asked, len(asked))
            elif nothing.encoder:
                yield _Told(nothing, [*before, *asked], len(asked))
            else:
                yield _Told(ReadPrompt([], before), asked, len(asked))

    def _fitted(self, prompt: ReadPrompt, num_behind: int) -> ReadPrompt:
        """A context that leaves room for so many tokens: where an LLM reads it itself cut from the left, as the harness does.

        Raises:
            UserError: nothing of it would be left, or an encoder reads it.
        """
        room, needed = self._speaker.num_positions, len(prompt) + num_behind
        if room is None or needed <= room:
            return prompt
        if self._speaker.sides == ["llm"] and num_behind < room:
            return replace(prompt, llm=prompt.llm[needed - room :])
        raise UserError(f"prompts[0]: {needed} tokens with its continuation, the LLM has {room} positions; shorten it")

    def _say_cut(self, count: int) -> None:
        if count:
            room = self._speaker.num_positions
            _log.warning("%d contexts are longer than the LLM's %d positions allow: cut from the left", count, room)

    @torch.no_grad()
    def _tell(self, told: Sequence[_Told], quiet: bool) -> list[tuple[float, bool]]:
        """Summed log-probability of what is asked of each, and whether all of it is likeliest."""
        found: dict[int, tuple[float, bool]] = {}
        lengths = [len(one.prompt) + len(one.ids) for one in told]
        with tqdm(total=len(told), disable=quiet, desc="Running loglikelihood requests") as bar:
            for rows in longest_first(lengths, self._batch_size):
                batch = [told[row] for row in rows]
                states = self._speaker.states_before(
                    [one.prompt for one in batch], [one.ids for one in batch], len(batch)
                )
                for row, one, before in zip(rows, batch, states, strict=True):
                    found[row] = self._sum(
                        before[len(one.ids) - one.num_asked :], one.ids[len(one.ids) - one.num_asked :]
                    )
                bar.update(len(rows))
        return [found[row] for row in range(len(told))]

    def _sum(self, states: torch.Tensor, ids: list[int]) -> tuple[float, bool]:
        total, is_greedy = 0.0, True
        for part, tokens in zip(
            states.split(_LOGIT_ROWS),
            torch.tensor(ids, dtype=torch.int64, device=states.device).split(_LOGIT_ROWS),
            strict=True,
        ):
            log_probs = self._speaker.log_probs(part)
            total += log_probs.gather(1, tokens[:, None]).double().sum().item()
            is_greedy = is_greedy and bool((log_probs.argmax(-1) == tokens).all())
        return total, is_greedy

    def _write(self, requests: Sequence[Instance], languages: Sequence[Any]) -> list[str]:
        options: dict[str, Any] = dict(normalize_gen_kwargs(requests[0].args[1], _NEW_TOKENS))
        stops = [stop for stop in options.pop("until") if stop]
        options |= {"stop_strings": stops} if stops else {}
        new_tokens = options.pop("max_gen_toks")
        if not options.get("do_sample"):
            # Tasks name settings of drawing beside greedy decoding, where they mean nothing.
            options = {name: value for name, value in options.items() if name not in Sampling.NAMES}
        prompts = [_prompt(request.args[0]) for request in requests]
        read = self._speaker.read(prompts, list(languages) if self._needs_language else None, self._template)
        rows = [self._fitted(prompt, new_tokens) for prompt in read]
        self._say_cut(sum(len(row) < len(prompt) for row, prompt in zip(rows, read, strict=True)))
        how = self._speaker.options(rows, new_tokens, self._template, **options)
        start = int(torch.randint(2**62, ()))
        written = self._speaker.write(rows, [seed_of(start, row) for row in range(len(rows))], how, self._batch_size)
        answers = [postprocess_generated_text(response.text, stops, None) for response in written]
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, answer)
        return answers


def main() -> int:
    """The harness's command line, with this model in it."""
    quiet_libraries()
    cli_evaluate()
    return 0


def _prompt(context: str) -> Any:
    """A context, or the messages that it stands for."""
    return json.loads(context.removeprefix(_MESSAGES)) if context.startswith(_MESSAGES) else context


@contextmanager
def _named(request: Instance) -> Iterator[None]:
    """A mistake inside is told with the task and the number of its document."""
    try:
        yield
    except UserError as error:
        said = str(error).removeprefix("prompts[0]: ")
        raise UserError(f"task {request.task_name}, document {request.doc_id}: {said}") from error


def _device(asked: str) -> str:
    if asked.startswith("cuda") and not torch.cuda.is_available():
        _log.info("there is no GPU: the model runs on the CPU")
        return "cpu"
    return asked


def _whole(batch_size: int | str) -> int:
    if not str(batch_size).isdecimal() or not int(batch_size):
        raise UserError(f"batch_size={batch_size}: not a whole number from 1 up; give one, or leave it out for 8")
    return int(batch_size)


if __name__ == "__main__":
    run_and_exit(main)
