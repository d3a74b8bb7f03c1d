"""Input that changed between runs is known by its content, not by its name and size."""

import os
from dataclasses import replace

import pytest

from mtllm_ds.data.writing import chunks
from mtllm_ds.data.writing.builder import build_shards
from mtllm_ds.data.writing.settings import ShardSettings
from mtllm_ds.data.writing.sources import InputFile
from mtllm_ds.errors import UserError


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": "the cells {i:04d}"}}\n' for i in range(300)))
    return path


@pytest.fixture
def settings(specs, text):
    source = InputFile(path=str(text), language="eng_Latn")
    return ShardSettings(inputs=(source,), **specs, block_samples=16, shard_bytes=2_000)


def mend(path, keep_time=False):
    """Another text of the same size."""
    before = os.stat(path)
    path.write_text(path.read_text().replace("cells 0003", "CELLS 0003"))
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("keep_time", [False, True])
def test_an_input_that_changed_while_the_work_stood_still(settings, text, tmp_path, monkeypatch, keep_time):
    monkeypatch.setattr(chunks, "CHUNK_DOCUMENTS", 32)
    reports = []

    def stop(progress):
        reports.append(progress.shards)
        if progress.shards >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_shards(settings, tmp_path / "out", num_workers=1, report=stop)
    mend(text, keep_time)
    with pytest.raises(UserError, match="an input has changed since its first shards were written"):
        build_shards(settings, tmp_path / "out", num_workers=1)
    shorter = "".join(text.read_text().splitlines(keepends=True)[:20])
    text.write_text(shorter + " " * (os.path.getsize(text) - len(shorter)))
    with pytest.raises(UserError, match="an input has changed"):
        build_shards(settings, tmp_path / "out", num_workers=1)


def test_an_input_that_changed_after_the_end(settings, text, tmp_path):
    manifest = build_shards(settings, tmp_path / "out", num_workers=1)
    os.utime(text)  # touched, not changed
    assert build_shards(settings, tmp_path / "out", num_workers=1).hash == manifest.hash
    mend(text)
    with pytest.raises(UserError, match=r"was made of another '.*a\.jsonl'"):
        build_shards(settings, tmp_path / "out", num_workers=1)


def test_the_same_text_elsewhere_is_the_same_data_set(settings, text, tmp_path):
    first = build_shards(settings, tmp_path / "one", num_workers=1)
    os.utime(text)
    assert build_shards(replace(settings), tmp_path / "two", num_workers=1).hash == first.hash
