"""A worker that is killed ends the work in seconds, with one line; what is finished stays."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from mtllm_ds.data.writing import chunks
from mtllm_ds.data.writing.builder import build_shards
from mtllm_ds.data.writing.settings import ShardSettings
from mtllm_ds.data.writing.sources import InputFile
from mtllm_ds.data.writing.workers import map_in_order, num_usable_cores
from mtllm_ds.errors import UserError
from tests.data.conftest import sentences


def double_or_die(item):
    if item == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "fail":
        raise UserError("bad item")
    return item * 2


@pytest.mark.parametrize("num_workers", [1, 3])
def test_results_are_in_order(num_workers):
    assert list(map_in_order(double_or_die, range(50), num_workers)) == [(i, 2 * i) for i in range(50)]


@pytest.mark.parametrize(("item", "words"), [("die", "a worker process died"), ("fail", "bad item")])
def test_a_worker_that_dies_or_raises_ends_the_work(item, words):
    began = time.monotonic()
    with pytest.raises(UserError, match=words):
        list(map_in_order(double_or_die, [1, 2, item, *range(40)], 2))
    assert time.monotonic() - began < 30


def test_cores_are_those_that_may_be_used():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert num_usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def children_of(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(path.parent.name))
    return found


def test_prepare_ends_and_keeps_its_shards_when_a_worker_is_killed(tmp_path, specs, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_DOCUMENTS", 32)
    text, output = tmp_path / "text.jsonl", tmp_path / "out"
    text.write_text("".join(json.dumps({"text": line}) + "\n" for line in sentences(2_000, 3)), encoding="utf-8")
    source = InputFile(path=str(text), language="eng_Latn")
    settings = ShardSettings(inputs=(source,), **specs, block_samples=32, shard_bytes=20_000)
    others = set(children_of(os.getpid()))
    began = []

    def kill(progress):
        if progress.shards and not began:
            began.append(time.monotonic())
            os.kill((set(children_of(os.getpid())) - others).pop(), signal.SIGKILL)

    with pytest.raises(UserError, match=r"a worker process died.*what is finished is kept, run it again"):
        build_shards(settings, output, num_workers=2, report=kill)
    assert time.monotonic() - began[0] < 30
    kept = (output / "shard-000000.tar").stat().st_mtime_ns
    again = build_shards(settings, output, num_workers=2)
    assert (output / "shard-000000.tar").stat().st_mtime_ns == kept
    assert again.hash == build_shards(settings, tmp_path / "unbroken", num_workers=1).hash
