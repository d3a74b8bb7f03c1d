"""Training on two nodes, each with a network and process numbers of its own: the link is cut, or one node dies in the middle."""

import json
import re
import subprocess
import sys
import time

import pytest

from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.training.assemble import run_training
from tests.distributed.nodes import DEEPSPEED, Cluster, why_no_ssh, why_not
from tests.distributed.ranks import ranks
from tests.fixtures.runs import REPOSITORY, losses_of, make_run, settings_of

STEPS, STRUCK = 48, 7
"""Of a run, and when it is struck: a busy machine must not finish it before the blow is felt."""
BOUND_SECONDS = 20
"""Of a step, before a watcher ends it."""
LONG_SECONDS = 240
"""For what a busy machine does sooner, or never."""
PHASE = re.compile(r"while (preparing|taking|waiting for the data of|logging|saving) step \d+")
ENVIRONMENT = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "eth0"}

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("two_nodes"))


@pytest.fixture(scope="module")
def truth(recipe):
    """Losses of the same run where nothing happens, on two ranks of one node."""
    settings = overrides(recipe, "whole")
    assert ranks(2).run(train, recipe, settings) == [None, None]
    return losses_of(settings_of(recipe, **settings))


@pytest.fixture
def cluster(tmp_path, request):
    made = Cluster(tmp_path / "cluster", with_ssh=request.param)
    yield made
    made.close()


def train(recipe, settings):
    """On a rank of a pool."""
    run_training(settings_of(recipe, **settings), join_cluster(), resume=False)


def overrides(recipe, name):
    return {
        "run__output_dir": recipe.parent / name, "run__max_steps": STEPS, "run__save_every": 5, "run__validate_every": 500,
        "failures__step_seconds": BOUND_SECONDS,
    }  # fmt: skip


def training(recipe, name):
    settings = [f"{key.replace('__', '.')}={value}" for key, value in overrides(recipe, name).items()]
    return [str(REPOSITORY / "launchers" / "train.py"), "--recipe", str(recipe), "--resume", "auto", *settings]


def wait_for_step(recipe, name, step, cluster):
    """Poll until the run has logged `step`."""
    metrics = recipe.parent / name / "metrics.jsonl"
    end = time.monotonic() + LONG_SECONDS
    while time.monotonic() < end:
        if metrics.is_file() and any(
            json.loads(line)["step"] >= step for line in metrics.read_text().splitlines()[-2:]
        ):
            return
        time.sleep(0.01)
    pytest.fail(f"no step {step}: {[node.said for node in cluster.nodes]}")


def statuses_of(launchers, cluster):
    """Exit statuses, in time."""
    try:
        return [launcher.wait(LONG_SECONDS) for launcher in launchers]
    except subprocess.TimeoutExpired:
        pytest.fail(f"still there: {[node.said for node in cluster.nodes]}")


def until_gone(node):
    """No rank, reader or launcher of the run is left."""
    end = time.monotonic() + LONG_SECONDS
    while node.num_processes("launchers/train.py") and time.monotonic() < end:
        time.sleep(0.1)
    assert node.num_processes("launchers/train.py") == 0, node.said


def words_of_watchers(cluster):
    return [line for node in cluster.nodes for line in node.said.splitlines() if "watch: " in line]


def assert_resumes_on_one_node(recipe, name, cluster, command, folder, truth):
    """On the node that is left; its end of the link may be gone with the other node."""
    node = cluster.nodes[0]
    saved = [int(path.name[5:]) for path in (recipe.parent / name / "checkpoints").glob("step_*")]
    assert 5 <= max(saved) < STEPS
    environment = ENVIRONMENT | {"GLOO_SOCKET_IFNAME": "lo"}
    resumed = node.start([*command, *training(recipe, name)], folder, **environment)
    assert statuses_of([resumed], cluster) == [0], node.said
    found = losses_of(settings_of(recipe, **overrides(recipe, name)))
    assert sorted(found) == list(range(1, STEPS + 1))
    assert found == pytest.approx(truth, rel=1e-6)


@pytest.mark.skipif(bool(why_no_ssh()), reason=why_no_ssh())
@pytest.mark.parametrize("cluster", [True], indirect=True)
def test_a_cut_link_ends_both_nodes_of_a_hostfile_and_one_goes_on(recipe, truth, cluster, tmp_path):
    a, b = cluster.nodes
    (tmp_path / "hostfile").write_text("node-a slots=1\nnode-b slots=1\n")
    (tmp_path / ".deepspeed_env").write_text("".join(f"{name}={value}\n" for name, value in ENVIRONMENT.items()))
    command = [DEEPSPEED, "--hostfile", str(tmp_path / "hostfile")]
    launcher = a.start([*command, *training(recipe, "cut")], tmp_path, **ENVIRONMENT)
    wait_for_step(recipe, "cut", STRUCK, cluster)
    assert (a.num_processes("--local_rank=0"), b.num_processes("--local_rank=0")) == (1, 1)
    cluster.cut_link()

    assert statuses_of([launcher], cluster) != [0]
    assert any(PHASE.search(line) for line in words_of_watchers(cluster)), a.said
    for node in cluster.nodes:
        until_gone(node)
    (tmp_path / "hostfile").write_text("node-a slots=1\n")
    assert_resumes_on_one_node(recipe, "cut", cluster, command, tmp_path, truth)


@pytest.mark.parametrize("cluster", [False], indirect=True)
def test_a_node_that_dies_ends_the_other_which_goes_on_alone(recipe, truth, cluster, tmp_path):
    a, b = cluster.nodes
    (tmp_path / "hostfile").write_text("node-a slots=1\nnode-b slots=1\n")
    command = [DEEPSPEED, "--hostfile", str(tmp_path / "hostfile"), "--no_ssh", "--master_addr", a.address]
    launchers = [
        node.start([*command, "--node_rank", str(number), *training(recipe, "killed")], tmp_path, **ENVIRONMENT)
        for number, node in enumerate(cluster.nodes)
    ]
    wait_for_step(recipe, "killed", STRUCK, cluster)
    b.kill()

    assert statuses_of(launchers[:1], cluster) != [0]
    assert any("rank 0 " in line and PHASE.search(line) for line in words_of_watchers(cluster)), a.said
    until_gone(a)
    assert_resumes_on_one_node(recipe, "killed", cluster, [sys.executable], tmp_path, truth)
