"""Baselines that train no network: the majority class, TF-IDF, and the ridge from the MT encoder into the teacher's space."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from mtllm_ds.evaluation.borrowed_head import Ridge, fit_ridge
from mtllm_ds.evaluation.items import Item

Head = Callable[[np.ndarray], np.ndarray]
"""(n, d) vectors of the teacher's space -> (n, classes) scores, such as the classification head of the tuned LLM."""


def joined_text(item: Item) -> str:
    """An item as one text, for systems that know no structure."""
    return "\n".join((*item.segments, *item.options))


def majority(train: Sequence[Item]) -> str:
    """The most frequent training label; of several the first in the alphabet."""
    counts = Counter(item.label for item in train)
    return min(counts, key=lambda label: (-counts[label], label))


class TfidfBaseline:
    """Character 2-5-grams, TF-IDF weighted, and logistic regression: what needs no understanding and no model."""

    def __init__(self, train: Sequence[Item], strength: float = 10.0) -> None:
        self._vectorizer = TfidfVectorizer(
            analyzer="char", ngram_range=(2, 5), min_df=min(2, len(train)), sublinear_tf=True, dtype=np.float32
        )
        self._head = LogisticRegression(C=strength, max_iter=300)
        features = self._vectorizer.fit_transform([joined_text(item) for item in train])
        self._head.fit(features, [item.label for item in train])

    def __call__(self, items: Sequence[Item]) -> tuple[list[str], list[float]]:
        """Predicted labels and their probabilities."""
        probabilities = self._head.predict_proba(self._vectorizer.transform([joined_text(item) for item in items]))
        return [str(label) for label in self._head.classes_[probabilities.argmax(1)]], probabilities.max(1).tolist()


@dataclass(frozen=True)
class RidgeBaseline:
    """Mean states of the MT encoder, mapped in closed form to the teacher's vectors, read by the teacher's head.

    If it ties with the stacked model, stacking is unproven.
    """

    ridge: Ridge
    head: Head
    classes: tuple[str, ...]

    @classmethod
    def fit(
        cls,
        encoder: np.ndarray,
        teacher: np.ndarray,
        encoder_valid: np.ndarray,
        teacher_valid: np.ndarray,
        head: Head,
        classes: Sequence[str],
    ) -> RidgeBaseline:
        """Fit on English text that both models read: (n, e) encoder means, (n, d) teacher vectors.

        The strength of the ridge is the one with the lowest FVU on the validation part.
        """
        return cls(fit_ridge(encoder, teacher, encoder_valid, teacher_valid), head, tuple(classes))

    def __call__(self, encoder: np.ndarray) -> tuple[list[str], list[float]]:
        """(n, e) encoder means of any language -> predicted labels and their scores."""
        scores = self.head(self.ridge(encoder))
        return [self.classes[best] for best in scores.argmax(1)], scores.max(1).tolist()
