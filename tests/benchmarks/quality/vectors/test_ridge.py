"""The ridge against the normal equations, and on a linear world in which it must find the teacher."""

import numpy as np
import pytest

from benchmarks.quality.vectors.ridge import RidgeBaseline, fit_ridge


def test_ridge_equals_the_normal_equations():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(60, 4)) + 2.0, rng.normal(size=(60, 3)) - 1.0
    ridge = fit_ridge(x, y, x, y)  # validated on itself: the weakest strength wins, which is least squares
    with_ones = np.hstack([x, np.ones((60, 1))])
    expected = with_ones @ np.linalg.lstsq(with_ones, y, rcond=None)[0]
    np.testing.assert_allclose(ridge(x), expected, atol=1e-4)


def test_ridge_reads_a_linear_encoder_as_the_teacher_does():
    rng = np.random.default_rng(0)
    teacher, mixing = rng.normal(size=(300, 6)), rng.normal(size=(6, 8))
    encoder = teacher @ mixing + 3.0
    baseline = RidgeBaseline.fit(
        encoder[:200], teacher[:200], encoder[200:], teacher[200:], head=lambda x: x[:, :3], classes=("a", "b", "c")
    )
    answers, scores = baseline(encoder[200:])
    assert answers == ["abc"[best] for best in teacher[200:, :3].argmax(1)]
    assert scores == pytest.approx(teacher[200:, :3].max(1), abs=1e-3)
