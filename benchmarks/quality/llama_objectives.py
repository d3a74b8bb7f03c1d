"""What the tiny English Llama learns, in order: next tokens, masked next tokens (bidirectional), passages of one page together.

The last two are what LLM2Vec (BehnamGhader et al., 2024) does to a causal model, with one addition: the contrastive phase pairs
not only a passage with itself under dropout but also with another passage of its page.
"""

import random

import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from benchmarks.quality.mt_objective import mean_pool, pad

TEMPERATURE = 0.05


class Windows(Dataset):
    """Pages cut into windows of at most `width` tokens; every paragraph begins with <bos>, windows begin at a paragraph."""

    def __init__(self, pages: list[list[list[int]]], width: int):
        self.windows: list[list[int]] = []
        for paragraphs in pages:
            window: list[int] = []
            for ids in paragraphs:
                if window and len(window) + len(ids) > width:
                    self.windows.append(window)
                    window = []
                window = window + ids[:width]
            if window:
                self.windows.append(window)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, i: int) -> list[int]:
        return self.windows[i]


class Passages(Dataset):
    """Item i is two passages of page i: (random runs of paragraphs of at most `width` tokens); half the time the same twice."""

    def __init__(self, pages: list[list[list[int]]], width: int, seed: int = 0):
        self.pages = [page for page in pages if len(page) > 1]
        self.width = width
        self.rng = random.Random(seed)

    def __len__(self) -> int:
        return len(self.pages)

    def __getitem__(self, i: int) -> tuple[list[int], list[int]]:
        first, second = self._passage(i), self._passage(i)
        return (first, first) if self.rng.random() < 0.3 else (first, second)

    def _passage(self, i: int) -> list[int]:
        page = self.pages[i]
        start = self.rng.randrange(len(page))
        ids = list(page[start])
        for following in page[start + 1 : start + self.rng.randrange(1, 4)]:
            ids += following
        return ids[: self.width]


def collate_windows(pad_id: int):
    return lambda windows: pad(windows, pad_id)


def collate_passages(pad_id: int):
    def collate(pairs):
        return {"first": pad([a for a, _ in pairs], pad_id), "second": pad([b for _, b in pairs], pad_id)}

    return collate


def token_loss(model, hidden_BSD, ids_BS, wanted_BS) -> torch.Tensor:
    """Cross-entropy of `ids[:, t]` where `wanted[:, t]`, read from the state before it (t - 1)."""
    wanted = wanted_BS[:, 1:]
    logits = model.lm_head(hidden_BSD[:, :-1][wanted])
    return F.cross_entropy(logits.float(), ids_BS[:, 1:][wanted])


def causal_loss(model, batch: dict) -> torch.Tensor:
    """Next-token cross-entropy of a causal model; <bos> is not predicted."""
    hidden = model.model(input_ids=batch["ids"], attention_mask=batch["mask"], use_cache=False).last_hidden_state
    wanted = batch["mask"].bool() & (batch["ids"] != model.config.bos_token_id)
    return token_loss(model, hidden, batch["ids"], wanted)


def masked_next_token_loss(model, batch: dict, mask_id: int, share: float = 0.2) -> torch.Tensor:
    """LLM2Vec's masked next-token prediction: a masked token is predicted from the state one position before it."""
    candidates = batch["mask"].bool() & (batch["ids"] != model.config.bos_token_id)
    masked = candidates & (torch.rand(batch["ids"].shape) < share)
    ids = torch.where(masked, mask_id, batch["ids"])
    hidden = model.model(input_ids=ids, attention_mask=batch["mask"], use_cache=False).last_hidden_state
    return token_loss(model, hidden, batch["ids"], masked)


def contrastive_loss(model, batch: dict) -> torch.Tensor:
    """Cross-entropy of finding the partner passage among the batch by cosine of mean-pooled states, both directions."""
    pooled = []
    for side in ("first", "second"):
        ids, mask = batch[side]["ids"], batch[side]["mask"]
        hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        pooled.append(F.normalize(mean_pool(hidden, mask), dim=-1))
    logits = (pooled[0].unsqueeze(1) * pooled[1].unsqueeze(0)).sum(-1) / TEMPERATURE
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
