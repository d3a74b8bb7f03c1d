"""The leak test: does a training text hold a test segment, or half of a test item's word 8-grams?"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mtllm_ds.errors import UserError

SIZE = 8
MAX_SHARE = 0.5


@dataclass(frozen=True)
class Leak:
    """A training text that gives away a test item; `share` of the item's 8-grams stand in it (1 for the same segment)."""

    test_text: str
    training_text: str
    share: float


def folded(text: str) -> str:
    """Lower-cased, runs of non-word characters folded to one space, stripped: what counts as the same segment."""
    return re.sub(r"\W+", " ", text.lower()).strip()


class LeakTest:
    """Compares training texts with the segments of test items, all of one language."""

    def __init__(self, test_texts: Sequence[str]) -> None:
        self._texts = list(test_texts)
        self._segments = {folded(text): number for number, text in enumerate(self._texts)}
        self._items_of: dict[str, list[int]] = defaultdict(list)
        self._num_grams: list[int] = []
        for number, text in enumerate(self._texts):
            grams = _grams(text)
            self._num_grams.append(len(grams))
            for gram in grams:
                self._items_of[gram].append(number)

    def leaks(self, training_texts: Iterable[str]) -> Iterator[Leak]:
        """Leaks in the order of the training texts. An item of fewer than eight words leaks only as a whole segment."""
        for text in training_texts:
            same = self._segments.get(folded(text))
            if same is not None:
                yield Leak(self._texts[same], text, 1.0)
                continue
            hits = Counter(number for gram in _grams(text) for number in self._items_of.get(gram, ()))
            for number, count in hits.items():
                share = count / self._num_grams[number]
                if share >= MAX_SHARE:
                    yield Leak(self._texts[number], text, share)

    def leak_free(self, training_texts: Sequence[str]) -> list[int]:
        """Row numbers of the training texts that give nothing away, in order."""
        return [row for row, text in enumerate(training_texts) if next(self.leaks([text]), None) is None]

    def require_none(self, training_texts: Iterable[str], where: str) -> None:
        """Raise `UserError` at the first leak; `where` names the training text's file."""
        for leak in self.leaks(training_texts):
            raise UserError(
                f"{where}: the training text {leak.training_text[:60]!r} holds {leak.share:.0%} of the test item "
                f"{leak.test_text[:60]!r}; leave it out of training"
            )


def _grams(text: str) -> set[str]:
    words = folded(text).split()
    return {" ".join(words[start : start + SIZE]) for start in range(len(words) - SIZE + 1)}
