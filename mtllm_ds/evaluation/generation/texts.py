"""What written answers are like: their language, whether they repeat themselves, their length, how near they are to a teacher's.

Every figure is a plain function of texts; none judges what an answer says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from mtllm_ds.evaluation.items.translated import chrf
from mtllm_ds.transfer_sets.sdrrl.filters import LanguageCheck, is_repeated

_WORD = re.compile(r"\w+")
_ORDERS = (1, 2, 3)


def answer_figures(
    answers: Sequence[str],
    teacher: Sequence[str | None],
    language: str,
    check: LanguageCheck | None,
    vectors: Mapping[str, np.ndarray] | None,
) -> dict[str, float]:
    """All figures of answers that are asked for in one language; those that lack what they need are left out.

    Args:
        teacher: answers of a teacher to the same prompts, in the same language; None where there is none
        check: None, or one that does not know the language: no `fidelity`
        vectors: `answers` and `teacher`, (N, d) of some encoder of sentences
    """
    found = {
        **{f"distinct_{order}": distinct_ngrams(answers, order) for order in _ORDERS},
        "loops": float(np.mean([is_repeated(text) for text in answers])),
        "empty": float(np.mean([not _WORD.search(text) for text in answers])),
        "words": _mean_words(answers),
    }
    if check is not None and check.knows(language):
        found["fidelity"] = language_fidelity(answers, language, check)
    compared = [place for place, text in enumerate(teacher) if text is not None]
    if not compared:
        return found
    references = [text for text in teacher if text is not None]
    found["words_of_teacher"] = _mean_words(references)
    found["chrf"] = chrf([answers[place] for place in compared], references)
    if vectors is not None:
        found |= similarity(vectors["answers"][compared], vectors["teacher"][compared])
    return found


def _mean_words(texts: Sequence[str]) -> float:
    return float(np.mean([len(_WORD.findall(text)) for text in texts]))


def language_fidelity(answers: Sequence[str], language: str, check: LanguageCheck) -> float:
    """Share of the answers that are not in another language beyond doubt; empty ones are in none."""
    return float(np.mean([bool(_WORD.search(text)) and not check.is_other(text, language) for text in answers]))


def distinct_ngrams(answers: Sequence[str], order: int) -> float:
    """Different word n-grams over all, of each answer apart, mean over answers that have some (distinct-n, Li et al., NAACL 2016);
    1 where none has. Low where answers repeat themselves."""
    shares = []
    for text in answers:
        words = _WORD.findall(text.lower())
        grams = [tuple(words[start : start + order]) for start in range(len(words) - order + 1)]
        if grams:
            shares.append(len(set(grams)) / len(grams))
    return float(np.mean(shares)) if shares else 1.0


def similarity(answers: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
    """Mean cosine of vectors (N, d) with the teacher's, and, as encoders differ in what is near, with those of other prompts."""
    own, other = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) for rows in (answers, teacher))
    cosines = own @ other.T
    found = {"cosine": float(np.diag(cosines).mean())}
    if len(own) > 1:
        apart = cosines[~np.eye(len(own), dtype=bool)]
        found["cosine_of_others"] = float(apart.mean())
    return found
