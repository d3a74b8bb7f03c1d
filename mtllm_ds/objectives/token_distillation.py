"""Token distillation: the student goes on with a response as the teacher would, token by token.

    loss = mean over response tokens of kl_weight * T^2 * D(p_T || p_S) + nll_weight * -log p_S[token]

p_T is the frozen LLM (adapters off) behind its own prompt, asked now or beforehand (its likeliest tokens, kept beside the shards),
p_S the student behind what it reads: the stack's encoder states in place of a prompt (`replace`) or before it (`prepend`), or a
prompt of its own for the LLM with LoRA. Both carry the same response,
and both distributions come through the same frozen head, which is read once. A sample's weight multiplies the losses of its tokens;
the divisor counts tokens.

Sources: generative stacking is ours; layouts as in LangBridge (Yoon et al., ACL 2024, arXiv 2401.10695) and MindMerger (Huang et
al., NeurIPS 2024, arXiv 2405.17386); responses as in SDRRL (Zhang et al., ACL 2024, arXiv 2402.12204); divergences as in GKD
(Agarwal et al., ICLR 2024, arXiv 2306.13649).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from mtllm_ds.config.token_distillation import Rollouts
from mtllm_ds.config.token_distillation import TokenDistillation as TokenDistillationSettings
from mtllm_ds.data.columns import SAMPLE_WEIGHT
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.models.build import dtype_of
from mtllm_ds.models.continuation import continuations, num_response_tokens, read_on
from mtllm_ds.models.lm_head import OutputHead, load_output_head
from mtllm_ds.models.readers import LLMReader
from mtllm_ds.models.rollouts import StudentWriter
from mtllm_ds.models.sampling import Sampling
from mtllm_ds.models.stacked import StackedModel
from mtllm_ds.objectives.base import Objective, ObjectiveOutput, Parts, StepWeights, Sums, per_language, plain, zeros
from mtllm_ds.objectives.on_policy import OnPolicy
from mtllm_ds.objectives.token_kl_head import RowLosses, TokenKLHead, TokenLoss
from mtllm_ds.teachers.base import Teacher, TopTokens
from mtllm_ds.teachers.cached import CachedNextTokens

_FIGURES = ("kl", "nll")


class TokenDistillation(Objective):
    """Divergence of the student from the teacher and cross-entropy, at the tokens of the response."""

    student: LLMReader | StackedModel

    def __init__(
        self,
        student: LLMReader | StackedModel,
        teacher: Teacher | None,
        head: OutputHead,
        loss: TokenLoss,
        num_languages: int,
        *,
        reads_prompt: bool,
        on_policy: OnPolicy | None = None,
    ) -> None:
        """
        Args:
            teacher: None where `loss.kl_weight` is 0
            on_policy: who writes the responses in training; None takes those of the data
            reads_prompt: the student reads its prompt as the LLM does (the LLM alone, or layout `prepend` of a stack)
        """
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.losses = TokenKLHead(head, loss)
        self.num_languages = num_languages
        self.reads_prompt = reads_prompt
        self.on_policy = on_policy

    @classmethod
    def build(cls, parts: Parts) -> TokenDistillation:
        settings, student = parts.settings.objective, parts.student
        assert isinstance(settings, TokenDistillationSettings)
        assert isinstance(student, LLMReader | StackedModel)
        head = load_output_head(parts.settings.model.given_llm, student, dtype_of(parts.settings))
        loss = TokenLoss(
            kl_weight=settings.kl_weight,
            nll_weight=settings.nll_weight,
            divergence=settings.divergence,
            beta=settings.beta,
            temperature=settings.temperature,
            clip=settings.clip,
            backend=settings.backend,
        )
        reads_prompt = isinstance(student, LLMReader) or settings.layout == "prepend"
        on_policy = _on_policy(parts, settings.rollouts, head, reads_prompt) if settings.rollouts is not None else None
        return cls(
            student, parts.teacher, head, loss, parts.num_languages, reads_prompt=reads_prompt, on_policy=on_policy
        )

    def prepare(self, batches: Sequence[Batch], step: StepWeights) -> Sequence[Batch]:
        """With rollouts, the responses that the student now gives."""
        return batches if self.on_policy is None else self.on_policy.rewritten(batches, step, self.step_seed)

    def count(self, batch: Batch) -> int:
        """Number of response tokens."""
        return int(num_response_tokens(batch).sum())

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """Summed losses of the response tokens of a micro-batch."""
        encoder = isinstance(self.student, StackedModel)
        plan = continuations(batch, encoder=encoder, prompt=self.reads_prompt).to(batch.llm_ids.device)
        known: torch.Tensor | TopTokens | None = None
        if self.teacher is None or isinstance(self.teacher, CachedNextTokens):
            read = read_on(self.student, batch, plan)
        else:
            states, read = self.teacher.states_beside(batch, lambda: read_on(self.student, batch, plan))
            known = states.flatten(0, 1)[plan.teacher_before]
        if isinstance(self.teacher, CachedNextTokens):
            known = self.teacher.next_tokens(batch, plan.owners, plan.within)
        told = read.flatten(0, 1)[plan.before]
        tokens = batch.llm_ids.flatten()[plan.teacher_before + 1]
        rows = self.losses(told, known, tokens)
        loss = rows.loss
        if SAMPLE_WEIGHT in batch.extras:
            loss = loss * batch.extras[SAMPLE_WEIGHT][plan.owners]
        return ObjectiveOutput(loss.sum(), self._sums(rows, loss.detach(), batch.languages[plan.owners]))

    def empty_sums(self) -> Sums:
        languages = (self.num_languages,)
        return zeros("count", "loss", language_count=languages, **{
            name: languages for figure in _FIGURES for name in (figure, f"{figure}_count")
        })  # fmt: skip

    def _sums(self, rows: RowLosses, loss: torch.Tensor, languages: torch.Tensor) -> Sums:
        def by_language(values: torch.Tensor) -> torch.Tensor:
            return per_language(values.double(), languages, self.num_languages)

        count = by_language(torch.ones_like(loss))
        sums = {"count": count.sum(), "loss": loss.double().sum(), "language_count": count}
        for name in _FIGURES:
            values = getattr(rows, name)
            sums[name] = torch.zeros_like(count) if values is None else by_language(values)
            sums[f"{name}_count"] = torch.zeros_like(count) if values is None else count
        return sums

    def summarize(self, sums: Mapping[str, torch.Tensor], languages: Sequence[str]) -> dict[str, float]:
        """`loss`, and in nats per response token `kl` (from the teacher) and `nll`, where known; each also by language."""
        figures = {"loss": plain(sums["loss"]) / max(1.0, plain(sums["count"]))}
        for name in _FIGURES:
            count = plain(sums[f"{name}_count"].sum())
            if count:
                figures[name] = plain(sums[name].sum()) / count
        for name in _FIGURES:
            for index, language in enumerate(languages):
                seen = plain(sums[f"{name}_count"][index])
                if seen and len(languages) > 1:
                    figures[f"{name}/{language}"] = plain(sums[name][index]) / seen
        return figures


def _on_policy(parts: Parts, rollouts: Rollouts, head: OutputHead, reads_prompt: bool) -> OnPolicy:
    llm, student, chat = parts.settings.model.given_llm, parts.student, parts.chat
    assert isinstance(student, LLMReader | StackedModel)
    assert chat is not None, "shards of dialogues say how"
    writer = StudentWriter(
        llm, student, head, Sampling(temperature=rollouts.temperature, top_p=rollouts.top_p, top_k=rollouts.top_k),
        reads_prompt=reads_prompt, end_ids=[chat.end_id], gather=rollouts.gather,
    )  # fmt: skip
    return OnPolicy(rollouts, writer, llm.max_length)
