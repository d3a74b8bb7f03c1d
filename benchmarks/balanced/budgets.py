"""How much of everything a run of the balanced benchmark does. The protocol is the same in all budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Sizes of a run."""

    name: str
    high: tuple[str, ...]
    """Languages with much text. English is read off the English sides of the others' pairs."""
    low: tuple[str, ...]
    """Languages with little text: a cut of what there is, whoever else has more of them"""
    high_lines: int
    low_lines: int
    """Lines a language at most, before a tenth is held out"""
    test_lines: int
    valid_lines: int
    """Held-out lines a language at most"""
    least_ratio: float = 4.0
    """Characters to train on of the smallest high-resource language over those of the largest low-resource one, or the run stops"""
    seeds: tuple[int, ...] = (0, 1, 2)
    vocab_size: int
    model: Mapping[str, object] = field(default_factory=dict)
    """Settings of the architecture, of teachers and students alike"""
    max_length: int = 64
    lines_per_step: int
    teacher_steps: int
    student_steps: int
    learning_rate: float
    mask_share: float
    alpha: float = 0.5
    temperature: float = 1.0
    transfer_steps: int
    """Of the head that is trained on English labels"""
    passes: int = 7
    num_jobs: int = 2
    minutes: float | None = None
    """After so many a run ends, and goes on another time; None: when all is done"""
    seconds_per_step: float
    """Training time of a student without teachers on one quiet core, for the plan only"""

    @property
    def languages(self) -> tuple[str, ...]:
        return (*self.high, *self.low)

    @property
    def extra_steps(self) -> int:
        """Steps of a student that come to what its teachers cost.

        Their training, a step as dear as the student's own; and their forwards beside it, a third of a step each.
        """
        return len(self.languages) * self.teacher_steps + self.student_steps // 3


TINY = {
    "model_type": "modernbert", "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "initializer_range": 0.07,
}  # fmt: skip
"""Rotary positions, norms before the layers and weights drawn wide: small models leave the plateau of guessing by frequency within
some hundred steps, where BERT's own layout stays there for thousands."""
CPU = Budget(
    name="cpu",
    high=("eng_Latn", "deu_Latn", "fra_Latn", "rus_Cyrl"),
    low=("cat_Latn", "eus_Latn", "gaz_Latn", "khm_Khmr"),
    high_lines=24_000,
    low_lines=3_500,
    test_lines=500,
    valid_lines=200,
    vocab_size=4_000,
    model=TINY,
    lines_per_step=16,
    teacher_steps=2_000,
    student_steps=4_500,
    learning_rate=3e-3,
    mask_share=0.3,
    transfer_steps=200,
    seconds_per_step=0.11,
)
"""Two quiet cores, some hours."""
GPU = replace(
    CPU, name="gpu", vocab_size=16_000, lines_per_step=256, teacher_steps=3_000, student_steps=6_000,
    learning_rate=1e-3, seconds_per_step=0.05, num_jobs=4, minutes=8,
    model=TINY
    | {"hidden_size": 384, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 6}
    | {"initializer_range": 0.04},
)  # fmt: skip
"""One GPU, in parts."""
SMOKE = replace(
    CPU, name="smoke", high=("eng_Latn", "deu_Latn"), low=("fra_Latn", "khm_Khmr"), high_lines=250, low_lines=100,
    test_lines=12, valid_lines=8, least_ratio=1.5, seeds=(0,), vocab_size=600, lines_per_step=4, teacher_steps=4,
    student_steps=4, transfer_steps=4,
    model=TINY | {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
)  # fmt: skip
"""Every kind of step on a handful of lines: shows that the mechanics work, and nothing else."""
BUDGETS = {budget.name: budget for budget in (CPU, GPU, SMOKE)}
