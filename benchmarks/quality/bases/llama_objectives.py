"""What the tiny English Llama learns: the next token of help pages."""

import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from benchmarks.quality.bases.mt_objective import pad


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


def collate_windows(pad_id: int):
    return lambda windows: pad(windows, pad_id)


def causal_loss(model, batch: dict) -> torch.Tensor:
    """Next-token cross-entropy of a causal model; <bos> is not predicted."""
    hidden = model.model(input_ids=batch["ids"], attention_mask=batch["mask"], use_cache=False).last_hidden_state
    wanted = (batch["mask"].bool() & (batch["ids"] != model.config.bos_token_id))[:, 1:]
    logits = model.lm_head(hidden[:, :-1][wanted])
    return F.cross_entropy(logits.float(), batch["ids"][:, 1:][wanted])
