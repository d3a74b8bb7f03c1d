"""How much of everything a run of the SDRRL benchmark does. The protocol is the same in all budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from benchmarks.sdrrl.rows import ON_POLICY, REFERENCE, ROWS, SDRRL, UNTOUCHED, WITH_KL

APERTIUM = {
    "spa_Latn": "command:apertium eng-spa", "cat_Latn": "command:apertium eng-cat", "glg_Latn": "command:apertium en-gl",
    "epo_Latn": "command:apertium en-eo",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Sizes of a run."""

    name: str
    translators: Mapping[str, str]
    """By language that is learnt"""
    rows: tuple[str, ...] = tuple(row.name for row in ROWS)
    seeds: tuple[int, ...] = (0, 1, 2)
    num_text: int
    """Instructions about English text, which have a reference answer"""
    num_self: int
    """Instructions that the model writes itself"""
    num_parallel: int
    """Lines of human parallel text a language, for the rows with completion or translation"""
    num_questions: int
    """Held-out questions, the same in all languages; half of them are the model's own"""
    num_lines: int
    """Held-out lines of human text a language; twice as many in English"""
    answer_tokens: int
    """Most tokens of an answer; of one that is cut off the whole sentences are kept"""
    instruction_tokens: int = 64
    max_length: int = 256
    """Most tokens of prompt and answer together"""
    steps: int
    samples_per_step: int
    samples_per_forward: int
    learning_rate: float
    on_policy_steps: int
    on_policy_tokens: int
    """Most tokens of a response that the student writes"""
    on_policy_learning_rate: float
    num_jobs: int = 2
    """Steps at a time, each with its share of the cores"""
    write_tokens_per_second: float
    read_tokens_per_second: float
    train_tokens_per_second: float
    """Of one job, for the plan only"""

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(self.translators)

    @property
    def num_self_questions(self) -> int:
        """Held-out questions that the model wrote itself: the last of its instructions."""
        return self.num_questions // 2

    @property
    def num_text_questions(self) -> int:
        """Held-out questions about English text."""
        return self.num_questions - self.num_self_questions

    @property
    def num_valid(self) -> int:
        """Questions of text that no row trains on, for the second stage's validation."""
        return max(2, self.num_text // 20)


CPU = Budget(
    name="cpu",
    translators=APERTIUM,
    rows=tuple(row.name for row in ROWS if row.name not in ("on_policy_question", "on_policy_gold")),
    num_text=840,
    num_self=240,
    num_parallel=600,
    num_questions=24,
    num_lines=60,
    answer_tokens=48,
    steps=150,
    samples_per_step=8,
    samples_per_forward=4,
    learning_rate=5e-4,
    on_policy_steps=40,
    on_policy_tokens=32,
    on_policy_learning_rate=2e-4,
    write_tokens_per_second=110,
    read_tokens_per_second=600,
    train_tokens_per_second=170,
)
"""Two quiet cores, about four hours by the plan's estimate, which no run has measured; 1,200 samples a training."""
GPU = replace(
    CPU, name="gpu", rows=tuple(row.name for row in ROWS), num_text=3_000, num_self=1_500, num_parallel=3_000, num_questions=100,
    num_lines=200, answer_tokens=128, steps=400, samples_per_step=32, samples_per_forward=32, on_policy_steps=60,
    on_policy_tokens=64, num_jobs=1, write_tokens_per_second=3_000, read_tokens_per_second=40_000, train_tokens_per_second=20_000,
)  # fmt: skip
"""One GPU."""
SMOKE = replace(
    CPU, name="smoke", translators=dict.fromkeys(("deu_Latn", "fra_Latn"), "assets/mt"),
    rows=(UNTOUCHED, SDRRL, REFERENCE, WITH_KL, ON_POLICY, "no_q_t_a_t", "switch_0.5", "with_completion"), seeds=(0,),
    num_text=24, num_self=6, num_parallel=20, num_questions=4, num_lines=4, answer_tokens=32, instruction_tokens=48, steps=2,
    samples_per_step=4, samples_per_forward=4, on_policy_steps=2, on_policy_tokens=8,
)  # fmt: skip
"""A row of every kind on a handful of lines of assets/text, by the translator that ships: shows that the mechanics work."""
BUDGETS = {budget.name: budget for budget in (CPU, GPU, SMOKE)}
