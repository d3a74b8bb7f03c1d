"""The GPU suite on a machine without a GPU: it loses nothing that was measured, whatever a peer, a tile or a stage does."""

import csv
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_suite
from benchmarks.gpu_suite import Stage
from benchmarks.kernels import accuracy, provenance, speed
from benchmarks.kernels.results import Results
from benchmarks.kernels.variants import Variant, our_variants, ours, peer_makers

ROOT = Path(__file__).parents[2]
SIZE = (4, 40, 8)


def raising(error: BaseException) -> Variant:
    def loss(x):
        raise error

    return loss


def failing_import() -> Variant:
    raise ImportError("no such peer")


PEERS = {
    "not there": failing_import,
    "out of resources": lambda: raising(type("OutOfResources", (Exception,), {})("shared memory")),
    "wrong": lambda: raising(AssertionError()),
    "good": lambda: ours("reference"),
}


def table(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_accuracy_survives_its_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "peer_makers", lambda device: PEERS)
    accuracy.measure(SIZE, "cpu", torch.bfloat16, Results("accuracy", tmp_path))
    rows = table(tmp_path / "accuracy.csv")
    assert [r["variant"] for r in rows] == ["ours chunked"] * 15 + ["good"] * 15
    assert all(float(r["dh_error"]) < 5e-3 for r in rows if r["variant"] == "ours chunked")
    assert len(json.loads((tmp_path / "summary.json").read_text())) == 60


def test_speed_survives_its_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "peer_makers", lambda device: PEERS)
    for names in (["ours chunked"], *([name] for name in PEERS)):
        speed.measure(names, SIZE, torch.float32, "cpu", 1, Results("speed", tmp_path, more=True))
    rows = table(tmp_path / "speed.csv")
    assert [r["variant"] for r in rows] == ["three products", "ours chunked", "good"]
    assert speed.table(rows).count("\n") == 3


def test_what_was_measured_outlives_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "peer_makers", lambda device: {"killed": lambda: raising(KeyboardInterrupt())})
    with pytest.raises(KeyboardInterrupt):
        accuracy.measure(SIZE, "cpu", torch.bfloat16, Results("accuracy", tmp_path))
    assert len(table(tmp_path / "accuracy.csv")) == 15


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_ours_come_first_and_what_compiles_last(device: str) -> None:
    peers = list(peer_makers(device))
    assert all(name.startswith("ours") for name in our_variants(device))
    compiled = ["compiled" in name for name in peers]
    assert compiled == sorted(compiled)


def test_no_part_outlasts_its_time(tmp_path: Path) -> None:
    stages = gpu_suite.stages(tmp_path)
    for part in gpu_suite.PARTS:
        assert 0 < sum(s.limit_seconds for s in stages if s.part == part) <= gpu_suite.PART_SECONDS


def test_figures_come_from_somewhere_even_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert provenance.provenance()["commit"] == "unknown"


def test_a_stage_that_outlasts_its_time_ends_with_all_it_started(tmp_path: Path) -> None:
    code = "import subprocess; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    outcome, seconds = gpu_suite.run(Stage("endless", 1, ("-c", code), 2), tmp_path)
    assert outcome == "stopped after 2 s"
    assert seconds < 30
    child = int((tmp_path / "endless.log").read_text())
    for _ in range(50):
        if not Path(f"/proc/{child}/cmdline").exists() or not Path(f"/proc/{child}/cmdline").read_bytes():
            return
        time.sleep(0.1)
    raise AssertionError("the stage's own child lives on")


def test_an_archive_holds_the_results(tmp_path: Path) -> None:
    output = tmp_path / "results"
    output.mkdir()
    (output / "speed.csv").write_text("variant\n")
    with tarfile.open(gpu_suite.pack(output)) as archive:
        assert "results/speed.csv" in archive.getnames()
    assert {p.name for p in tmp_path.iterdir()} == {"results", "results.tar.gz"}


@pytest.mark.slow
def test_a_rehearsal_runs_to_its_end(tmp_path: Path) -> None:
    """The shorter stages; `make gpu-rehearsal` runs all of them. Without make, and with a Python path of its own."""
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"REHEARSE": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu_suite", "--output", str(tmp_path / "out")]
    command += ["--only", "tiles", "counters", "step"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "left out" not in done.stdout
    with tarfile.open(tmp_path / "out.tar.gz") as archive:
        names = {Path(name).name for name in archive.getnames()}
    assert {"tiles.csv", "step.csv", "summary.json", "provenance.json", "step.log"} <= names
    assert len(table(tmp_path / "out/tiles.csv")) == 8
