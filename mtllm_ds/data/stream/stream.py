"""Batches for training and validation: seeks straight to the blocks that the schedule names."""

import io
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from mtllm_ds.child_processes import die_with
from mtllm_ds.config.data import OrderSettings
from mtllm_ds.data.shards.joined import parts_of
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.shards.targets import BlockTargets
from mtllm_ds.data.stream.block_cache import BlockCache, OnError, check_skipped
from mtllm_ds.data.stream.collate import Batch, Collator
from mtllm_ds.data.stream.order import Order
from mtllm_ds.data.stream.schedule import Place, Schedule, cells_in_forward, check_cursor, cursor_of, place_of
from mtllm_ds.errors import UserError


@dataclass
class StepBatches:
    """One optimizer step of this rank."""

    step: int
    """Counted from 0."""
    micro_batches: list[Batch]
    """One a forward; equally many on every rank."""
    _cursor: Callable[[], dict[str, Any]]
    coming: tuple[str, ...] = ()
    """Language codes of the next step's first forward"""

    @cached_property
    def cursor(self) -> dict[str, Any]:
        """Where the stream stands once this step is done: give it to `TrainStream` to go on from the next."""
        return self._cursor()


class TrainStream:
    """This rank's part of an endless run over a data set, whose order depends on settings and seed alone.

    Args:
        manifest: a loaded manifest or where it lies
        num_workers: reading processes; 0 reads in this one
        on_error: what to do about damaged blocks: `fail`, or `skip` them whole, count them, and fail past `max_skipped_share`
        cursor: `StepBatches.cursor` of the last step that was taken, from a run with any number of ranks and workers
        targets: target sets whose columns come along as `Batch.extras`

    Raises:
        UserError: more ranks than lanes, a shard that is missing, or a cursor that does not fit.
    """

    def __init__(
        self,
        manifest: Manifest | str | Path,
        schedule: OrderSettings,
        *,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        on_error: OnError = "fail",
        max_skipped_share: float = 0.01,
        seed: int = 0,
        cursor: dict[str, Any] | None = None,
        targets: Sequence[BlockTargets] = (),
    ) -> None:
        self.manifest = manifest if isinstance(manifest, Manifest) else Manifest.load(manifest)
        self._settings = schedule
        self._seed = seed
        if world_size > schedule.lanes:
            raise UserError(
                f"data.lanes={schedule.lanes}: fewer than the {world_size} ranks; raise it or use fewer ranks"
            )
        if on_error == "fail":
            self.manifest.check_shards()
        if cursor is not None:
            check_cursor(cursor, self.manifest, schedule, seed)
        # Ranks take whole forwards in turn, so that one holds the same, and draws the same dropout, on any number of them.
        cells = cells_in_forward(schedule.lanes, schedule.cells_per_forward, world_size)
        num_forwards = ceil(schedule.lanes / (cells * world_size))
        self.first_lanes = [cells * (rank + world_size * i) for i in range(num_forwards)]
        self._lanes_of_forward = [list(range(i, min(i + cells, schedule.lanes))) for i in self.first_lanes]
        self._num_workers = min(num_workers, len(self._lanes_of_forward))
        self._on_error = on_error
        self._max_skipped_share = max_skipped_share
        self._targets = targets
        self._order = Order(self.manifest, schedule, seed)
        self._place = place_of(cursor, self._order) if cursor else Place.beginning(self._order)
        self._padding = {side: [0, 0] for side in ("encoder", "llm")}
        self._skipped: set[int] = set()

    @property
    def micro_batches_per_step(self) -> int:
        """Forwards a step, the same on every rank: gradient accumulation."""
        return len(self._lanes_of_forward)

    def __iter__(self) -> Iterator[StepBatches]:
        for parts in self._steps():
            batches: dict[int, Batch] = {}
            for part in parts:
                if part.error:
                    raise UserError(part.error)
                batches |= part.batches
                self._skipped |= part.skipped_blocks
            micro_batches = [batches[forward] for forward in range(self.micro_batches_per_step)]
            self._count_padding(micro_batches)
            self._place = place = parts[0].place
            cursor = partial(cursor_of, place, self._order, self.manifest)
            yield StepBatches(place.step - 1, micro_batches, cursor, parts[0].coming)

    @property
    def skipped_blocks(self) -> frozenset[int]:
        """Damaged blocks that this rank has dropped, or heard of."""
        return frozenset(self._skipped)

    def note_skipped(self, blocks: Iterable[int]) -> None:
        """Hear of blocks that other ranks have dropped; raises `UserError` once all together are more than may be."""
        self._skipped |= set(blocks)
        check_skipped(self.manifest, self._skipped, self._max_skipped_share)

    def metrics(self) -> dict[str, float]:
        """Counters: samples and epochs by language (and by data set, of several) over all ranks; of this rank: padding shares and
        samples of skipped blocks."""
        figures = self._progress("", self._order.sources.language, self.manifest.languages)
        if len(parts := parts_of(self.manifest)) > 1:
            figures |= self._progress("set_", self._order.sources.part, [part.storage.root for part, _ in parts])
        for side, (allocated, real) in self._padding.items():
            figures[f"padding/{side}"] = 1 - real / allocated if allocated else 0.0
        for block in self._skipped:
            key = f"skipped_samples/{self.manifest.languages[int(self.manifest.index.language[block])]}"
            figures[key] = figures.get(key, 0.0) + len(self.manifest.index.llm_lengths[block])
        return figures

    def _progress(self, kind: str, group_of_source: np.ndarray, names: Sequence[str]) -> dict[str, float]:
        """Samples and epochs of each group of sources."""
        samples = np.bincount(group_of_source, self._place.samples, len(names))
        epochs = samples / np.bincount(group_of_source, self._order.epoch_samples, len(names))
        return {
            f"{kind}{counted}/{name}": float(value)
            for counted, values in (("samples", samples), ("epochs", epochs))
            for name, value in zip(names, values, strict=True)
        }

    def _steps(self) -> Iterator[list["_Part"]]:
        """The parts of each step, one a worker."""
        workers = max(1, self._num_workers)
        # A lane reads one block at a time; with token budgets some samples of earlier blocks still wait.
        reach = ceil(self._settings.queue_size / self._order.block_samples) if self._settings.has_budgets else 0
        blocks_of_lane = 2 + 2 * reach
        cached_blocks = blocks_of_lane * len(self._lanes_of_forward) * self._settings.cells_per_forward
        cache = BlockCache(self.manifest, cached_blocks + 8, self._on_error, self._max_skipped_share, self._targets)
        datasets = _Parts(self.manifest, self._order, cache, self._place, self._lanes_of_forward)
        if not self._num_workers:
            parts: Iterator[_Part] = iter(datasets)
        else:
            loader = DataLoader(
                datasets,
                batch_size=None,
                num_workers=self._num_workers,
                worker_init_fn=partial(_start_reader, parent=os.getpid()),
                collate_fn=_Part.pack,  # type: ignore[arg-type]
            )
            packed_parts = _without_interruptions(loader)
            parts = (pickle.loads(packed) for packed in packed_parts)  # of our own workers, never of a data set
        while True:
            try:
                step = [next(parts) for _ in range(workers)]
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise UserError(
                    "data.train: a reader process died, killed by a signal or for want of memory; resume from the last "
                    "checkpoint, with a smaller data.num_workers if memory was short"
                ) from error
            yield step

    def _count_padding(self, batches: list[Batch]) -> None:
        for batch in batches:
            encoder_masks, llm_mask = [batch.encoder_mask], batch.llm_mask
            if batch.packed is not None:
                encoder_masks, llm_mask = batch.packed.encoder_bucket_masks, batch.packed.llm.mask
            self._padding["encoder"][0] += sum(mask.numel() for mask in encoder_masks)
            self._padding["encoder"][1] += int(batch.encoder_mask[batch.valid].sum())
            self._padding["llm"][0] += llm_mask.numel()
            self._padding["llm"][1] += int(batch.llm_mask[batch.valid].sum())


@dataclass
class _Part:
    """What one worker adds to a step. Crosses processes by value: torch would share each tensor by an open file, of which many
    micro-batches need more than a process may have."""

    batches: dict[int, Batch]
    """By number of the forward within the step."""
    place: Place
    """Where all lanes stand after the step."""
    skipped_blocks: set[int]
    coming: tuple[str, ...] = ()
    """Of the worker that serves the first forward: the languages of the next step's."""
    error: str = ""
    """What the user must know, if reading failed: an exception would cross the process as a whole traceback."""

    def pack(self) -> bytes:
        stream = io.BytesIO()
        _ByValue(stream, protocol=pickle.HIGHEST_PROTOCOL).dump(self)
        return stream.getvalue()


class _ByValue(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        return (torch.from_numpy, (value.numpy(),)) if isinstance(value, torch.Tensor) else NotImplemented


class _Parts(IterableDataset):
    """Endless parts of one worker (or of all, without workers): worker u of U serves every U-th forward of its rank."""

    def __init__(
        self,
        manifest: Manifest,
        order: Order,
        cache: BlockCache,
        place: Place,
        lanes_of_forward: list[list[int]],
    ) -> None:
        super().__init__()
        self._manifest = manifest
        self._order = order
        self._cache = cache
        self._place = place
        self._lanes_of_forward = lanes_of_forward

    def __iter__(self) -> Iterator[_Part]:
        worker = get_worker_info()
        number, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        forwards = {i: lanes for i, lanes in enumerate(self._lanes_of_forward) if i % stride == number}
        lanes = [lane for own in forwards.values() for lane in own]
        schedule = Schedule(self._order, lanes, self._place)
        settings, cache = self._order.settings, self._cache
        collate = _collator(self._manifest, settings.encoder_buckets if settings.has_budgets else 0)
        cells = schedule.next_cells()
        while True:
            place = schedule.place
            ahead = schedule.next_cells()  # told by the index alone: nothing is read before its time
            coming = self._languages([ahead[lane] for lane in forwards[0]]) if 0 in forwards else ()
            try:
                batches = {
                    forward: collate([cache.samples(cells[lane]) for lane in own]) for forward, own in forwards.items()
                }
            except UserError as error:
                yield _Part({}, place, set(), coming, str(error))
                return
            yield _Part(batches, place, set(cache.skipped_blocks), coming)
            cells = ahead

    def _languages(self, cells: list[np.ndarray]) -> tuple[str, ...]:
        """Of the samples of some cells, each once, in their order."""
        blocks = self._manifest.blocks_of_rows(np.concatenate([np.empty(0, np.int64), *cells]))
        found = dict.fromkeys(self._manifest.index.language[blocks].tolist())
        return tuple(self._manifest.languages[language] for language in found)


def _without_interruptions(loader: DataLoader) -> Iterator[bytes]:
    """The loader's items. A worker's death is told where the next item is asked for: torch's handler of SIGCHLD would raise in
    whatever the main thread does just then, such as a backward, where the other ranks are left waiting."""
    before = signal.getsignal(signal.SIGCHLD)
    items = iter(loader)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)  # None: of a library that is not Python's
    return items


def _start_reader(worker: int, parent: int) -> None:
    """A signal to the whole process group must not take the workers from a trainer that is still saving; its end must."""
    die_with(parent)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class EvalStream:
    """Every sample exactly once over all ranks, in equally many batches a rank (the last may hold no valid row).

    Args:
        limit: that many samples at most, as `rows_of_sample` chooses them
        on_error, max_skipped_share: as in `TrainStream`; `skipped_samples` counts what this rank's last pass lost
        targets: target sets whose columns come along as `Batch.extras`
    """

    def __init__(
        self,
        manifest: Manifest | str | Path,
        *,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int,
        limit: int | None = None,
        on_error: OnError = "fail",
        max_skipped_share: float = 0.01,
        targets: Sequence[BlockTargets] = (),
    ) -> None:
        self._targets = targets
        self._on_error = on_error
        self._max_skipped_share = max_skipped_share
        self.skipped_samples = 0
        self.manifest = manifest if isinstance(manifest, Manifest) else Manifest.load(manifest)
        if on_error == "fail":
            self.manifest.check_shards()
        rows = rows_of_sample(self.manifest, limit)
        self._num_samples = len(rows)
        self._batches = [
            rows[(i * world_size + rank) * batch_size :][:batch_size]
            for i in range(ceil(len(rows) / (world_size * batch_size)))
        ]

    def __len__(self) -> int:
        return len(self._batches)

    def check_lost(self, lost: int) -> None:
        """Raise `UserError` if that many samples, lost on all ranks in one pass, are more than may be."""
        if lost > self._max_skipped_share * self._num_samples:
            raise UserError(
                f"data.max_skipped_share={self._max_skipped_share}: {lost} of {self._num_samples} samples of "
                f"'{self.manifest.storage.root}' lie in damaged blocks, more than it allows; prepare the data set anew"
            )

    def __iter__(self) -> Iterator[Batch]:
        cache = BlockCache(self.manifest, 8, self._on_error, self._max_skipped_share, self._targets)
        collate = _collator(self.manifest)
        self.skipped_samples = 0
        for rows in self._batches:
            samples = cache.samples(rows)
            self.skipped_samples += len(rows) - len(samples)
            yield collate([samples])


def rows_of_sample(manifest: Manifest, limit: int | None) -> np.ndarray:
    """(n,) rows of at most `limit` samples: each language by its share, but at least one (of fewer, the largest languages), spread
    evenly over its samples; all rows where None."""
    if limit is None or limit >= manifest.num_samples:
        return np.arange(manifest.num_samples)
    samples = manifest.samples_of_language
    exact = samples / samples.sum() * limit
    counts = np.maximum(np.floor(exact).astype(np.int64), 1)
    counts[np.argsort(-samples, kind="stable")[limit:]] = 0
    while counts.sum() > limit:
        counts[counts.argmax()] -= 1
    while counts.sum() < limit:
        counts[(exact - counts).argmax()] += 1
    chosen = []
    for language, count in enumerate(counts.tolist()):
        blocks = np.flatnonzero(manifest.index.language == language)
        ends = np.cumsum(np.diff(manifest.first_row)[blocks])
        numbers = np.arange(count) * int(samples[language]) // max(1, count)
        own = np.searchsorted(ends, numbers, side="right")
        chosen.append(manifest.first_row[blocks + 1][own] - (ends[own] - numbers))
    return np.sort(np.concatenate(chosen))


def _collator(manifest: Manifest, packing_buckets: int = 0) -> Collator:
    pad_ids = {side: entry.pad_id for side, entry in manifest.tokenizers.items()}
    return Collator(pad_ids=pad_ids, packing_buckets=packing_buckets, language_codes=manifest.languages)
