"""The data sets of a run: loaded, joined where there are several, and the shares in which they are mixed."""

from __future__ import annotations

import numpy as np

from mtllm_ds.config.data import DataSettings
from mtllm_ds.data.shards.joined import join_data_sets, parts_of
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.stream.sources import mixed_sources

_SHOWN = 8
"""Languages of a data set whose shares are printed; of more, the largest and the smallest."""


def load_data_sets(data: DataSettings) -> list[Manifest]:
    """The training set, several joined into one, and the validation set if there is one; `UserError` as theirs."""
    parts = [Manifest.load(one.path, data.remote) for one in data.train_sets]
    weights = [one.weight for one in data.train_sets]
    train = parts[0] if len(parts) == 1 else join_data_sets(parts, weights, data.remote)
    return [train, *([Manifest.load(data.validation, data.remote)] if data.validation else [])]


def share_lines(train: Manifest, data: DataSettings, seed: int) -> list[str]:
    """What share of the samples each data set and language gives, a line each data set; nothing where there is but one language.

    Raises:
        UserError: the mixing rule does not fit the data.
    """
    sources = mixed_sources(train, data.mixing, seed)
    if len(sources.language) == 1:
        return []
    lines = []
    for position, (part, _) in enumerate(parts_of(train)):
        own = np.flatnonzero(sources.part == position)
        shares = sources.shares.shares[own]
        order = own[np.argsort(-shares, kind="stable")].tolist()
        shown = [f"{train.languages[sources.language[i]]} {sources.shares.shares[i]:.2%}" for i in order]
        if len(shown) > _SHOWN:
            shown = [*shown[: _SHOWN // 2], "...", *shown[-_SHOWN // 2 :]]
        name = f"{part.storage.root} {shares.sum():.2%}: " if len(parts_of(train)) > 1 else ""
        lines.append(f"{'shares' if not position else '':11} {name}{', '.join(shown)}")
    return lines
