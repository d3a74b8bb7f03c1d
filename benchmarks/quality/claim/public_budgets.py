"""How much of everything a run on public models does: multilingual-e5-small stacked on MiniLM or on SmolLM2.

Languages are fixed here before any model has read a test item for this claim. The rule: every language that the task's text can be
rebuilt in; those for development are the ones that the task has named for it since its first run (they have been looked at most);
all others confirm, if they pass the gates. Candidates are the plain method, the start that was chosen in the runs on toys
(`at_teacher`), and that after a stage 1 with one lever beyond the paper. Each lever of stage 1 is also compared alone, after half
the steps, with the plain method after as many. Centring goes by language tags, which this encoder does not have.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from benchmarks.quality.claim.budgets import Budget


@dataclass(frozen=True)
class Speed:
    """Core seconds per thousand tokens in bf16, for the plan only, by reader: encoder, llm, and both stacked."""

    training: dict[str, float]
    """With LoRA"""
    reading: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class PublicBudget(Budget):
    """Sizes of a run on public models, whose encoder knows no tags and translates nothing."""

    languages: tuple[str, ...]
    development: tuple[str, ...]
    connector_share: float = 1 / 15
    """Of the learning rate: 1e-4 at 1.5e-3, as in the demo's recipe"""
    speed: Speed
    english_items: int
    """Training items in English: their weight in translate-train"""
    tokens_per_item: int
    """For the plan only"""
    num_items: int
    """Test items of a language, for the plan only"""

    @property
    def settings(self) -> dict[str, Any]:
        """All but what is for the plan only."""
        figures = {"speed", "tokens_per_item", "num_items", "core_seconds_per_kilotoken"}
        return {name: value for name, value in super().settings.items() if name not in figures}

    def training_seconds(self, reader: str, steps: int) -> float:
        return 40 + steps * self.lanes * self.tokens_per_cell / 1000 * self.speed.training[reader]

    def answering_seconds(self, reader: str) -> float:
        """Each language in two settings."""
        return 30 + self.reading_seconds(reader, 2 * len(self.languages) * self.num_items)

    def ridge_seconds(self, seed: int) -> float:
        """The encoder's means are read with the first seed alone."""
        own = 2 * len(self.languages) * self.num_items + self.ridge_texts + self.english_items
        own += (len(self.languages) + 1) * (self.valid_pairs or 0)
        return (
            40
            + self.reading_seconds("llm", self.ridge_texts + self.english_items)
            + (0 if seed else self.reading_seconds("encoder", own))
        )

    def reading_seconds(self, reader: str, texts: int) -> float:
        """Of one core, for the plan only."""
        return texts * self.tokens_per_item / 1000 * self.speed.reading[reader]


HELP = (
    "cat_Latn", "deu_Latn", "dzo_Tibt", "eus_Latn", "fra_Latn", "gaz_Latn", "jpn_Jpan", "khm_Khmr", "rus_Cyrl", "spa_Latn",
    "tur_Latn", "vie_Latn", "zho_Hans",
)  # fmt: skip
DESCRIPTIONS = (
    "ces_Latn", "dan_Latn", "deu_Latn", "fra_Latn", "ita_Latn", "jpn_Jpan", "nld_Latn", "por_Latn", "rus_Cyrl", "slk_Latn",
    "spa_Latn", "swe_Latn", "zho_Hans",
)  # fmt: skip
ON_MINILM = Speed(
    training={"stacked": 1.05, "encoder": 1.05, "llm": 0.45}, reading={"stacked": 0.5, "encoder": 0.35, "llm": 0.2}
)
"""Training: 300 steps of the demo on two nearly idle cores, plain products of attention, 1,880 tokens a second together
(2026-11-27), teacher included. Reading: from its evaluation."""
ON_SMOLLM2 = Speed(
    training={"stacked": 5.5, "encoder": 1.4, "llm": 5.0}, reading={"stacked": 2.0, "encoder": 0.35, "llm": 1.7}
)
"""Reckoned from those by the multiplications of a token; not measured."""

MINILM = PublicBudget(
    name="public",
    languages=HELP,
    development=("deu_Latn", "jpn_Jpan", "khm_Khmr"),
    stage1_steps=800,
    task_steps=160,
    stage1_pilot_steps=50,
    task_pilot_steps=36,
    max_length=128,
    valid_items=300,
    stage1_texts=40_000,
    english_items=3600,
    translated_items=900,
    valid_pairs=300,
    ridge_texts=3000,
    variants=("at_teacher", "contrastive_at_teacher", "layers_at_teacher"),
    ablations=(
        "half_stage1", "half_contrastive", "half_layers", "half_encoder_layers", "half_token_loss", "random_start", "no_stage1",
        "unfrozen", "logits", "merged",
    ),
    speed=ON_MINILM,
    tokens_per_item=60,
    num_items=450,
)  # fmt: skip
"""Two quiet cores, about four hours."""
SMOLLM2 = replace(
    MINILM, name="public-smollm2", stage1_steps=160, task_steps=80, stage1_pilot_steps=20, task_pilot_steps=16,
    stage1_texts=10_000, ridge_texts=1500, test_items=300, num_items=300, variants=("at_teacher",),
    ablations=("half_stage1", "half_contrastive", "half_layers", "no_stage1"), speed=ON_SMOLLM2,
)  # fmt: skip
"""The same with an LLM of ten times the work: fewer steps, texts and candidates, and test items are drawn."""


def on_descriptions(budget: PublicBudget) -> PublicBudget:
    """Descriptions are twice as long as help text, and their test items are drawn in every budget."""
    return replace(
        budget, languages=DESCRIPTIONS, development=("deu_Latn", "jpn_Jpan"), train_items=2000, english_items=2000,
        translated_items=300, test_items=300, num_items=280, tokens_per_item=110,
    )  # fmt: skip


def smoke(budget: PublicBudget) -> PublicBudget:
    """Every kind of step on a handful of items, in few languages: shows that the mechanics work, and nothing else."""
    return replace(
        budget, name=f"{budget.name}-smoke", seeds=(0,), learning_rates=(1.5e-3,), stage1_steps=4, task_steps=4,
        stage1_pilot_steps=2, task_pilot_steps=2, lanes=4, train_items=40, english_items=40, valid_items=16, stage1_texts=120,
        test_items=6, num_items=6, valid_pairs=12, ridge_texts=60, translated_items=12, variants=("at_teacher",),
        ablations=("half_stage1", "half_layers", "random_start"), languages=(budget.development[0], "spa_Latn", "zho_Hans"),
        development=budget.development[:1],
    )  # fmt: skip


BY_BACKBONE = {"minilm": MINILM, "smollm2": SMOLLM2}
PUBLIC = ("public", "public-smoke")
"""Names of budgets as the command takes them; each backbone has its own sizes."""


def public_budget(name: str, task: str, backbone: str) -> PublicBudget:
    """The budget of `public` or `public-smoke` for a task and a backbone."""
    budget = BY_BACKBONE[backbone]
    if task == "ddtp_topics":
        budget = on_descriptions(budget)
    return smoke(budget) if name == "public-smoke" else budget
