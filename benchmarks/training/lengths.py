"""How long real documents are, in tokens of either side: a committed histogram, and documents drawn from it.

    python -m benchmarks.training.lengths        # counts again what lies in lengths.json

Counted in `assets/text` with the tokenizers of `assets/`, by the product's own encoding (tag, `<bos>` and end included): its
paragraphs, cut at 128 tokens as `make demo` has it, and its pages (the paragraphs of a page as one document), cut at 512.
"""

from __future__ import annotations

import json
import lzma
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np

from mtllm_ds import atomic
from mtllm_ds.config.shipped import shipped_place
from mtllm_ds.data.text.cutting import encode_documents
from mtllm_ds.data.text.tokenization import TokenizerSpec, load_text_tokenizer

FILE = Path(__file__).with_name("lengths.json")
TEXT = "assets/text/stage1_train_eng_Latn.jsonl.xz"
MAX_LENGTHS = {"paragraphs": 128, "pages": 512}
BIN_TOKENS = 8


def draw_lengths(kind: str, count: int, seed: int = 0) -> np.ndarray:
    """Tokens of `count` documents, (count, 2): the encoder's and the LLM's side, which go together; evenly within a bin."""
    bins = np.array(json.loads(FILE.read_text(encoding="utf-8"))[kind])
    generator = np.random.default_rng(seed)
    chosen = generator.choice(len(bins), size=count, p=bins[:, 2] / bins[:, 2].sum())
    within = generator.integers(BIN_TOKENS, size=(count, 2))
    return np.minimum(bins[chosen, :2] * BIN_TOKENS + within + 1, MAX_LENGTHS[kind])


def count_lengths(texts: Iterable[str], max_length: int) -> list[list[int]]:
    """Documents by length: [bin of the encoder's tokens, bin of the LLM's, documents], bins of `BIN_TOKENS` from 1 token on."""
    places: dict[Literal["encoder", "llm"], str] = {"encoder": "assets/mt", "llm": "assets/llm"}
    sides = [
        load_text_tokenizer(TokenizerSpec(name=str(shipped_place(place)), side=side, max_length=max_length))
        for side, place in places.items()
    ]
    counts: Counter[tuple[int, int]] = Counter()
    for (sample,) in encode_documents(sides, [(text,) for text in texts], "eng_Latn", "truncate"):
        counts[_bin(sample.ids["encoder"]), _bin(sample.ids["llm"])] += 1
    return [[encoder, llm, number] for (encoder, llm), number in sorted(counts.items())]


def _bin(ids: Sequence[int]) -> int:
    return (len(ids) - 1) // BIN_TOKENS


def main() -> None:
    with lzma.open(shipped_place(TEXT), "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    texts = {
        "paragraphs": [row["text"] for row in rows],
        "pages": [" ".join(row["text"] for row in page) for _, page in groupby(rows, key=lambda row: row["page"])],
    }
    found = {kind: count_lengths(texts[kind], longest) for kind, longest in MAX_LENGTHS.items()}
    lines = [f"  {json.dumps(kind)}: {json.dumps(bins, separators=(',', ':'))}" for kind, bins in found.items()]
    atomic.write_text(FILE, "{\n" + ",\n".join(lines) + "\n}\n")
    for kind in found:
        drawn = draw_lengths(kind, 100_000)
        print(
            f"{kind}: {len(texts[kind])} documents; quartiles {np.percentile(drawn, (25, 50, 75), axis=0).T.tolist()}"
        )


if __name__ == "__main__":
    main()
