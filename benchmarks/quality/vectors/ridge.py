"""The ridge: mean states of the MT encoder, mapped in closed form to the teacher's vectors, read by the teacher's head.

If it ties with the stacked model, stacking is unproven. Shapes: n texts, e width of the MT encoder, d width of the teacher;
float arrays, computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RIDGES = tuple(10.0**k for k in range(-10, 4))

Head = Callable[[np.ndarray], np.ndarray]
"""(n, d) vectors of the teacher's space -> (n, classes) scores, such as the classification head of the tuned LLM."""


@dataclass(frozen=True)
class Ridge:
    """Closed-form linear map with offset: `(x - x_mean) @ weight + y_mean`."""

    x_mean: np.ndarray
    y_mean: np.ndarray
    weight: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return (x - self.x_mean) @ self.weight + self.y_mean


def fvu(predicted: np.ndarray, target: np.ndarray) -> float:
    """Fraction of the target's variance unexplained: sum |p - t|^2 / sum |t - mean(t)|^2."""
    return float(np.square(predicted - target).sum() / np.square(target - target.mean(0)).sum())


def fit_ridge(x: np.ndarray, y: np.ndarray, x_valid: np.ndarray, y_valid: np.ndarray) -> Ridge:
    """Ridge regression from `x` (n, e) to `y` (n, d); its strength is the one with the lowest FVU on the validation part.

    Strengths are relative to the mean eigenvalue of the covariance of `x`, so the grid fits any scale.
    """
    x_mean, y_mean = x.mean(0, dtype=np.float64), y.mean(0, dtype=np.float64)
    x_centred, y_centred = x - x_mean, y - y_mean
    eigenvalues, basis = np.linalg.eigh(x_centred.T @ x_centred / len(x))
    rotated = basis.T @ (x_centred.T @ y_centred) / len(x)
    candidates = []
    for strength in RIDGES:
        shrunk = eigenvalues.clip(min=0)[:, None] + strength * eigenvalues.mean()
        candidates.append(Ridge(x_mean, y_mean, basis @ (rotated / shrunk)))
    return min(candidates, key=lambda ridge: fvu(ridge(x_valid), y_valid))


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
