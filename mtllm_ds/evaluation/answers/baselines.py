"""Baselines that need no model: the majority class and TF-IDF."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.answers.predictions import Predictions, concatenate, predictions_of
from mtllm_ds.evaluation.items.items import Item, load_items
from mtllm_ds.evaluation.items.masking import SETTINGS, in_setting
from mtllm_ds.evaluation.items.tasks import Task
from mtllm_ds.languages import ENGLISH


def joined_text(item: Item) -> str:
    """An item as one text, for systems that know no structure."""
    return "\n".join((*item.segments, *item.options))


def majority(train: Sequence[Item]) -> str:
    """The most frequent training label; of several the first in the alphabet."""
    counts = Counter(item.label for item in train)
    return min(counts, key=lambda label: (-counts[label], label))


class TfidfBaseline:
    """Character 2-5-grams within words, TF-IDF weighted, and logistic regression with balanced classes: needs no model."""

    def __init__(self, train: Sequence[Item], strength: float = 10.0) -> None:
        """Raises `UserError` if there is nothing to tell apart."""
        labels = [item.label for item in train]
        if len(set(labels)) < 2:
            raise UserError(
                f"TF-IDF: each of {len(train)} training items is '{labels[0]}', it needs two classes; give it more items"
            )
        self._vectorizer = TfidfVectorizer(
            analyzer="char_wb", ngram_range=(2, 5), min_df=min(2, len(train)), sublinear_tf=True, dtype=np.float32
        )
        self._head = LogisticRegression(C=strength, class_weight="balanced", max_iter=300)
        features = self._vectorizer.fit_transform([joined_text(item) for item in train])
        self._head.fit(features, labels)

    def __call__(self, items: Sequence[Item]) -> tuple[list[str], list[float]]:
        """Predicted labels and their probabilities."""
        probabilities = self._head.predict_proba(self._vectorizer.transform([joined_text(item) for item in items]))
        return [str(label) for label in self._head.classes_[probabilities.argmax(1)]], probabilities.max(1).tolist()


def predict_baseline(
    system: Literal["majority", "tfidf"], task: Task, languages: Sequence[str], num_train: int | None = None
) -> Predictions:
    """Train on English and answer the test items of every language: plain, and copy-masked where there are English originals.

    TF-IDF answers as `tfidf`, and once more, reading the English originals, as `english_originals_tfidf`.
    """
    train = load_items(task, "train", limit=num_train)
    constant = majority(train)
    answer = TfidfBaseline(train) if system == "tfidf" else lambda items: ([constant] * len(items), [1.0] * len(items))
    parts = []
    for language in languages:
        plain = load_items(task, "test", language)
        translated = all(item.original is not None for item in plain)
        for setting in SETTINGS if translated else ("plain",):
            items = in_setting(plain, setting)
            read: dict[str, list[Item]] = {system: items}
            if translated and system == "tfidf" and language != ENGLISH:
                read["english_originals_tfidf"] = [item.original for item in items if item.original is not None]
            for name, texts in read.items():
                answers, scores = answer(texts)
                parts.append(
                    predictions_of(
                        task.facts, items, answers, language=language, system=name, setting=setting, scores=scores
                    )
                )
    return concatenate(parts)
