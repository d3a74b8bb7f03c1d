"""The reader of E5S1 files and Q4_0 blocks, on a small file made here."""

import struct

import numpy as np
import pytest
from transformers import BertConfig, BertModel

from benchmarks.public_models.e5 import dequantised, hugging_face_names, read_e5

gguf = pytest.importorskip("gguf")


def e5_file(tensors, sizes=(32, 2, 4, 64, 7, 8, 2), eps=1e-12):
    """Bytes of a file with a tokenizer of three pieces and one normalization; values are bytes (packed) or float32."""
    header = b"E5S1" + struct.pack("<i", 1) + struct.pack("<7i", *sizes) + struct.pack("<fi", eps, 32)
    text = b"abcde"
    header += (
        struct.pack("<5iQ", 3, 0, 2, 1, 3, len(text)) + struct.pack("<4I", 0, 1, 3, 5) + struct.pack("<3f", -1, -2, -3)
    )
    normalization = struct.pack("<IBI", 65, 1, 97)
    header += text + struct.pack("<iI", 1, len(normalization)) + normalization + struct.pack("<i", len(tensors))
    directory = sum(2 + len(name) + 21 for name in tensors)
    entries, content = b"", b""
    for name, value in tensors.items():
        raw = value if isinstance(value, bytes) else value.astype("<f4").tobytes()
        count = len(value) // 18 * 32 if isinstance(value, bytes) else value.size
        offset = len(header) + directory + len(content)
        entries += struct.pack("<H", len(name)) + name.encode()
        entries += struct.pack("<BIQQ", int(isinstance(value, bytes)), count, offset, len(raw))
        content += raw
    return header + entries + content


def packed(weights):
    """Q4_0 bytes by the library that defines the format."""
    return gguf.quantize(weights, gguf.GGMLQuantizationType.Q4_0).tobytes()


def test_dequantised_as_gguf_does():
    weights = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    data = packed(weights)
    expected = gguf.dequantize(np.frombuffer(data, np.uint8), gguf.GGMLQuantizationType.Q4_0)
    np.testing.assert_array_equal(dequantised(data, weights.size), expected)


def test_each_weight_is_scale_times_its_half_byte():
    halves = np.random.default_rng(1).integers(0, 16, 32)
    data = np.float16(0.37).tobytes() + bytes(int(halves[i] | halves[i + 16] << 4) for i in range(16))
    scale = float(np.float16(0.37))
    assert dequantised(data, 32).tolist() == [np.float32(scale * (half - 8)) for half in halves.tolist()]


def test_header_and_tensors_behind_the_tokenizer():
    rng = np.random.default_rng(2)
    norm, words = rng.normal(size=32).astype(np.float32), rng.normal(size=(7, 32)).astype(np.float32)
    config, tensors = read_e5(e5_file({"emb.ln.w": norm, "emb.word": packed(words)}))
    assert config == {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 7,
        "max_position_embeddings": 8, "type_vocab_size": 2, "layer_norm_eps": pytest.approx(1e-12),
    }  # fmt: skip
    np.testing.assert_array_equal(tensors["emb.ln.w"], norm)
    np.testing.assert_allclose(tensors["emb.word"].reshape(7, 32), words, atol=0.3)


def test_names_are_all_weights_of_bert():
    config = BertConfig(hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8, vocab_size=5)
    state = BertModel(config, add_pooling_layer=False).state_dict()
    assert set(hugging_face_names(3).values()) == set(state)


def test_another_file_is_refused():
    with pytest.raises(AssertionError, match="E5S1"):
        read_e5(b"GGUF" + bytes(100))
