"""Why a generated text is not used: it is empty, cut off, repeats itself, or is in another language than the one asked for."""

from __future__ import annotations

import re
from typing import Any

from mtllm_ds.errors import UserError
from mtllm_ds.languages import ALIASES, check_language

REASONS = ("empty", "repeated", "cut_off", "wrong_language")
"""In the order in which they are looked for; the first counts."""
_WORD = re.compile(r"\w+|[^\w\s]")
_LETTER = re.compile(r"[^\W\d_]")
_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_LONGEST_LOOP_WORDS = 24
_LOOP_ROUNDS = 4
_SHORT_LETTERS = 20
"""Of fewer letters no language can be told."""
_TIMES_AS_LIKELY = 100.0


class LanguageCheck:
    """Tells texts of another language, by py3langid (Lui and Baldwin, ACL 2012).

    Raises:
        UserError: the package is not installed.
    """

    def __init__(self) -> None:
        try:
            from py3langid.langid import MODEL_FILE, LanguageIdentifier
        except ImportError as error:
            raise UserError(
                "--check-language: needs the package py3langid; pip install 'mtllm-ds[sdrrl]', or give --no-check-language"
            ) from error
        self._identifier: Any = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        self._labels = {
            code: short for short, code in ALIASES.items() if "_" not in short and short in self._identifier.nb_classes
        }

    def knows(self, language: str) -> bool:
        """Whether it can tell this FLORES-200 code from others."""
        return check_language(language) in self._labels

    def is_other(self, text: str, language: str) -> bool:
        """Some other language is a hundred times as likely. False for short texts, and languages that it does not know."""
        prose = _CODE.sub("", text)
        if not self.knows(language) or len(_LETTER.findall(prose)) < _SHORT_LETTERS:
            return False
        likely = dict(self._identifier.rank(prose))
        return max(likely.values()) > _TIMES_AS_LIKELY * likely[self._labels[check_language(language)]]

    def is_likeliest(self, text: str, language: str) -> bool:
        """No other language is likelier: stricter than not being another one, and often wrong about short texts of near languages.

        False for texts without letters, and languages that it does not know.
        """
        prose = _CODE.sub("", text)
        if not self.knows(language) or not _LETTER.search(prose):
            return False
        return self._identifier.classify(prose)[0] == self._labels[check_language(language)]


def why_rejected(text: str, ended: bool, language: str, check: LanguageCheck | None) -> str | None:
    """One of `REASONS`, or None for a text that can be used.

    Args:
        ended: it came to an end by itself
        check: None lets every language pass
    """
    if not re.search(r"\w", text):
        return "empty"
    if is_repeated(text):  # a loop is also cut off; the loop is what is wrong with it
        return "repeated"
    if not ended:
        return "cut_off"
    if check is not None and check.is_other(text, language):
        return "wrong_language"
    return None


def is_repeated(text: str) -> bool:
    """Whether up to 24 words (or marks) stand four times in a row, or a line of several words four times at all."""
    words = _WORD.findall(text.lower())
    for length in range(1, min(_LONGEST_LOOP_WORDS, len(words) // _LOOP_ROUNDS) + 1):
        same = 0
        for at in range(length, len(words)):
            same = same + 1 if words[at] == words[at - length] else 0
            if same >= length * (_LOOP_ROUNDS - 1) and _says_something(words[at - length + 1 : at + 1]):
                return True
    lines = [line.strip().lower() for line in text.splitlines()]
    return any(lines.count(line) >= _LOOP_ROUNDS for line in {line for line in lines if len(line.split()) > 2})


def _says_something(words: list[str]) -> bool:
    """Words, not only a rule of dashes or dots."""
    return any(_LETTER.search(word) for word in words)
