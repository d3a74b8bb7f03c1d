"""What counts as a spike of the loss."""

import random

from mtllm_ds.config.failures import FailureSettings
from mtllm_ds.training.history import History

FAILURES = FailureSettings(spike_window=50, spike_factor=6)


def history_of(losses):
    history = History()
    for loss in losses:
        history.note_loss(loss, FAILURES)
    return history


def test_a_loss_far_above_its_window_is_a_spike_and_noise_is_none():
    draw = random.Random(0)
    losses = [2.0 + draw.gauss(0, 0.1) for _ in range(500)]
    history = History()
    for loss in losses:
        assert not history.is_spike(loss, FAILURES)
        history.note_loss(loss, FAILURES)
    assert history.recent_losses == losses[-50:]
    assert history.is_spike(3.0, FAILURES)
    assert not history.is_spike(0.1, FAILURES)


def test_early_losses_and_flat_ones_make_no_spike():
    assert not history_of([1.0] * 19).is_spike(100.0, FAILURES)
    assert history_of([1.0] * 20).is_spike(100.0, FAILURES)
    assert not history_of([1.0] * 50).is_spike(1.001, FAILURES)


def test_one_spike_in_the_window_hides_no_other():
    assert history_of([*[1.0, 1.1] * 15, 50.0]).is_spike(20.0, FAILURES)
