"""Figures of the order on real text: how exact the mixing is, how much is padding, how fast a position is found again."""

from __future__ import annotations

import time
from itertools import islice

import numpy as np

from mtllm_ds.config.data import MixingSettings, OrderSettings
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.stream.mixing import DrawSequence, language_shares
from mtllm_ds.data.stream.order import Order
from mtllm_ds.data.stream.schedule import Schedule, cursor_of
from mtllm_ds.data.stream.stream import TrainStream

CYCLES = 400
BUDGET = 1024
STEPS = 40


def mixings(manifest: Manifest) -> dict[str, MixingSettings]:
    """One of each rule."""
    samples = manifest.samples_of_language
    rng = np.random.default_rng(0)
    explicit = dict(zip(manifest.languages, rng.exponential(size=len(samples)).tolist(), strict=True))
    return {
        "proportional": MixingSettings(),
        "temperature": MixingSettings(rule="temperature", temperature=5.0),
        "balanced": MixingSettings(rule="balanced"),
        "unimax": MixingSettings(rule="unimax", max_epochs=2.0, budget_samples=int(samples.sum())),
        "explicit": MixingSettings(rule="explicit", weights=explicit),
    }


def largest_deviation(manifest: Manifest, mixing: MixingSettings) -> float:
    """Largest difference, over languages and cycle ends, between the draws a language got and its exact share, in draws."""
    sizes = np.diff(manifest.first_row)
    shares = language_shares(mixing, manifest.languages, manifest.index.language, sizes, seed=0)
    sequence = DrawSequence(shares.weights, mixing.cycle_draws, seed=0)
    counts = np.zeros(len(manifest.languages))
    worst = 0.0
    for cycle in range(CYCLES):
        languages = sequence.sources(cycle * mixing.cycle_draws, (cycle + 1) * mixing.cycle_draws)
        counts += np.bincount(languages, minlength=len(counts))
        worst = max(worst, float(np.abs(counts - shares.shares * counts.sum()).max()))
    return worst


def padding(manifest: Manifest) -> dict[str, float]:
    """Shares of padding in the tensors that a model reads, and of the budget that stays empty on the LLM's side."""
    settings = OrderSettings(encoder_tokens_per_cell=BUDGET, llm_tokens_per_cell=BUDGET)
    stream = TrainStream(manifest, settings)
    real = [int(b.llm_mask.sum()) for step in islice(stream, STEPS) for b in step.micro_batches]
    metrics = stream.metrics()
    return {
        "padding/encoder_share": metrics["padding/encoder"],
        "padding/llm_share": metrics["padding/llm"],
        "padding/llm_budget_unused_share": 1 - float(np.mean(real)) / BUDGET,
    }


def resume_seconds(manifest: Manifest, steps: int, far_draws: int) -> dict[str, float]:
    """From a cursor to the first batch of a new stream, index included: after `steps` steps, and far into a run."""
    fixed = OrderSettings()
    budgets = OrderSettings(encoder_tokens_per_cell=BUDGET, llm_tokens_per_cell=BUDGET)
    figures = {}
    far_steps = far_draws * Order(manifest, fixed, 0).draw_samples // fixed.num_samples_per_cell
    for name, settings, step in (("fixed", fixed, steps), ("budgets", budgets, steps), ("far", fixed, far_steps)):
        order = Order(manifest, settings, 0)
        schedule = Schedule(order, ())
        schedule.go_to(step)
        place = schedule.place
        figures[f"resume/{name}_epochs"] = float(place.samples.sum() / manifest.num_samples)
        figures[f"resume/{name}_seconds"] = _seconds_to_first_batch(
            manifest, settings, cursor_of(place, order, manifest)
        )
    return figures


def _seconds_to_first_batch(manifest: Manifest, settings: OrderSettings, cursor: dict) -> float:
    """Until a whole step's batches (all lanes on one rank) are there; the best of five, as other work may disturb one."""
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        next(iter(TrainStream(Manifest.load(manifest.storage.root), settings, cursor=cursor)))
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def order_figures(manifest: Manifest) -> dict[str, float]:
    """All of them, flat."""
    raw = 2 * int(manifest.encoder_lengths.sum(dtype=np.int64) + manifest.llm_lengths.sum(dtype=np.int64))
    stored = sum(shard.bytes for shard in manifest.shards)
    stored += sum(len(manifest.storage.read(name)) for name in ("manifest.json", "index.bin"))
    figures = {
        f"mixing/{rule}_largest_deviation_draws": largest_deviation(manifest, mixing)
        for rule, mixing in mixings(manifest).items()
    }
    figures |= padding(manifest) | resume_seconds(manifest, steps=5_000, far_draws=50_000)
    figures |= {
        "size/stored_over_raw_tokens": stored / raw,
        "size/samples": float(manifest.num_samples),
        "size/tokens": raw / 2,
        "size/languages": float(len(manifest.languages)),
    }
    return figures
