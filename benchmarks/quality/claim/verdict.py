"""The verdict of the quality benchmark: confirmed, not confirmed, or gate failed. Pure functions of measured figures.

The rules were fixed before the test files were opened: see `Rules`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.answers.predictions import Predictions
from mtllm_ds.evaluation.report.parts import Section, Verdict
from mtllm_ds.evaluation.report.statistics import Difference
from mtllm_ds.evaluation.report.tables import Table


@dataclass(frozen=True)
class Rules:
    """Thresholds of the protocol."""

    min_chrf: float = 30.0
    """chrF (0 to 100) of the MT model into English, on validation text"""
    min_retrieval: float = 0.5
    """centred retrieval of the English original by the MT encoder, on validation text"""
    min_pairs: int = 50
    """a retrieval among fewer pairs says nothing; asked where the number of pairs is known"""
    max_below_tfidf: float = 0.02
    """how far a backbone's English accuracy may lie below TF-IDF's"""
    min_items: int = 300
    """a confirmation language has at least that many test items"""
    max_plain_loss: float = 0.01
    """how much worse the system may be on plain text"""
    level: float = 0.05
    """of the primary, two-sided test"""
    target_gap_closed: float = 0.5
    """share of the copy-masked gap that is to be closed; reported beside the verdict"""


@dataclass(frozen=True)
class LanguageGate:
    """Figures of the MT model for one language; NaN counts as failed."""

    chrf: float | None
    """None of an encoder that translates nothing"""
    retrieval: float
    num_items: int
    proxied: bool = False
    development: bool = False
    num_pairs: int | None = None
    """that `retrieval` is measured on"""

    def reasons(self, rules: Rules) -> list[str]:
        """Why the language does not count; empty if it does."""
        found = []
        if self.development:
            found.append("used to choose between variants")
        if self.proxied:
            found.append("read with another language's tag")
        if self.chrf is not None and not self.chrf >= rules.min_chrf:
            found.append(f"chrF {self.chrf:.1f} < {rules.min_chrf:g}")
        if not self.retrieval >= rules.min_retrieval:
            found.append(f"retrieval {self.retrieval:.2f} < {rules.min_retrieval:g}")
        if self.num_pairs is not None and self.num_pairs < rules.min_pairs:
            found.append(f"{self.num_pairs} validation pairs < {rules.min_pairs}")
        if self.num_items < rules.min_items:
            found.append(f"{self.num_items} items < {rules.min_items}")
        return found


def counting_languages(gates: Mapping[str, LanguageGate], rules: Rules) -> list[str]:
    """The confirmation languages: those that pass every gate."""
    return [code for code, gate in gates.items() if not gate.reasons(rules)]


def backbone_reason(english_accuracy: float, tfidf_accuracy: float, rules: Rules) -> str | None:
    """Why the backbone does not count, or None if it does."""
    if english_accuracy >= tfidf_accuracy - rules.max_below_tfidf - 1e-12:
        return None
    allowed = 100 * rules.max_below_tfidf
    return (
        f"the backbone's English accuracy {english_accuracy:.3f} is more than {allowed:g} points below TF-IDF's "
        f"{tfidf_accuracy:.3f}"
    )


def gates_section(gates: Mapping[str, LanguageGate], rules: Rules, gated: str = "MT model") -> Section:
    """The gates as a table of the report; `gated` says what is measured by them."""
    rows = [
        (
            code,
            "-" if gate.chrf is None else f"{gate.chrf:.1f}",
            f"{gate.retrieval:.3f}",
            str(gate.num_items),
            "; ".join(gate.reasons(rules)) or "counts",
        )
        for code, gate in gates.items()
    ]
    columns = ("language", "chrF into English", "retrieval", "items", "verdict on it")
    return Section(f"Gates of the {gated}", columns, rows, text_column="verdict on it")


def decide(
    primary: Difference | None,
    plain: Difference | None,
    *,
    gates: Mapping[str, LanguageGate],
    backbone_failure: str | None,
    rival: str,
    gap_closed: float,
    rules: Rules = Rules(),
    gated: str = "MT model",
) -> Verdict:
    """The verdict on "the stacked model beats its rival", such as translate-test with the same MT model.

    Args:
        primary, plain: the system minus the rival (the best translate-test) over the counting languages, copy-masked and plain;
            None where no language counts
        rival: name of that rival
        gap_closed: share of the copy-masked gap that the system closes
        gated: what languages have to pass the gates of
    """
    languages = counting_languages(gates, rules)
    if backbone_failure or not languages:
        reason = backbone_failure or f"no language passes the gates of the {gated}"
        return Verdict("gate failed", f"gate failed: {reason}; nothing is claimed")
    assert primary is not None
    assert plain is not None
    figures = (
        f"{100 * primary.mean:+.1f} points against {rival} on copy-masked text, 95% {100 * primary.low:+.1f} to "
        f"{100 * primary.high:+.1f}, p = {primary.p:.4f}, over {len(languages)} languages; plain {100 * plain.mean:+.1f}; "
        f"{100 * gap_closed:.0f}% of the copy-masked gap closed"
    )
    failures = []
    if primary.mean < 0 and primary.p < rules.level:
        failures.append(f"{rival} is better beyond chance")
    elif primary.mean <= 0 or primary.p >= rules.level:
        failures.append("the difference is not positive beyond chance")
    if plain.mean < -rules.max_plain_loss:
        failures.append(f"plain text is worse by more than {100 * rules.max_plain_loss:g} point")
    if failures:
        return Verdict("not confirmed", f"not confirmed: {' and '.join(failures)} ({figures})")
    short = (
        "" if gap_closed >= rules.target_gap_closed else f", short of the {100 * rules.target_gap_closed:g}% aimed at"
    )
    return Verdict("confirmed", f"confirmed: {figures}{short}")


def best_system(table: Table, candidates: Sequence[str], languages: Sequence[str]) -> str:
    """The candidate of the highest mean accuracy over some languages; chosen on the test itself, in favour of the rival."""
    means = {name: values for name in candidates if (values := table.accuracies(name, languages)) is not None}
    if not means:
        raise UserError(
            f"task {table.task}, {table.setting}: none of {', '.join(candidates)} answered all of {', '.join(languages)}; "
            "add their predictions"
        )
    return max(means, key=lambda name: float(np.mean(means[name])))


def mean_accuracy(predictions: Predictions, languages: Sequence[str]) -> float:
    """Mean over languages of the share of right answers; all languages that are there where none is given."""
    chosen = languages or sorted(set(predictions.language))
    return float(np.mean([predictions.where(language=code).correct.mean() for code in chosen]))
