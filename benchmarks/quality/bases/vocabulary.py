"""A trained MT model goes on with another vocabulary: pieces it knows keep their embeddings, new ones start from their parts."""

from __future__ import annotations

from typing import Any

import torch
from transformers import M2M100ForConditionalGeneration, PreTrainedTokenizerBase


@torch.no_grad()
def carry_vocabulary(
    model: M2M100ForConditionalGeneration, old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase
) -> None:
    """Give `model` (embeddings tied on all sides) the vocabulary of `new`, in place.

    A piece of both keeps its row; a new piece starts as the mean of the rows of the pieces that `old` cuts it into; a new
    language tag as the mean of all old tags.
    """
    typed: Any = model  # which PyTorch takes for a module whose attributes are tensors
    rows = typed.get_input_embeddings().weight.detach().clone()
    known = old.get_vocab()
    tags = [known[tag] for tag in old.all_special_tokens if "_" in tag]
    carried = torch.full((len(new), rows.shape[1]), torch.nan, dtype=rows.dtype)
    for piece, place in new.get_vocab().items():
        if piece in known:
            found = [known[piece]]
        elif piece in new.all_special_tokens:
            found = tags
        else:
            found = [token.id for token in old.backend_tokenizer.model.tokenize(piece)]
        carried[place] = rows[found].mean(0)
    assert not carried.isnan().any(), "every id has a piece"
    model.resize_token_embeddings(len(new), mean_resizing=False)
    typed.get_input_embeddings().weight.copy_(carried)
