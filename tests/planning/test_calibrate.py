"""Plans that begin at a measured step."""

from dataclasses import replace

import pytest

from mtllm_ds.errors import UserError
from mtllm_ds.observe.gpus import GPUS
from mtllm_ds.planning.calibrate import calibrated
from mtllm_ds.planning.hardware import Machine
from mtllm_ds.planning.paper import text_of
from mtllm_ds.planning.plan import Planner
from tests.fixtures.runs import make_run, settings_of

HOPS = {"hop_seconds_within": 0.0, "hop_seconds_between": 0.0}


@pytest.fixture(scope="module")
def planner(tmp_path_factory):
    settings = settings_of(make_run(tmp_path_factory.mktemp("plans")))
    return Planner(settings, text_of(settings, None, None))


@pytest.mark.parametrize("num_gpus", [1, 2])
@pytest.mark.parametrize("slowdown", [0.5, 3.0])
def test_the_factor_that_made_a_step_is_found_again(planner, num_gpus, slowdown):
    machine = Machine(gpu=GPUS["h200"], num_nodes=3, gpus_per_node=2, **HOPS)
    there = replace(machine, num_nodes=1, gpus_per_node=num_gpus, slowdown=slowdown)
    found = calibrated(planner, machine, num_gpus, planner.plan(there).time.step)
    assert found == replace(machine, slowdown=pytest.approx(slowdown, rel=1e-4))
    assert planner.plan(found).time.compute == pytest.approx(slowdown * planner.plan(machine).time.compute, rel=1e-4)
    assert planner.plan(found).time.within == planner.plan(machine).time.within


def test_seconds_that_cannot_be_are_one_line(planner):
    machine = Machine(gpu=GPUS["h200"], num_nodes=1, gpus_per_node=2)
    for seconds in (1e-9, 1e9):
        with pytest.raises(
            UserError, match=r"^--measured-step=\S+: on 2 GPUs this recipe takes \S+ s for collectives alone, and"
        ):
            calibrated(planner, machine, 2, seconds)
    with pytest.raises(
        UserError, match=r"^--measured-gpus=3: no multiple of the 2 GPUs of a node; give one, or set --gpus-per-node$"
    ):
        calibrated(planner, machine, 3, 1.0)
