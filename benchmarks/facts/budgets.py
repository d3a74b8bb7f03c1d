"""How much of everything a run of the facts benchmark does. The protocol is the same in all budgets."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.facts.templates import FOREIGN


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Sizes of a run."""

    name: str
    languages: tuple[str, ...]
    """In which the questions are asked, beside English"""
    num_choosing: int | None
    """Most questions of each kind on which forms are chosen; None for all of their half of the countries"""
    num_reporting: int | None
    """The same of what is reported"""
    batch_size: int
    """Choices per forward"""
    seed: int = 0
    """Of the halves and the wrong choices"""
    seconds_per_question: float
    """Of four choices and their share of what is told blindly, for the plan only; twice that if asked about another country too"""

    def num_of(self, half: str) -> int | None:
        """Most questions of each kind about a half of the countries (`items.HALVES`)."""
        return self.num_choosing if half == "choosing" else self.num_reporting


CPU = Budget(
    name="cpu",
    languages=(
        "arb_Arab", "deu_Latn", "fra_Latn", "hin_Deva", "jpn_Jpan", "khm_Khmr", "rus_Cyrl", "spa_Latn", "swh_Latn", "tur_Latn",
        "vie_Latn", "zho_Hans",
    ),
    num_choosing=40,
    num_reporting=60,
    batch_size=32,
    seconds_per_question=0.6,
)  # fmt: skip
"""One busy core: English in twenty minutes, all languages within the hour."""
GPU = replace(
    CPU, name="gpu", languages=FOREIGN, num_choosing=None, num_reporting=None, batch_size=256, seconds_per_question=0.02
)
"""One GPU, for larger models: every language and every country."""
SMOKE = replace(CPU, name="smoke", languages=("deu_Latn", "jpn_Jpan"), num_choosing=2, num_reporting=2)
"""A handful of questions: shows that the mechanics work, and nothing else."""
BUDGETS = {budget.name: budget for budget in (CPU, GPU, SMOKE)}
