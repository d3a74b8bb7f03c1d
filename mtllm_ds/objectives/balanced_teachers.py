"""One multilingual language model learns from one monolingual teacher per language.

    loss = alpha T^2 KL(teacher || student) + (1 - alpha) cross-entropy, mean over the tokens that are asked for

Masked language models are asked for masked tokens, causal ones for every next token. Teacher and student read the same masked text;
the states of tokens that nobody is asked for go no further than the body. Without teachers it is language modelling.

Source: Limisiewicz, Malkin and Stanovsky, SIGTYP 2023, arXiv 2210.07135.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch

from mtllm_ds.config.balanced import BalancedTeachers as BalancedTeachersSettings
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.data.text.tokenization import TokenizerSpec, load_text_tokenizer
from mtllm_ds.data.text.vocabulary import vocabulary_of
from mtllm_ds.models.build import dtype_of
from mtllm_ds.models.lm_head import OutputHead
from mtllm_ds.models.readers import Reader
from mtllm_ds.models.trained_head import load_trained_head
from mtllm_ds.objectives.asked_tokens import AskedTokens, Draw, MaskedTokens, Masking, NextTokens
from mtllm_ds.objectives.base import Objective, ObjectiveOutput, Parts, StepWeights, Sums, per_language, plain, zeros
from mtllm_ds.objectives.mapped_kl import Mapped
from mtllm_ds.objectives.taught_head import FIGURES, Group, Lesson, TaughtHead
from mtllm_ds.teachers.bank import BankTeacher, TeacherBank

_NOTE, _COMING = "asked tokens", "teachers of the next forward"


class Asked(NamedTuple):
    """The tokens of a forward that are asked for, those of a language together. M tokens, at least one row."""

    ids: torch.Tensor
    """(B, S) int64 that is read"""
    places: torch.Tensor
    """(M,) int64 of each token among the flattened ids"""
    valid: torch.Tensor | None
    """(M,) bool; None where all count"""
    spans: list[tuple[str, slice]]
    """Language code and its part of the M"""


class BalancedTeachers(Objective):
    """A student with a trained head, and a bank of teachers or none."""

    def __init__(
        self,
        student: Reader,
        head: OutputHead,
        asks: AskedTokens,
        bank: TeacherBank | None,
        num_languages: int,
        settings: BalancedTeachersSettings,
        *,
        label_weight: float | None = None,
    ) -> None:
        """`label_weight`: of the cross-entropy; 1 - alpha where None."""
        super().__init__()
        self.student = student
        self.lm_head = head
        self.taught = TaughtHead(
            head,
            label_weight=1 - settings.alpha if label_weight is None else label_weight,
            temperature=settings.temperature if bank is not None else 1.0,
        )
        self.asks = asks
        self.num_languages = num_languages
        self.settings = settings
        self._bank = bank

    @classmethod
    def build(cls, parts: Parts) -> BalancedTeachers:
        settings, llm = parts.settings.objective, parts.settings.model.given_llm
        assert isinstance(settings, BalancedTeachersSettings)
        head = load_trained_head(llm, parts.student, dtype_of(parts.settings), seed=parts.settings.run.seed)
        return cls(parts.student, head, _asks(parts), parts.bank, parts.num_languages, settings)

    def count(self, batch: Batch) -> int:
        """Number of tokens that are asked for."""
        return sum(self._numbers(batch))

    def prepare(self, batches: Sequence[Batch], step: StepWeights) -> Sequence[Batch]:
        """Notes of each forward whose teachers the next one needs; of the last, that of the next step."""
        for batch, coming in pairwise(batches):
            batch.host.noted[_COMING] = tuple(dict.fromkeys(_code(coming, language) for language in _languages(coming)))
        batches[-1].host.noted[_COMING] = step.coming
        return batches

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """Summed losses of a micro-batch. M tokens are asked for."""
        asked = self._asked(batch)
        states = self.student.padded_states(_showing(batch, asked.ids))
        rows = self.lm_head.prepared(states.flatten(0, 1)[asked.places - self.asks.back])
        wanted = batch.llm_ids.flatten()[asked.places]
        lessons = self._lessons(batch, asked)
        groups = [Group(span, lessons.get(language)) for language, span in asked.spans]
        loss, losses, figures = self.taught(rows, wanted, asked.valid, groups, not self.training)
        return ObjectiveOutput(loss, self._sums(batch, asked, groups, losses, figures))

    def _asked(self, batch: Batch) -> Asked:
        """What the host knows of the numbers orders the tokens by language; nothing waits for the device."""
        numbers = self._numbers(batch)
        shown, asked = self.asks.shown(batch, self._draw())
        total = sum(numbers)
        # Tokens that are asked for come first, in the order of the rows.
        places = asked.flatten().logical_not().long().argsort(stable=True)[: max(1, total)]
        if not total:  # one row that counts nothing keeps the graph, and ranks in step
            return Asked(shown, places, torch.zeros_like(places, dtype=torch.bool), [("", slice(0, 1))])
        ends = list(accumulate(numbers))
        spans, order, start = [], [], 0
        for language in dict.fromkeys(_languages(batch)):
            own = [i for i in range(len(numbers)) if batch.host.languages[i] == language]
            order += [place for i in own for place in range(ends[i] - numbers[i], ends[i])]
            if len(order) > start:
                spans.append((_code(batch, language), slice(start, len(order))))
            start = len(order)
        return Asked(shown, places[_to(order, places.device)], None, spans)

    def _lessons(self, batch: Batch, asked: Asked) -> dict[str, Lesson]:
        """What teachers say of the tokens of their languages."""
        if self._bank is None:
            return {}
        spans = dict(asked.spans) if asked.valid is None else {}
        lessons = {}
        for language in self._bank.asked(spans):
            teacher = self._bank.teacher(
                language
            )  # in shares by all ranks together, of languages that this one does not hold too
            if language in spans:
                lessons[language] = self._lesson(teacher, language, batch, asked, spans[language])
        self._bank.expect(batch.host.noted.get(_COMING, ()))
        return lessons

    def _lesson(self, teacher: BankTeacher, language: str, batch: Batch, asked: Asked, span: slice) -> Lesson:
        own = [i for i, found in enumerate(batch.host.languages) if _code(batch, found) == language]
        width = max(batch.host.num_tokens["llm"][i] for i in own)
        rows = _to(own, asked.ids.device)
        states = teacher.answers(asked.ids[rows, :width], batch.llm_mask[rows, :width])
        # Where each of the batch's rows lies among those that the teacher read.
        row_of = torch.zeros(len(batch), dtype=torch.int64, device=rows.device).scatter(
            0, rows, torch.arange(len(own), device=rows.device)
        )
        places = asked.places[span] - self.asks.back
        of_rows, at = row_of[places // asked.ids.shape[1]], places % asked.ids.shape[1]
        return _lesson_of(teacher, states[of_rows, at])

    def _sums(
        self,
        batch: Batch,
        asked: Asked,
        groups: Sequence[Group],
        losses: Sequence[torch.Tensor],
        figures: torch.Tensor | None,
    ) -> Sums:
        languages = batch.languages[asked.places // asked.ids.shape[1]]
        sums = {name: zero.to(languages.device) for name, zero in self.empty_sums().items()}
        if asked.valid is not None:
            return sums
        for group, loss in zip(groups, losses, strict=True):
            sums["loss"].index_add_(0, languages[group.rows.start : group.rows.start + 1], loss.double()[None])
        ones = torch.ones(len(languages), dtype=torch.float64, device=languages.device)
        sums["count"] = per_language(ones, languages, self.num_languages)
        if figures is not None:
            sums["told"] = sums["count"]
            for name, values in zip(FIGURES, figures.unbind(1), strict=True):
                sums[name] = per_language(values, languages, self.num_languages)
        return sums

    def empty_sums(self) -> Sums:
        """By language (L,): tokens asked for and their loss; of validation, tokens told and their figures."""
        return zeros(**dict.fromkeys(("count", "loss", "told", *FIGURES), (self.num_languages,)))

    def summarize(self, sums: Mapping[str, torch.Tensor], languages: Sequence[str]) -> dict[str, float]:
        """`loss`; of validation also `nll` (nats per token), `accuracy` and, with teachers, `kl` and `teacher_nll`; each of them by
        language too, where there are several: `nll/deu_Latn` against `teacher_nll/deu_Latn` says what its teacher knows. Where
        teachers lack some of the tokens, `shared_nll` is the student's over those that `teacher_nll` counts."""
        of = {"loss": "count"}
        if plain(sums["told"].sum()):
            of |= {"nll": "told", "right": "told"} | ({"kl": "told", "teacher_nll": "taught"} if self._bank else {})
            if self._bank and plain(sums["taught"].sum()) < plain(sums["told"].sum()):
                of["shared_nll"] = "taught"
        spelled = {name: {"right": "accuracy"}.get(name, name) for name in of}
        figures = {spelled[name]: _mean(sums[name].sum(), sums[count].sum()) for name, count in of.items()}
        for index, language in enumerate(languages if len(languages) > 1 else ()):
            seen = {name: count for name, count in of.items() if plain(sums[count][index])}
            figures |= {
                f"{spelled[name]}/{language}": _mean(sums[name][index], sums[count][index])
                for name, count in seen.items()
            }
        return figures

    def _numbers(self, batch: Batch) -> list[int]:
        """(B,) tokens asked for of each row, worked out once, while the batch is on the host."""
        draw = self._draw()
        noted = batch.host.noted.get(_NOTE)
        if noted is None or noted[0] != draw:
            noted = batch.host.noted[_NOTE] = draw, self.asks.numbers(batch, draw)
        return noted[1]

    def _draw(self) -> Draw:
        if self.training:
            return Draw(self.step_seed, self.settings.mask_share_at(self.step_share))
        return Draw(None, self.settings.mask_share_at(1.0))


def _asks(parts: Parts) -> AskedTokens:
    settings, llm = parts.settings.objective, parts.settings.model.given_llm
    assert isinstance(settings, BalancedTeachersSettings)
    if not llm.bidirectional:
        return NextTokens()
    spec = TokenizerSpec(name=llm.name, revision=llm.revision, side="llm", trust_remote_code=llm.trust_remote_code)
    masking = Masking(
        mask_token_share=settings.mask_token_share,
        random_token_share=settings.random_token_share,
        whole_words=settings.whole_words,
    )
    return MaskedTokens(vocabulary_of(load_text_tokenizer(spec)), masking)


def _lesson_of(teacher: BankTeacher, states: torch.Tensor) -> Lesson:
    """Holds on to the weights on the device, though the teacher may give way to another before they are used."""
    head = teacher.head
    mapped = Mapped(teacher.own, teacher.theirs, teacher.has_rest) if teacher.is_mapped else None
    if head is None:
        return Lesson(states, None, None, None, mapped)
    bias = None if head.bias is None else head.bias.detach()
    with torch.no_grad():
        prepared = head.prepared(states)
    return Lesson(prepared, head.weight.detach(), bias, head.softcap, mapped)


def _languages(batch: Batch) -> Iterator[int]:
    """Languages of the valid rows."""
    return iter(batch.host.languages[: batch.host.num_valid])


def _code(batch: Batch, language: int) -> str:
    return batch.language_codes[language] if batch.language_codes else ""


def _showing(batch: Batch, ids: torch.Tensor) -> Batch:
    """The batch with other ids (B, S) in place of the LLM's, packed too where it is."""
    packed = batch.packed
    if packed is not None:
        layout = packed.llm
        shown = ids[layout.segment_ids.clamp(min=0), layout.position_ids]
        packed = replace(packed, llm_ids=torch.where(layout.segment_ids >= 0, shown, packed.llm_ids))
    return replace(batch, llm_ids=ids, packed=packed)


def _mean(total: torch.Tensor, count: torch.Tensor) -> float:
    return plain(total) / max(1.0, plain(count))


def _to(values: Sequence[int], device: torch.device) -> torch.Tensor:
    """Made on the host, on its way to the device without waiting for what that has to do."""
    made = torch.tensor(values, dtype=torch.int64)
    return made.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else made.to(device)
