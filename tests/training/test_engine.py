"""Learning rates by step."""

import pytest

from mtllm_ds.config.sections import OptimSettings
from mtllm_ds.training.engine import schedule_scale


def test_linear_warmup_and_decay():
    optim = OptimSettings(warmup_share=0.1, schedule="linear")
    scales = [schedule_scale(optim, step, 100) for step in range(100)]
    assert scales[0] == pytest.approx(0.1)
    assert scales[9] == pytest.approx(1.0)
    assert scales[10] == pytest.approx(1.0)
    assert scales[55] == pytest.approx(0.5)
    assert scales[99] == pytest.approx(1 / 90)
    assert scales[10:] == sorted(scales[10:], reverse=True)


def test_cosine_decay():
    optim = OptimSettings(warmup_share=0.0, schedule="cosine")
    assert schedule_scale(optim, 0, 10) == pytest.approx(1.0)
    assert schedule_scale(optim, 5, 10) == pytest.approx(0.5)
    assert 0 < schedule_scale(optim, 9, 10) < 0.05
