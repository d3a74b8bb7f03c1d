"""The data sets of a run: loaded, joined where there are several, and the shares in which they are mixed."""

from __future__ import annotations

import numpy as np

from mtllm_ds.config.data import DataSettings
from mtllm_ds.config.schema import Settings
from mtllm_ds.data.shards.joined import join_data_sets, parts_of
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.stream.mixing import LanguageShares
from mtllm_ds.data.stream.order import Order

_SHOWN = 8
"""Languages of a data set whose shares are printed; of more, the largest and the smallest."""


def load_data_sets(data: DataSettings) -> list[Manifest]:
    """The training set, several joined into one, and the validation set if there is one; `UserError` as theirs."""
    parts = [Manifest.load(one.path, data.remote) for one in data.train_sets]
    weights = [one.weight for one in data.train_sets]
    train = parts[0] if len(parts) == 1 else join_data_sets(parts, weights, data.remote)
    return [train, *([Manifest.load(data.validation, data.remote)] if data.validation else [])]


def share_lines(order: Order, train: Manifest, settings: Settings) -> list[str]:
    """What share of the samples each data set and language gives, phase by phase; nothing where there is but one language."""
    if len(order.sources.language) == 1:
        return []
    about = "about " if settings.data.has_budgets else ""
    lines = _lines("shares", order, train, order.shares)
    for _, shares, step in _phases(order):
        if step >= settings.run.max_steps:
            break
        lines += [f"from {about}step {step:,}:", *_lines("", order, train, shares)]
    return lines


def late_phases(order: Order, max_steps: int) -> list[str]:
    """Said of each phase that begins after the last step."""
    return [
        f"data.mixing.phases: that of from_step={asked} would begin at step {step:,}, after the last "
        f"(run.max_steps={max_steps})"
        for asked, _, step in _phases(order)
        if step >= max_steps
    ]


def short_queue(order: Order) -> list[str]:
    """Said where token budgets cannot be filled, since fewer samples are looked through than fit."""
    queue_size, fitting = order.settings.queue_size, order.samples_of_lane(1000) // 1000
    if not order.settings.has_budgets or queue_size > fitting:
        return []
    return [
        f"data.queue_size={queue_size}: {fitting} samples fit the token budgets of a cell on average, but no more than "
        "data.queue_size come into one; raise it to some times as many"
    ]


def _phases(order: Order) -> list[tuple[int, LanguageShares, int]]:
    """Of each phase after the first: the step from which it was asked for, its shares, and the step at which it begins."""
    steps = [order.step_of_cycle(cycle) for cycle in order.first_cycles]
    return [(asked, shares, step) for (asked, shares), step in zip(order.sources.later, steps, strict=True)]


def _lines(title: str, order: Order, train: Manifest, shares: LanguageShares) -> list[str]:
    """A line for each data set."""
    lines = []
    for position, (part, _) in enumerate(parts_of(train)):
        own = np.flatnonzero(order.sources.part == position)
        total = shares.shares[own].sum()
        ordered = own[np.argsort(-shares.shares[own], kind="stable")].tolist()
        shown = [f"{train.languages[order.sources.language[i]]} {shares.shares[i]:.2%}" for i in ordered]
        if len(shown) > _SHOWN:
            shown = [*shown[: _SHOWN // 2], "...", *shown[-_SHOWN // 2 :]]
        name = f"{part.storage.root} {total:.2%}: " if len(parts_of(train)) > 1 else ""
        lines.append(f"{title if not position else '':11} {name}{', '.join(shown)}")
    return lines
