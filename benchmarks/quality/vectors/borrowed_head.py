"""The borrowed head: a classifier fitted on the LLM's vectors of English text reads the stacked model's vectors of any language.

Nothing is tuned on the task beyond that head, so its accuracy says how well the stacked model's vectors of foreign text stand
in for the LLM's vectors of English text. Shapes: n items, d width of the LLM, e width of the MT encoder; all arrays are
float, computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.quality.vectors.ridge import fit_ridge, fvu
from mtllm_ds.evaluation.items.masking import without_copies
from mtllm_ds.languages import ENGLISH

STRENGTHS = (0.0001, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)

KNOWN_RETRIEVAL = 0.5
"""An encoder knows a language if, by its own mean states, it finds the English original of at least so many test items."""

Embed = Callable[[Sequence[str], str], np.ndarray]
"""(texts, FLORES code) -> (n, width) mean-pooled vectors."""


@dataclass(frozen=True)
class Embedders:
    """The three ways of reading text that are compared: stacked model, LLM alone, mean of the MT encoder's states."""

    stack: Callable[[Sequence[str], str], tuple[np.ndarray, np.ndarray]]
    """Vectors of the stacked model and means of its encoder's states, of one reading."""
    llm: Embed
    encoder: Embed
    """The second of `stack` alone, where nobody asks for the first."""


@dataclass(frozen=True)
class LabelledTexts:
    """Texts with their labels; `english[i]` is the English original of `texts[i]` (for English text: the same)."""

    texts: Sequence[str]
    labels: Sequence[str]
    english: Sequence[str]


def fit_head(vectors: np.ndarray, labels: Sequence[str], valid: np.ndarray, valid_labels: Sequence[str]) -> Pipeline:
    """Logistic regression on standardised vectors; its strength is the one with the best English validation accuracy."""
    heads = []
    for strength in STRENGTHS:
        head = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
        heads.append(head.fit(vectors, labels))
    return max(heads, key=lambda head: head.score(valid, valid_labels))


def centred_cosines(
    queries: np.ndarray, candidates: np.ndarray, query_mean: np.ndarray, candidate_mean: np.ndarray
) -> np.ndarray:
    """(queries, candidates) cosines after each side's own mean (over training text) is subtracted."""
    sides = []
    for vectors, mean in ((queries, query_mean), (candidates, candidate_mean)):
        centred = vectors - mean
        sides.append(centred / np.linalg.norm(centred, axis=1, keepdims=True).clip(min=1e-12))
    return sides[0] @ sides[1].T


def retrieval_accuracy(cosines: np.ndarray, texts: Sequence[str]) -> float:
    """Share of queries whose nearest candidate is the own one (same row), or reads exactly the same."""
    nearest = cosines.argmax(1)
    return float(np.mean([texts[found] == texts[own] for own, found in enumerate(nearest)]))


def majority_accuracy(train_labels: Sequence[str], test_labels: Sequence[str]) -> float:
    """Chance: always answering the most frequent training label."""
    most_frequent = max(sorted(set(train_labels)), key=list(train_labels).count)
    return float(np.mean([label == most_frequent for label in test_labels]))


def borrowed_head(
    embed: Embedders,
    train: LabelledTexts,
    valid: LabelledTexts,
    tests: dict[str, LabelledTexts],
    stage1_train: Sequence[str],
    stage1_valid: Sequence[str],
    english: str = ENGLISH,
    num_examples: int = 3,
) -> dict:
    """Evaluate the stacked model on `tests` (FLORES code -> items), everything else being English.

    Returns `{"languages": {code: {mtllm, llm, ridge, originals, retrieval, llm_retrieval, ridge_retrieval, encoder_retrieval,
    n}}, "chance", "fvu", "ridge_fvu", "gap_closed", "examples"}`: accuracies of the one head on MT-LLM vectors, on the LLM's
    own vectors of the foreign text, on the ridge's (mean encoder states -> LLM vectors) and on the LLM's vectors of the
    English originals; `retrieval` is the share of items whose English original has the highest cosine, both sides centred by
    their vectors of `stage1_valid`, by the stack, the LLM itself and the ridge; `encoder_retrieval` by the MT encoder alone,
    which tells whether it knows the language (`unknown_languages`); FVU is on `stage1_valid`.
    `gap_closed` is the mean over languages other than `english` of (mtllm - llm) divided by that of (originals - llm).
    """
    head = fit_head(embed.llm(train.texts, english), train.labels, embed.llm(valid.texts, english), valid.labels)
    target, target_valid = embed.llm(stage1_train, english), embed.llm(stage1_valid, english)
    student_valid, encoder_valid = embed.stack(stage1_valid, english)
    target_mean, student_mean = target_valid.mean(0), student_valid.mean(0)
    # Before the encoder alone is asked: much of what it then reads is among these.
    read = {code: embed.stack(test.texts, code) for code, test in tests.items()}
    ridge = fit_ridge(embed.encoder(stage1_train, english), target, encoder_valid, target_valid)

    languages: dict[str, dict] = {}
    examples: list[dict] = []
    for code, test in tests.items():
        (student, said), originals = read[code], embed.llm(test.english, english)
        own, mapped = embed.llm(test.texts, code), ridge(said)
        cosines = centred_cosines(student, originals, student_mean, target_mean)
        by_llm, by_ridge = (centred_cosines(side, originals, target_mean, target_mean) for side in (own, mapped))
        languages[code] = {
            "mtllm": float(head.score(student, test.labels)),
            "llm": float(head.score(own, test.labels)),
            "ridge": float(head.score(mapped, test.labels)),
            "originals": float(head.score(originals, test.labels)),
            "retrieval": retrieval_accuracy(cosines, test.english),
            "llm_retrieval": retrieval_accuracy(by_llm, test.english),
            "ridge_retrieval": retrieval_accuracy(by_ridge, test.english),
            "encoder_retrieval": encoder_retrieval(embed.encoder, test.texts, test.english, code, english),
            "n": len(test.texts),
        }
        if code != english and len(examples) < num_examples:
            examples.append(_example(code, test, cosines, row=len(test.texts) // 3))
    return {
        "languages": languages,
        "chance": majority_accuracy(train.labels, max(tests.values(), key=lambda test: len(test.labels)).labels),
        "fvu": fvu(student_valid, target_valid),
        "ridge_fvu": fvu(ridge(encoder_valid), target_valid),
        "gap_closed": gap_closed(foreign(languages, english)),
        "examples": examples,
    }


def foreign(languages: dict[str, dict], english: str = ENGLISH) -> dict[str, dict]:
    """Rows of the languages that are not English."""
    return {code: row for code, row in languages.items() if code != english}


def unknown_languages(languages: dict[str, dict]) -> list[str]:
    """Languages that the encoder does not know: what it makes of them leads to no English original (`KNOWN_RETRIEVAL`)."""
    return [code for code, row in languages.items() if row["encoder_retrieval"] < KNOWN_RETRIEVAL]


def encoder_retrieval(
    encoder: Embed, foreign: Sequence[str], originals: Sequence[str], code: str, english: str = ENGLISH
) -> float:
    """Retrieval of the English originals by the encoder alone: does it know the language `code`?

    Names are taken out that a text copies from its original, since they lead to it in any language; each side's own mean is
    taken off, and with it the language.
    """
    masked = [
        (without_copies(text, original), without_copies(original, text))
        for text, original in zip(foreign, originals, strict=True)
    ]
    pairs = [pair for pair in masked if all(pair)]
    if not pairs:  # English, or text that is nothing but copies of it
        return 1.0
    texts, wanted_texts = zip(*pairs, strict=True)
    own, wanted = encoder(texts, code), encoder(wanted_texts, english)
    return retrieval_accuracy(centred_cosines(own, wanted, own.mean(0), wanted.mean(0)), wanted_texts)


def gap_closed(rows: dict[str, dict]) -> float:
    """Ratio of means: how much of the distance from the LLM's own reading to the English originals is covered."""
    gained = np.mean([row["mtllm"] - row["llm"] for row in rows.values()])
    possible = np.mean([row["originals"] - row["llm"] for row in rows.values()])
    return float(gained / possible) if possible else float("nan")


def _example(code: str, test: LabelledTexts, cosines: np.ndarray, row: int) -> dict:
    """One query and its three nearest English texts."""
    nearest = np.argsort(-cosines[row])[:3]
    return {
        "language": code,
        "query": test.texts[row],
        "original": test.english[row],
        "nearest": [{"text": test.english[i], "cosine": float(cosines[row, i])} for i in nearest],
    }
