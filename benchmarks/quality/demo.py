"""The last part of `make demo`: what an exported model learned, shown by the borrowed head on real help text.

python -m benchmarks.quality.demo --export runs/demo/export --text assets/text --output runs/demo/report
    [--more-tests runs/bases/help_text]   test items in languages that do not ship, as `make help-text` leaves them
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from benchmarks.quality.text.folder_text import read_jsonl
from benchmarks.quality.vectors.borrowed_head import Embedders, LabelledTexts, borrowed_head
from benchmarks.quality.vectors.borrowed_head_report import write_report
from mtllm_ds import MTLLM
from mtllm_ds.cluster.precision import reading_dtype
from mtllm_ds.command_line import Parser, add_precision, quiet_libraries, run_and_exit
from mtllm_ds.errors import UserError
from mtllm_ds.languages import ENGLISH

BATCH_SIZE = 64


def parse() -> argparse.Namespace:
    parser = Parser(description="The borrowed head on an exported model.")
    parser.add_argument("--export", type=Path, required=True, help="folder written by `mtllm-ds export`")
    parser.add_argument("--text", type=Path, default=Path("assets/text"), help="folder of the text sample")
    parser.add_argument("--more-tests", type=Path, help="folder of `make help-text`: its languages are read too")
    parser.add_argument("--output", type=Path, required=True, help="folder of the report")
    add_precision(parser)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> int:
    options = parse()
    console = Console()
    tests = _tests(options.text, options.more_tests)
    console.print("reading the test items in every language with the stacked model, the LLM and the MT encoder")
    dtype = reading_dtype(options.precision, torch.device(options.device))
    model = MTLLM.from_pretrained(options.export, device=options.device, dtype=dtype)
    result = borrowed_head(
        _embedders(model),
        train=_labelled(options.text / f"topics_train_{ENGLISH}.jsonl.xz"),
        valid=_labelled(options.text / f"topics_valid_{ENGLISH}.jsonl.xz"),
        tests=tests,
        stage1_train=[row["text"] for row in read_jsonl(options.text / f"stage1_train_{ENGLISH}.jsonl.xz")],
        stage1_valid=[row["text"] for row in read_jsonl(options.text / f"stage1_valid_{ENGLISH}.jsonl.xz")],
    )
    write_report(
        result, options.output, "The borrowed head: topics of help paragraphs, read without translation", console
    )
    console.print(f"\nreport: {options.output}/table.json, {options.output}/table.png", highlight=False)
    return 0


def _tests(text: Path, more: Path | None) -> dict[str, LabelledTexts]:
    """Test items by language, in the order of codes: those of the sample, then those of other languages in `more`."""
    paths = {_language(path, "topics_test_"): path for path in text.glob("topics_test_*.jsonl.xz")}
    if not paths:
        raise UserError(f"--text {text}: no topics_test_*.jsonl.xz there; name the folder of the text sample")
    if more is not None:
        others = {_language(path, "test_"): path for path in more.glob("test_*.jsonl")}
        if not others:
            raise UserError(f"--more-tests {more}: no test_LANG.jsonl there; make them with `make help-text`")
        paths = others | paths
    tests = {code: _labelled(path) for code, path in sorted(paths.items())}
    return {code: items for code, items in tests.items() if items.texts}


def _language(path: Path, prefix: str) -> str:
    return path.name.removeprefix(prefix).split(".")[0]


def _embedders(model: MTLLM) -> Embedders:
    """The three ways of reading; each text is read once, however often it is asked for, and once for stack and encoder."""
    llm = _Remembered(lambda texts, code: model.encode_with_llm(texts, batch_size=BATCH_SIZE))
    encoder = _Remembered(lambda texts, code: model.encode_with_encoder(texts, lang=code, batch_size=BATCH_SIZE))

    def read_with_both(texts: list[str], code: str) -> torch.Tensor:
        vectors, means = model.encode_both(texts, lang=code, batch_size=BATCH_SIZE)
        encoder.keep(texts, code, means)
        return vectors

    mtllm = _Remembered(read_with_both)
    return Embedders(stack=lambda texts, code: (mtllm(texts, code), encoder(texts, code)), llm=llm, encoder=encoder)


class _Remembered:
    """Vectors of texts of a language, (n, width), each read once."""

    def __init__(self, read: Callable[[list[str], str], torch.Tensor]) -> None:
        self._read = read
        self._known: dict[tuple[str, str], np.ndarray] = {}

    def keep(self, texts: Sequence[str], code: str, vectors: torch.Tensor) -> None:
        """Take vectors that were read elsewhere."""
        self._known |= {(text, code): row for text, row in zip(texts, vectors.numpy(), strict=True)}

    def __call__(self, texts: Sequence[str], code: str) -> np.ndarray:
        new = list(dict.fromkeys(text for text in texts if (text, code) not in self._known))
        if new:
            self.keep(new, code, self._read(new, code))
        return np.stack([self._known[text, code] for text in texts])


def _labelled(path: Path) -> LabelledTexts:
    rows = read_jsonl(path)
    return LabelledTexts(
        texts=[row["text"] for row in rows],
        labels=[row["label"] for row in rows],
        english=[row.get("text_en", row["text"]) for row in rows],
    )


if __name__ == "__main__":
    quiet_libraries()
    run_and_exit(main)
