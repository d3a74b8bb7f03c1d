"""The planner begins at a measured step."""

import pytest
import yaml

from benchmarks.training.material import RECIPE, recipe_of, write_models
from benchmarks.training.scaling import draw_from_one_gpu
from benchmarks.training.sizes import SIZES


def test_more_gpus_are_planned_from_the_measured_step(tmp_path):
    """Each GPU with the same work: as many times the documents, as long as collectives are shorter than the computation."""
    size = SIZES["smoke"]
    places = write_models(size, tmp_path / "models")
    (tmp_path / RECIPE).write_text(yaml.safe_dump(recipe_of(size, tmp_path, places)))
    seconds = 0.02
    picture, found = draw_from_one_gpu(tmp_path, seconds)
    assert picture.startswith(b"\x89PNG")
    documents = size.lanes * size.samples_per_cell
    assert found[8] == pytest.approx(8 * documents / seconds, rel=0.05)
    assert sorted(found) == [2**power for power in range(3, 13)]
    assert found[4096] < 512 * found[8]
