"""Multiplications and additions of matrix products, from their shapes: what a plan and a run both count with."""

from __future__ import annotations

FUSED_ATTENTION_BACKWARD = 2.5
"""In forwards: the scores once more, and four products, of the gradients of values, weights, queries and keys"""


def product_flops(rows: int, inner: int, outer: int) -> int:
    """(rows, inner) x (inner, outer)."""
    return 2 * rows * inner * outer


def attention_flops(pairs: int, key_width: int, value_width: int) -> int:
    """Scores and weighted values of so many pairs of a query and a key, those of each head counted; a causal or padded half counts
    in full, as is the custom (Chowdhery et al., PaLM, 2022, arXiv 2204.02311, appendix B)."""
    return product_flops(pairs, key_width, 1) + product_flops(pairs, value_width, 1)


def head_flops(rows: int, vocabulary: int, width: int, num_products: int) -> int:
    """A loss on an output head: a product for each side that is projected, and for each gradient that is formed."""
    return product_flops(rows, width, vocabulary) * num_products
