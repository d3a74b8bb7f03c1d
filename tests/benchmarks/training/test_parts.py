"""Where the seconds of a step go, told by a profile of the product's own loop on two ranks."""

import json

import pytest
import torch

from benchmarks.training import parts
from benchmarks.training.parts import OUTSIDE, PARTS
from benchmarks.training.sizes import SIZES
from tests.distributed.ranks import ranks


class Free:
    """Takes the place of `Turns`: nobody waits."""

    def next(self):
        pass


def profile(folder):
    parts.profiled(Free(), folder)


def test_parts_and_kinds_of_operators_make_up_the_step(material):
    ranks(2).run(profile, material)
    found = json.loads((material / PARTS).read_text())
    assert sum(found["parts"].values()) == pytest.approx(found["step"], rel=1e-3)
    assert sum(found["kinds"].values()) == pytest.approx(found["step"], rel=1e-3)
    assert {
        "data",
        "encoder",
        "connector",
        "teacher",
        "student forward",
        "backward",
        "collectives",
        "optimizer",
    } <= set(found["parts"])
    assert found["kinds"]["products"] > 0
    # Of both passes and the gradients of all inputs, at the LLM's linear layers alone; the rest is the encoder's and LoRA's.
    size = SIZES["smoke"]
    tokens = size.lanes // size.num_ranks * size.samples_per_cell * size.lengths
    width, middle, depth = (size.llm[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    weights = depth * (3 * width * middle + 3 * width * width)
    assert 3 * 2 * tokens * weights < found["product_flops"] < 2 * 3 * 2 * tokens * weights


def test_operators_are_told_apart_by_name():
    with torch.profiler.profile() as profiler:
        one = torch.randn(64, 64)
        torch.mm(one, one).add_(1).clone()
    found = parts.by_kind(profiler.key_averages())
    assert {"products", "copies", "other operators"} <= set(found)
    assert parts._kind_of("autograd::engine::evaluate_function: MmBackward0") == OUTSIDE
