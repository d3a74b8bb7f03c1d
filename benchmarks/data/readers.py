"""The same samples in the formats of five readers, each written and read as its own documentation shows.

All shuffle over a window of `WINDOW` samples, each in its own way. A sample is two arrays of uint16 ids. Each class has:

    write(samples, folder)    put all samples into its format
    open(folder, seed, skip)  iterator over (encoder ids, LLM ids), after `skip` samples of the epoch have been seen
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

Sample = tuple[np.ndarray, np.ndarray]
WINDOW = 16_384
SHARD_BYTES = 64 << 20


def all_samples(manifest_folder: Path) -> Iterator[Sample]:
    """Every sample of one of our data sets, in stored order."""
    from mtllm_ds.data.shards.manifest import Manifest
    from mtllm_ds.data.shards.tar_shards import read_block

    manifest = Manifest.load(manifest_folder)
    for block in range(manifest.num_blocks):
        columns = read_block(manifest, block)
        encoder, llm = columns["encoder_ids"], columns["llm_ids"]
        yield from ((encoder[row], llm[row]) for row in range(len(llm)))


class Ours:
    """Blocks. 64 lanes of 256-sample draws: the window is 64 x 256."""

    name = "mtllm-ds"
    modules = ("mtllm_ds.data.stream.stream",)

    @staticmethod
    def open(folder: Path, seed: int, skip: int) -> Iterator[Sample]:
        from mtllm_ds.config.data import OrderSettings
        from mtllm_ds.data.shards.manifest import Manifest
        from mtllm_ds.data.stream.block_cache import BlockCache
        from mtllm_ds.data.stream.order import Order
        from mtllm_ds.data.stream.schedule import Schedule, place_of

        settings = OrderSettings(lanes=WINDOW // 256)
        manifest = Manifest.load(folder)
        order = Order(manifest, settings, seed)
        place = place_of(json.loads((folder.parent / "cursor.json").read_text()), order) if skip else None
        cache = BlockCache(manifest, cached_blocks=2 * settings.lanes)
        schedule = Schedule(order, range(settings.lanes), place)
        while True:
            rows = np.concatenate(list(schedule.next_cells().values()))
            for block, row, _, _ in cache.samples(rows):
                yield block["encoder_ids"][row], block["llm_ids"][row]

    @staticmethod
    def save_position(folder: Path, seed: int, position: int) -> None:
        """What a checkpoint at that position would hold."""
        from mtllm_ds.config.data import OrderSettings
        from mtllm_ds.data.shards.manifest import Manifest
        from mtllm_ds.data.stream.order import Order
        from mtllm_ds.data.stream.schedule import Schedule, cursor_of

        settings = OrderSettings(lanes=WINDOW // 256)
        manifest = Manifest.load(folder)
        order = Order(manifest, settings, seed)
        schedule = Schedule(order, ())
        schedule.go_to(position // (settings.lanes * settings.num_samples_per_cell))
        (folder.parent / "cursor.json").write_text(json.dumps(cursor_of(schedule.place, order, manifest)))


class WebDataset:
    """One sample a tar member; the order of shards is shuffled, then a buffer."""

    name = "webdataset"
    modules = ("webdataset",)

    @staticmethod
    def write(samples: Iterable[Sample], folder: Path) -> None:
        import webdataset as wds

        with wds.ShardWriter(
            f"{folder}/%06d.tar", maxsize=SHARD_BYTES, maxcount=10**9, encoder=False, verbose=0
        ) as sink:
            for number, (encoder_ids, llm_ids) in enumerate(samples):
                length = np.array([len(encoder_ids)], np.uint16)
                sink.write({"__key__": f"{number:09d}", "ids": b"".join(map(bytes, (length, encoder_ids, llm_ids)))})

    @staticmethod
    def open(folder: Path, seed: int, skip: int) -> Iterator[Sample]:
        import webdataset as wds

        def decode(sample: dict[str, Any]) -> Sample:
            ids = np.frombuffer(sample["ids"], np.uint16)
            return ids[1 : 1 + ids[0]], ids[1 + ids[0] :]

        shards = sorted(map(str, folder.glob("*.tar")))
        dataset = wds.WebDataset(shards, shardshuffle=len(shards), seed=seed)
        return islice(iter(dataset.shuffle(WINDOW, seed=seed).map(decode)), skip, None)


class MosaicStreaming:
    """MDS shards, `StreamingDataset` with shuffle blocks of the window's size."""

    name = "mosaicml-streaming"
    modules = ()  # see _import_streaming

    @staticmethod
    def write(samples: Iterable[Sample], folder: Path) -> None:
        streaming = _import_streaming()
        columns = {"encoder": "bytes", "llm": "bytes"}
        with streaming.MDSWriter(out=str(folder), columns=columns, size_limit=SHARD_BYTES, hashes=["sha1"]) as sink:
            for encoder_ids, llm_ids in samples:
                sink.write({"encoder": encoder_ids.tobytes(), "llm": llm_ids.tobytes()})

    @staticmethod
    def open(folder: Path, seed: int, skip: int) -> Iterator[Sample]:
        streaming = _import_streaming()
        streaming.base.util.clean_stale_shared_memory()
        dataset = streaming.StreamingDataset(
            local=str(folder),
            shuffle=True,
            shuffle_seed=seed,
            shuffle_block_size=WINDOW,
            shuffle_algo="py1br",
            num_canonical_nodes=1,
            batch_size=64,
        )
        if skip:
            dataset.load_state_dict(dataset.state_dict(skip, from_beginning=True))
        return (
            (np.frombuffer(sample["encoder"], np.uint16), np.frombuffer(sample["llm"], np.uint16)) for sample in dataset
        )


def _import_streaming() -> Any:
    """mosaicml-streaming imports torchvision for its image classes, which are not used here: a stand-in is enough."""
    for name, member in (("torchvision.datasets", "VisionDataset"), ("torchvision.transforms.functional", "to_tensor")):
        if name not in sys.modules:
            module = types.ModuleType(name)
            setattr(module, member, object)
            sys.modules[name] = module
    import streaming

    return streaming


class LitData:
    """Binary chunks, `StreamingDataset` with its chunk-wise shuffle."""

    name = "litdata"
    modules = ("litdata",)

    @staticmethod
    def write(samples: Iterable[Sample], folder: Path) -> None:
        import litdata

        kept = list(samples)
        inputs = [(start, min(start + 4096, len(kept))) for start in range(0, len(kept), 4096)]

        def group(bounds: tuple[int, int]) -> Iterator[dict[str, np.ndarray]]:
            for encoder_ids, llm_ids in kept[bounds[0] : bounds[1]]:
                yield {"encoder": np.array(encoder_ids), "llm": np.array(llm_ids)}

        litdata.optimize(
            fn=group,
            inputs=inputs,
            output_dir=str(folder),
            chunk_bytes=SHARD_BYTES,
            num_workers=1,
            start_method="fork",
            verbose=False,
        )

    @staticmethod
    def open(folder: Path, seed: int, skip: int) -> Iterator[Sample]:
        import litdata

        dataset = litdata.StreamingDataset(str(folder), shuffle=True, seed=seed, drop_last=False)
        if skip:
            iter(dataset)  # only then can it tell a state
            dataset.load_state_dict(dataset.state_dict(skip, 0, 1))
        return ((sample["encoder"], sample["llm"]) for sample in dataset)


class ArrowDatasets:
    """Hugging Face `datasets`: Arrow files, read as an iterable with a shuffle buffer."""

    name = "datasets"
    modules = ("datasets",)

    @staticmethod
    def write(samples: Iterable[Sample], folder: Path) -> None:
        import datasets

        ids = datasets.List(datasets.Value("uint16"))
        features = datasets.Features({"encoder": ids, "llm": ids})
        kept = list(samples)
        table = datasets.Dataset.from_dict({"encoder": [e for e, _ in kept], "llm": [n for _, n in kept]}, features)
        table.save_to_disk(str(folder), max_shard_size=SHARD_BYTES)

    @staticmethod
    def open(folder: Path, seed: int, skip: int) -> Iterator[Sample]:
        import datasets

        table = datasets.load_from_disk(str(folder))
        dataset = table.to_iterable_dataset(num_shards=16).shuffle(seed=seed, buffer_size=WINDOW).with_format("numpy")
        if skip:
            dataset = dataset.skip(skip)
        return ((sample["encoder"], sample["llm"]) for sample in dataset)


OTHERS = {reader.name: reader for reader in (WebDataset, MosaicStreaming, LitData, ArrowDatasets)}
"""Formats that are written from our shards before they are read."""
READERS = {Ours.name: Ours, **OTHERS}
