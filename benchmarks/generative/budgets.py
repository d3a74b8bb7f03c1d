"""How much of everything a run of the generative benchmark does. The protocol is the same in all budgets."""

from __future__ import annotations

from dataclasses import dataclass, replace

UNKNOWN_TO_E5 = ("gaz_Latn", "dzo_Tibt")
"""Oromo and Dzongkha are not among the hundred languages of XLM-R's vocabulary and text: shown apart, left out of every mean."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Sizes of a run."""

    name: str
    languages: tuple[str, ...]
    """Of the held-out prompts; English is asked beside them"""
    num_heldout: int
    """Held-out paragraphs of the help, the same in every language"""
    num_descriptions: int
    """Held-out descriptions of packages, in each language that has translations"""
    num_train: int
    """Training prompts from the help, English"""
    num_train_descriptions: int
    """The same from descriptions of packages"""
    num_valid: int
    """Validation prompts, English"""
    train_tokens: int = 32
    heldout_tokens: int = 48
    """Most tokens that the LLM answers a prompt with"""
    max_length: int = 224
    """Most tokens of prompt and answer together, and of the encoder"""
    steps: int
    samples_per_step: int
    samples_per_forward: int
    learning_rate: float = 1e-3
    connector_share: float = 1 / 30
    """Of the learning rate, for a connector that starts by least squares"""
    checkpoints: int = 8
    """Times that a training validates and saves"""
    num_examples: int = 20
    num_ranks: int = 2
    """Processes, each with its share of the cores: on CPU two of one thread do more than one of two"""
    tokens_per_second: float
    """That the LLM writes in batches, for the plan only"""
    seconds_per_sample: float
    """Of training, for the plan only"""


CPU = Budget(
    name="cpu",
    languages=(
        "deu_Latn", "fra_Latn", "jpn_Jpan", "khm_Khmr", "rus_Cyrl", "spa_Latn", "tur_Latn", "vie_Latn", "zho_Hans", "gaz_Latn",
    ),
    num_heldout=96,
    num_descriptions=32,
    num_train=6_000,
    num_train_descriptions=2_000,
    num_valid=96,
    steps=750,
    samples_per_step=32,
    samples_per_forward=8,
    tokens_per_second=200,
    seconds_per_sample=0.4,
)  # fmt: skip
"""Two quiet cores, some hours."""
GPU = replace(
    CPU, name="gpu", num_heldout=300, num_descriptions=100, num_train=13_000, num_train_descriptions=2_500, steps=2_000,
    samples_per_step=64, samples_per_forward=64, num_ranks=1, tokens_per_second=2_000, seconds_per_sample=0.01,
)  # fmt: skip
"""One GPU."""
SMOKE = replace(
    CPU, name="smoke", languages=("deu_Latn", "jpn_Jpan", "gaz_Latn"), num_heldout=6, num_descriptions=0, num_train=12,
    num_train_descriptions=0, num_valid=4,
    train_tokens=8, heldout_tokens=12, max_length=160, steps=4, samples_per_step=4, samples_per_forward=2, checkpoints=2,
    num_examples=3,
)  # fmt: skip
"""Every step on a handful of prompts of assets/text: shows that the mechanics work, and nothing else."""
BUDGETS = {budget.name: budget for budget in (CPU, GPU, SMOKE)}
