"""A large index is decoded once per machine, and mapped by whoever comes after."""

from pathlib import Path

import numpy as np
import pytest

from mtllm_ds.config.data import RemoteSettings
from mtllm_ds.data.shards import index_map, manifest
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.writing.workers import map_in_order
from mtllm_ds.errors import UserError

COLUMNS = ("shard", "offset", "size_bytes", "sha256", "language")


@pytest.fixture
def remote(tmp_path, monkeypatch):
    monkeypatch.setattr(index_map, "MAPPED_FROM_BYTES", 0)
    return RemoteSettings(cache_folder=str(tmp_path / "cache"))


def assert_same(index, other):
    for name in COLUMNS:
        assert np.array_equal(getattr(index, name), getattr(other, name))
    for name in ("encoder_lengths", "llm_lengths"):
        for part in ("values", "offsets"):
            mapped, truth = (getattr(getattr(one, name), part) for one in (index, other))
            assert np.array_equal(mapped, truth)


def test_it_is_decoded_once_and_mapped(dataset, remote, monkeypatch):
    decoded = []
    columns = manifest.index_columns
    monkeypatch.setattr(manifest, "index_columns", lambda data: decoded.append(len(data)) or columns(data))
    found = [Manifest.load(dataset.storage.root, remote) for _ in range(3)]
    assert len(decoded) == 1
    for one in found:
        assert isinstance(one.llm_lengths, np.memmap)
        assert isinstance(one.index.sha256, np.memmap)
        assert not one.llm_lengths.flags.writeable
        assert_same(one.index, dataset.index)


def test_many_processes_at_once_write_it_once(dataset, remote):
    def load(_):
        return int(Manifest.load(dataset.storage.root, remote).llm_lengths.sum())

    total = int(dataset.llm_lengths.sum())
    assert [found for _, found in map_in_order(load, range(12), 4)] == [total] * 12
    assert len(list((Path(remote.cache_folder) / "indexes").glob("*/"))) == 1


def test_a_small_one_and_one_without_a_cache_stay_in_memory(dataset, tmp_path, monkeypatch):
    assert not isinstance(Manifest.load(dataset.storage.root).llm_lengths, np.memmap)
    monkeypatch.setattr(index_map, "MAPPED_FROM_BYTES", 0)
    (tmp_path / "file").write_text("")
    found = Manifest.load(dataset.storage.root, RemoteSettings(cache_folder=str(tmp_path / "file" / "below")))
    assert_same(found.index, dataset.index)


def test_an_altered_index_is_never_mapped(dataset_copy, remote):
    path = Path(dataset_copy) / "index.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="was altered"):
        Manifest.load(dataset_copy, remote)
    assert not list(Path(remote.cache_folder).rglob("*.npy"))
