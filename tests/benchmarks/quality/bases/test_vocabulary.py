"""A model that goes on with another vocabulary: known pieces keep their rows, others start from their parts.

Characters that the old vocabulary lacks have one part, its unknown piece: they all start alike.
"""

import torch
from transformers import AutoTokenizer, M2M100ForConditionalGeneration

from benchmarks.quality.bases.text_tokenizers import train_mt_tokenizer
from benchmarks.quality.bases.vocabulary import carry_vocabulary


def test_embeddings_of_pieces(tmp_path):
    old = AutoTokenizer.from_pretrained("assets/mt")
    lines = ["Netzwerkverwaltung der Schnittstellen", "a network manager of interfaces", "\u10d0"] * 4
    new = train_mt_tokenizer(lines, ("eng_Latn", "dan_Latn"), 60)
    model = M2M100ForConditionalGeneration.from_pretrained("assets/mt", dtype="float32")
    before = model.get_input_embeddings().weight.detach().clone()
    carry_vocabulary(model, old, new)
    after, was, now = model.get_input_embeddings().weight, old.get_vocab(), new.get_vocab()
    assert after.shape == (len(new), before.shape[1])
    assert model.lm_head.weight is after
    assert model.model.encoder.embed_tokens.weight is after
    assert model.config.vocab_size == len(new)
    for piece in ("eng_Latn", "</s>", "a"):
        assert torch.equal(after[now[piece]], before[was[piece]])
    tags = [was[tag] for tag in was if tag.endswith(("_Latn", "_Jpan", "_Cyrl", "_Khmr"))]
    torch.testing.assert_close(after[now["dan_Latn"]], before[tags].mean(0))

    def parts_of(piece):
        return [token.id for token in old.backend_tokenizer.model.tokenize(piece)]

    new_pieces = sorted(piece for piece in now if piece not in was and not piece.endswith("_Latn"))
    unknown = next(piece for piece in new_pieces if len(parts_of(piece)) > 1)
    parts = parts_of(unknown)
    torch.testing.assert_close(after[now[unknown]], before[parts].mean(0))
    assert "\u10d0" not in was
    assert torch.equal(after[now["\u10d0"]], before[old.unk_token_id])
