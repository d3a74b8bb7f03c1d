"""Byte premiums: how many bytes of UTF-8 a language takes for what English says in one, measured on parallel text.

Source: Arnett, Chang and Bergen, "A Bit of a Problem: Measurement Disparities in Dataset Sizes across Languages", SIGUL 2024,
arXiv 2403.00686.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mtllm_ds.data.writing.sources import InputFile, SourceReader
from mtllm_ds.errors import UserError
from mtllm_ds.languages import ENGLISH


@dataclass(frozen=True)
class BytePremium:
    """Of a language."""

    premium: float
    """bytes of the language over bytes of the English beside it, over all pairs together"""
    standard_error: float
    """of that ratio, as pairs are a sample"""
    num_pairs: int


def measure_premiums(inputs: Iterable[InputFile]) -> dict[str, BytePremium]:
    """Premiums by language, of files whose second field is English; a pair with a blank side is left out.

    Raises:
        UserError: a file cannot be read, is English, or has fewer than two pairs of its language.
    """
    sizes: dict[str, list[tuple[int, int]]] = {}
    for source in inputs:
        num_pairs = 0
        for document in SourceReader(source):
            if document.language == ENGLISH:
                raise UserError(f"--input={source.path}: is English, whose premium is 1; give its translations only")
            own, english = (len(text.encode()) for text in document.segments)
            if own and english:
                sizes.setdefault(document.language, []).append((own, english))
                num_pairs += 1
        if not num_pairs:
            raise UserError(f"--input={source.path}: holds no pair; give a file with both sides")
    return {code: _ratio(code, np.array(pairs, np.float64)) for code, pairs in sorted(sizes.items())}


def _ratio(language: str, pairs: np.ndarray) -> BytePremium:
    """Ratio of sums of (n, 2) pairs, and its standard error by linearisation."""
    if len(pairs) < 2:
        raise UserError(f"--input: has one pair of {language}, too few to measure; give more")
    own, english = pairs.T
    ratio = own.sum() / english.sum()
    spread = (own - ratio * english).std(ddof=1)
    return BytePremium(float(ratio), float(spread / (english.mean() * math.sqrt(len(pairs)))), len(pairs))
