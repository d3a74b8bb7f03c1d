"""Centring by language: what enters the connector has its language's mean replaced by that of English.

An MT encoder's states carry the language in their mean; the connector was trained on English. The language of a row is told
by its first token, the tag: `[src_lang] x </s>`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from mtllm_ds.cluster.agree import sum_over_ranks
from mtllm_ds.cluster.zero import gathered
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.errors import UserError
from mtllm_ds.languages import ENGLISH
from mtllm_ds.models.encoders import StackEncoder


class LanguageCentring(nn.Module):
    """Means (L, D) float32 of L languages, English first, and their tags' ids (L,) int64."""

    means: torch.Tensor
    tag_ids: torch.Tensor

    def __init__(self, means: torch.Tensor, tag_ids: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("means", means.clone())
        self.register_buffer("tag_ids", tag_ids.clone())

    def forward(self, states: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """(B, S, D) states of (B, S) ids, centred; a row whose first token is no tag of ours stays as it is."""
        match = (ids[:, :1] == self.tag_ids).to(states.dtype)
        shifts = (self.means[:1] - self.means).to(states.dtype)
        return states + (match @ shifts)[:, None]


def centring_of(means: Mapping[str, torch.Tensor], tag_id: Callable[[str], int]) -> LanguageCentring:
    """Centring from means by code; `tag_id` tells the encoder's tag of a code."""
    codes = [ENGLISH, *sorted(set(means) - {ENGLISH})]
    return LanguageCentring(torch.stack([means[code].float() for code in codes]), torch.tensor([*map(tag_id, codes)]))


def read_means(path: Path, hidden_size: int) -> dict[str, torch.Tensor]:
    """Means of a JSON file, {code: [D numbers]}; `UserError` if it is not one, or has no English."""
    where = f"model.connector.centring_text={path}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        means = {str(code): torch.tensor(values, dtype=torch.float32) for code, values in content.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: not a JSON object of code to numbers ({error}); mend the file") from error
    require_english(means, where)
    for code, mean in means.items():
        if mean.shape != (hidden_size,):
            raise UserError(
                f"{where}: {code} has {mean.numel()} numbers, the encoder's states have {hidden_size}; "
                "compute them with that encoder"
            )
    return means


def require_english(codes: Iterable[str], where: str) -> None:
    """The mean that replaces the others must be there."""
    if ENGLISH not in codes:
        raise UserError(f"{where}: there is no {ENGLISH}, whose mean replaces the others; add English")


def language_means(
    encoder: StackEncoder, batches: Iterable[Batch], languages: Sequence[str], device: torch.device
) -> dict[str, torch.Tensor]:
    """Mean state over all tokens of each language, float32 (D,), the batches of all ranks together."""
    sums = torch.zeros(len(languages), encoder.hidden_size, dtype=torch.float64, device=device)
    counts = torch.zeros(len(languages), dtype=torch.float64, device=device)
    # Before the engine exists nothing gathers partitioned weights by itself.
    with gathered(encoder.parameters()):
        for batch in batches:
            here = batch.to(device)
            states = encoder(here.encoder_ids, here.encoder_mask).double()
            weights = (here.encoder_mask * here.valid[:, None]).double()
            sums.index_add_(0, here.languages, (states * weights.unsqueeze(-1)).sum(1))
            counts.index_add_(0, here.languages, weights.sum(1))
    sums, counts = sum_over_ranks(sums), sum_over_ranks(counts)
    return {
        code: (sums[row] / counts[row]).float().cpu() for row, code in enumerate(languages) if float(counts[row]) > 0
    }
