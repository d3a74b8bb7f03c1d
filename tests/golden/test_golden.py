"""The curves of every objective stay what they were: a refactor changes no loss, gradient or validation figure."""

import json

import pytest

from tests.golden.cases import CASES, Material
from tests.golden.curves import CURVES, curve_of

GOLDEN = json.loads(CURVES.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return Material(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_the_curve_is_the_committed_one(material, name, world_size):
    found, golden = curve_of(material, name, world_size), GOLDEN[f"{name}/{world_size}"]
    assert [row.keys() for row in found] == [row.keys() for row in golden]
    for row, expected in zip(found, golden, strict=True):
        # Other CPUs add up in another order; on one machine `tests.golden.record --compare` shows the very bits.
        assert row == pytest.approx(expected, rel=2e-5, abs=1e-7)


def test_every_committed_curve_is_run():
    assert set(GOLDEN) == {f"{name}/{world_size}" for name in CASES for world_size in (1, 2)}
