"""The version of a cursor stands for the order: whatever changes the one must raise the other."""

import hashlib

import numpy as np
import pytest

from mtllm_ds.config.data import MixingSettings, OrderSettings
from mtllm_ds.data.stream import order as order_module
from mtllm_ds.data.stream.order import Order
from mtllm_ds.data.stream.schedule import CURSOR_VERSION, Schedule
from mtllm_ds.draws import permutation
from tests.data.stream.test_epochs import manifest_of

DIGESTS = {4: "24791437552efbf5"}
"""By version. A change of the order needs a version of its own: a checkpoint would be resumed with other samples."""


def digest():
    """Of the samples of some hundred steps, with cells of a fixed count and with token budgets; and of the longest stretch."""
    manifest = manifest_of([3000, 700, 5], block=64)
    manifest.encoder_lengths = 1 + permutation(manifest.num_samples, 1) % 19
    manifest.llm_lengths = 1 + permutation(manifest.num_samples, 2) % 23
    weights = dict(zip(manifest.languages, (0.5, 0.3, 0.2), strict=True))
    later = {"from_step": 20, "rule": "explicit", "weights": weights}
    mixing = MixingSettings(cycle_draws=16, phases=(later,))
    budgets = {"encoder_tokens_per_cell": 40, "llm_tokens_per_cell": 45}
    found = hashlib.sha256(str(order_module.MAX_STRETCH_SAMPLES).encode())  # too long to go through here
    for cells in ({"samples_per_cell": 7}, {**budgets, "queue_size": 4}):
        order = Order(manifest, OrderSettings(lanes=5, mixing=mixing, **cells), seed=3)
        schedule = Schedule(order, range(5))
        for _ in range(300):
            for rows in schedule.next_cells().values():
                found.update(np.append(rows, -1).astype("<i8").tobytes())
    return found.hexdigest()[:16]


def test_the_order_is_that_of_its_version():
    assert digest() == DIGESTS[CURSOR_VERSION]


@pytest.mark.parametrize("constant", ["DRAW_SAMPLES", "STEPS_OF_ROUND", "STRETCH_QUEUES", "MAX_STRETCH_SAMPLES"])
def test_its_digest_tells_when_a_constant_changes(monkeypatch, constant):
    monkeypatch.setattr(order_module, constant, getattr(order_module, constant) // 2)
    assert digest() != DIGESTS[CURSOR_VERSION]
