"""A cluster is looked at by all ranks; what is wrong with it is named with its rank."""

import pytest

from mtllm_ds import doctor
from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.doctor import Finding, differing, examine, require_health, slow_ones
from tests.distributed.ranks import RankError, ranks

PLACES = ["rank 0 on a", "rank 1 on a", "rank 2 on b"]


def look(folder, free_gib, odd_rank=None):
    """On a rank: what the doctor finds; one rank may have another version."""
    cluster, versions = join_cluster(), doctor._own_versions
    if cluster.rank == odd_rank:
        doctor._own_versions = lambda: {**versions(), "torch": "1.0"}
    try:
        found = examine(cluster, folder, free_gib, 1)
        require_health(found, cluster)
        return found
    finally:
        doctor._own_versions = versions


def test_a_healthy_cluster_is_told_alike_on_all_ranks(tmp_path):
    one, other = ranks(2).run(look, str(tmp_path / "runs"), 1e-6)
    assert one == other
    names = [finding.what for finding in one]
    assert {"versions", f"folder {tmp_path / 'runs'}", "clocks", "devices", "all-reduce", "all-gather"} <= set(names)
    assert all("GB/s per link" in finding.found for finding in one if finding.what in ("all-reduce", "all-gather"))
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("runs", 1e-6, 1), "doctor: versions: torch .*, but 1.0 on rank 1 on .*; install the same on all nodes"),
        (("runs", 1e9), "doctor: disk of .*: .* GiB free at least; less than 1e.09 GiB on rank 0 .*: make room"),
        (("file/below", 1e-6), "doctor: folder .*: rank 0 .* cannot write there: Not a directory; choose another"),
    ],
)
def test_what_is_wrong_is_one_line_of_one_rank(tmp_path, given, told):
    (tmp_path / "file").write_text("")
    with pytest.raises(RankError, match=told) as caught:
        ranks(2).run(look, str(tmp_path / given[0]), *given[1:])
    assert [error[0] for error in caught.value.errors] == ["UserError", "PeerFailedError"]
    assert "\n" not in caught.value.errors[0][1]


def look_with_a_fault(folder, name, error, failing_rank):
    """On a rank: all findings, one of the looks failing on one rank."""
    cluster, whole = join_cluster(), getattr(doctor, name)

    def fail(*_):
        raise error

    if cluster.rank == failing_rank:
        setattr(doctor, name, fail)
    try:
        return examine(cluster, folder, 1e-6, 1)
    finally:
        setattr(doctor, name, whole)


@pytest.mark.parametrize(
    ("name", "error", "what", "told"),
    [
        ("_own_device", RuntimeError("CUDA error: an illegal\naddress"), "devices", "RuntimeError: CUDA error: an illegal address"),
        ("_own_room", OSError(116, "Stale file handle"), "disks", "OSError: [Errno 116] Stale file handle"),
        ("_own_versions", OSError(5, "Input/output error"), "versions", "OSError: [Errno 5] Input/output error"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("failing_rank", [0, 1])
def test_a_rank_that_cannot_look_is_a_finding_and_the_table_comes(tmp_path, name, error, what, told, failing_rank):
    one, other = ranks(2).run(look_with_a_fault, str(tmp_path / "runs"), name, error, failing_rank)
    assert one == other
    (bad,) = [finding for finding in one if finding.mend]
    assert bad.what == what
    assert bad.found.startswith(f"rank {failing_rank} on ")
    assert bad.found.endswith(f": {told}")
    # All else is looked at, of the rank that is left too; a link of a broken device is not.
    assert ("all-reduce" in [finding.what for finding in one]) == (name != "_own_device")
    assert len([finding for finding in one if finding.what == what]) == (1 if name == "_own_room" else 2)


def test_the_odd_one_out_is_named():
    assert differing([{"torch": "2"}] * 3, PLACES) == []
    assert differing([{"torch": "2"}, {"torch": "2"}, {"torch": "1"}], PLACES) == ["torch 2, but 1 on rank 2 on b"]
    assert differing([{"a": "1"}, {}, {}], PLACES) == ["a none, but 1 on rank 0 on a"]


def test_a_slow_device_is_named():
    assert slow_ones([1.0, 1.1, 1.2], PLACES) == []
    assert slow_ones([1.0, 1.0, 2.0], PLACES) == ["rank 2 on b takes 2.0 times the median"]


def test_errors_in_the_memory_of_a_gpu_are_bad():
    healthy = {"name": "GPU", "digest": "1", "seconds": 1.0, "flops": 1e12, "used": 0.0, "errors": "0"}
    found = doctor._devices([healthy, {**healthy, "errors": "3"}, {**healthy, "used": 0.5}], PLACES)
    assert [finding.mend for finding in found] == ["drain the node", "end what else runs there", ""]
    assert found[0] == Finding("devices", "rank 1 on a: 3 uncorrected memory errors", "drain the node")
