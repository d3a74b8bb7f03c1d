"""Tables about what a model makes of prompts, for a report of their own or beside tables of accuracies."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from mtllm_ds.data.text.prompts import Prompt
from mtllm_ds.evaluation.generation.evaluation import READINGS, SIDES, Row
from mtllm_ds.evaluation.generation.found import Found, retention
from mtllm_ds.evaluation.report.parts import Section
from mtllm_ds.languages import ENGLISH

RIVALS = ("llm", "shuffled", "none")
"""Readings that the model is compared with"""
_ANSWERS = {
    "fidelity": "in the language asked", "loops": "loops", "empty": "empty", "distinct_2": "distinct 2-grams", "words": "words",
    "chrf": "chrF", "cosine": "cosine", "cosine_of_others": "of others",
}  # fmt: skip


def sections_of(found: Mapping[str, Found], num_examples: int, starred: Collection[str] = ()) -> tuple[Section, ...]:
    """All tables; languages that are `starred` are shown so."""
    return (
        likelihoods(found, starred),
        differences(found),
        answers(found),
        *([english_kept(found[ENGLISH])] if ENGLISH in found else []),
        examples(drawn_in_turn(found, num_examples)),
    )


def likelihoods(found: Mapping[str, Found], starred: Collection[str] = ()) -> Section:
    """NLL of the response behind every reading, and divergence from the teacher."""
    columns = ["language", "prompts", *(f"NLL: {title}" for title in READINGS.values())]
    columns += [f"KL: {READINGS[name]}" for name in READINGS if name != "english"]
    rows = []
    for code, own in found.items():
        cells = [own.mean(name, "nll") for name in READINGS]
        cells += [own.mean(name, "kl") for name in READINGS if name != "english"]
        rows.append([f"{code}{'*' if code in starred else ''}", str(len(own.rows)), *map(_nats, cells)])
    return Section("Nats per token of the response", columns, rows)


def differences(found: Mapping[str, Found]) -> Section:
    """The model's NLL minus each rival's."""
    rows = [
        [code, *(str(own.difference("model", rival)) if rival in own.readings else "" for rival in RIVALS)]
        for code, own in found.items()
    ]
    columns = ["language", *(READINGS[rival] for rival in RIVALS)]
    return Section("NLL of the model minus others', nats per token (95%, groups of prompts drawn)", columns, rows)


def answers(found: Mapping[str, Found]) -> Section:
    """What greedy answers of both sides are like; a figure that no language has is left out."""
    keys = [key for key in _ANSWERS if any(key in own.figures["model"] for own in found.values())]
    columns = ["language", *(f"{_ANSWERS[key]}: {title}" for key in keys for title in SIDES.values())]
    rows = [
        [code, *(_shown(own.figures[side].get(key)) for key in keys for side in SIDES)] for code, own in found.items()
    ]
    return Section("Greedy answers", columns, rows)


def english_kept(english: Found) -> Section:
    """What training cost in English."""
    kept = retention(english)
    row = [
        f"{kept['nll_untouched']:.3f}",
        f"{kept['nll']:.3f}",
        f"{kept['nll_change_percent']:+.1f}%",
        f"{kept['kl']:.3f}",
    ]
    columns = ["NLL: untouched LLM", "NLL: model", "change", "KL"]
    return Section("English kept: both read English, nats per token", columns, [row])


def examples(rows: Sequence[Row]) -> Section:
    """Answers side by side."""
    columns = ["language", "prompt", *SIDES.values(), "response", "teacher's prompt"]
    listed = [
        [
            row["language"], text_of(row["prompt"]), *(row["answers"][side] for side in SIDES), row["response"],
            text_of(row["teacher_prompt"]),
        ]
        for row in rows
    ]  # fmt: skip
    return Section("Answers side by side, greedy", columns, listed, text_column="prompt")


def drawn_in_turn(found: Mapping[str, Found], count: int) -> list[Row]:
    """`count` prompts, languages but English in turn (English where it is alone), each another prompt as long as there are some."""
    codes = [code for code in found if code != ENGLISH] or list(found)
    most = max(len(own.rows) for own in found.values())
    turns = [(codes[number % len(codes)], number % most) for number in range(min(count, most * len(codes)))]
    return [found[code].rows[place] for code, place in turns if place < len(found[code].rows)]


def text_of(prompt: Prompt) -> str:
    """A prompt's text, of messages the last one's."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def _nats(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
