"""What the tiny MT model learns: paragraphs and their translations meet in the encoder, and the decoder translates.

Shapes: B segments, S tokens (padded), D model width. A batch holds B English segments and, of each, a translation into a random
language, so every batch mixes languages.
"""

import random

import torch
import torch.nn.functional as F
from torch.utils.data import Dataset, Sampler

from mtllm_ds.data.text.padding import padded

VIEWS = ("english", "foreign")
# Logits of the ranking are -SHARPNESS * squared distance: states are layer-normed, so distances are of the order of D.
SHARPNESS = 0.1
TRANSLATION_WEIGHTS = {"into_english": 1.0, "out_of_english": 0.25, "english_from_english": 0.5}


class Translations(Dataset):
    """Tokenized segments: item i is the English ids and the ids of one of its translations, drawn anew each time.

    `english[i]` and each value of `translations[i]` are ids `[tag] x </s>`.
    """

    def __init__(self, english: list[list[int]], translations: list[dict[str, list[int]]], seed: int = 0):
        self.english, self.translations = english, translations
        self.rng = random.Random(seed)

    def __len__(self) -> int:
        return len(self.english)

    def __getitem__(self, i: int) -> dict:
        return {"english": self.english[i], "foreign": self.rng.choice(list(self.translations[i].values()))}


class SimilarLengths(Sampler):
    """Order of items in which every run of `batch_size` has similar lengths, and the runs come in random order."""

    def __init__(self, lengths: list[int], batch_size: int, pool_batches: int = 20):
        self.lengths, self.batch_size, self.pool = lengths, batch_size, pool_batches * batch_size

    def __len__(self) -> int:
        return len(self.lengths) // self.batch_size * self.batch_size

    def __iter__(self):
        order = torch.randperm(len(self.lengths))[: len(self)].tolist()
        batches = []
        for start in range(0, len(order), self.pool):
            pool = sorted(order[start : start + self.pool], key=self.lengths.__getitem__)
            batches += [pool[i : i + self.batch_size] for i in range(0, len(pool), self.batch_size)]
        for i in torch.randperm(len(batches)).tolist():
            yield from batches[i]


class Collate:
    """Pads each view of a batch: `{view: {"ids": (B, S), "mask": (B, S)}}`."""

    def __init__(self, pad_id: int):
        self.pad_id = pad_id

    def __call__(self, items: list[dict]) -> dict:
        return {view: pad([item[view] for item in items], self.pad_id) for view in VIEWS}


def pad(rows: list[list[int]], pad_id: int) -> dict[str, torch.Tensor]:
    ids, mask = padded(rows, pad_id, multiple_of=8)
    return {"ids": ids, "mask": mask}


def mean_pool(states_BSD: torch.Tensor, mask_BS: torch.Tensor) -> torch.Tensor:
    """Masked mean over tokens in fp32, (B, D)."""
    weights = mask_BS.unsqueeze(-1).float()
    return (states_BSD.float() * weights).sum(1) / weights.sum(1).clamp(min=1e-6)


def some_tokens(mask_BS: torch.Tensor) -> torch.Tensor:
    """Drops a random share (0 to one half, a row) of a mask, so that any part of the tokens must carry the meaning."""
    keep = 1 - 0.5 * torch.rand(mask_BS.shape[0], 1, device=mask_BS.device)
    kept = mask_BS * (torch.rand(mask_BS.shape, device=mask_BS.device) < keep)
    return torch.where(kept.sum(1, keepdim=True) > 0, kept, mask_BS)


def ranking_loss(u_BD: torch.Tensor, v_BD: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of finding the own partner among the batch by distance, both directions."""
    # Differences, not a product of matrices: under autocast that one would round to bf16.
    logits = -SHARPNESS * (u_BD.unsqueeze(1) - v_BD.unsqueeze(0)).square().sum(-1)
    target = torch.arange(len(u_BD), device=u_BD.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def offset_loss(u_BD: torch.Tensor, v_BD: torch.Tensor) -> torch.Tensor:
    """Squared distance of partners relative to the spread of the batch: 0 when partners coincide, 2 when they are unrelated."""
    spread = torch.cat([u_BD, v_BD]).var(0, correction=0).sum()
    return (u_BD - v_BD).square().sum(1).mean() / spread


def translation_loss(model, states, source_mask, target: dict, label_smoothing: float = 0.05) -> torch.Tensor:
    """Label-smoothed cross-entropy of the target `[tag] x </s>`, started by `</s>` as NLLB's decoder is."""
    ids, mask = target["ids"], target["mask"]
    start = torch.full_like(ids[:, :1], model.config.decoder_start_token_id)
    decoded = model.model.decoder(
        input_ids=torch.cat([start, ids[:, :-1]], 1),
        attention_mask=torch.cat([torch.ones_like(start), mask[:, :-1]], 1),
        encoder_hidden_states=states,
        encoder_attention_mask=source_mask,
        use_cache=False,
    ).last_hidden_state
    wanted = mask.bool()
    logits = model.lm_head(decoded[wanted])
    return F.cross_entropy(logits.float(), ids[wanted], label_smoothing=label_smoothing)


def encode_views(model, batch: dict) -> dict[str, torch.Tensor]:
    """Encoder states of both views, (B, S, D) each."""
    return {v: model.model.encoder(input_ids=batch[v]["ids"], attention_mask=batch[v]["mask"])[0] for v in VIEWS}


def translation_losses(model, batch: dict, states: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Three ways for the decoder to write: into English from all rows, out of English from a quarter of them, English from
    English (which teaches it to look at its source early) from a half."""
    count = len(batch["english"]["ids"])
    quarter, half = (slice(0, max(1, count // share)) for share in (4, 2))

    def write(source: str, target: str, rows: slice) -> torch.Tensor:
        wanted = {name: tensor[rows] for name, tensor in batch[target].items()}
        return translation_loss(model, states[source][rows], batch[source]["mask"][rows], wanted)

    return {
        "into_english": write("foreign", "english", slice(None)),
        "out_of_english": write("english", "foreign", quarter),
        "english_from_english": write("english", "english", half),
    }


def mt_loss(
    model, batch: dict, offset_weight: float, translation_weight: float
) -> tuple[torch.Tensor, dict[str, float]]:
    """Sum of ranking, offset and (if weighted) translation losses, and the parts for the log."""
    states = encode_views(model, batch)
    english, foreign = (mean_pool(states[v], some_tokens(batch[v]["mask"])) for v in VIEWS)
    ranking, offset = ranking_loss(english, foreign), offset_loss(english, foreign)
    loss = ranking + offset_weight * offset
    parts = {"ranking": ranking.item(), "offset": offset.item()}
    if translation_weight:
        losses = translation_losses(model, batch, states)
        loss = loss + translation_weight * sum(TRANSLATION_WEIGHTS[name] * part for name, part in losses.items())
        parts |= {name: part.item() for name, part in losses.items()}
    return loss, parts
