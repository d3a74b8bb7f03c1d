"""A batch of dialogues whose responses are others than those of the shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from mtllm_ds.data.columns import RESPONSE_START
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.data.stream.packing import pack_rows, pad_rows


def with_responses(batch: Batch, responses: Sequence[Sequence[int] | None]) -> Batch:
    """A batch on the host, (B,) responses put behind what its teacher reads, padded and packed; None keeps a sample's own."""
    if not batch.host.num_valid:
        return batch
    lengths, starts = batch.host.num_tokens["llm"], batch.host.columns[RESPONSE_START]
    own = [row[:length].numpy() for row, length in zip(batch.llm_ids, lengths, strict=True)]
    rows = [
        row if response is None else np.concatenate([row[:start], np.array(response, np.int64)])
        for row, start, response in zip(own, starts, responses, strict=True)
    ]
    ids, mask = pad_rows(rows, 0)
    counts = np.array([len(row) for row in rows])
    packed = batch.packed
    if packed is not None:
        layout = pack_rows(counts, np.cumsum(counts) - counts, batch.host.cells)
        together = layout.gather(torch.from_numpy(np.concatenate(rows)))
        packed = replace(packed, llm_ids=together.masked_fill(layout.segment_ids < 0, 0), llm=layout)
    host = replace(batch.host, num_tokens={**batch.host.num_tokens, "llm": tuple(counts.tolist())}, noted={})
    return replace(batch, llm_ids=ids, llm_mask=mask, packed=packed, host=host)
