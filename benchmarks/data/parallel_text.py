"""A data set of real parallel text in many languages, with tokenizers trained on it: what the data figures are measured on.

The input is a folder of `CODE.tsv.xz`, each line an English segment, a tab and its translation into CODE.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import NllbTokenizer, PreTrainedTokenizerFast

from mtllm_ds.data.shards.manifest import MANIFEST_NAME, Manifest
from mtllm_ds.data.text.tokenization import TokenizerSpec
from mtllm_ds.data.writing.builder import build_shards
from mtllm_ds.data.writing.settings import ShardSettings
from mtllm_ds.data.writing.sources import InputFile

LINES_FOR_VOCABULARY = 1_000
ENCODER_VOCABULARY = 48_000
LLM_VOCABULARY = 32_000


def prepare_parallel(text: Path, work: Path, every: int = 1) -> Manifest:
    """Shards of the translations of each (every n-th) language below `text`, made in `work` unless they are there already."""
    files = {path.name.removesuffix(".tsv.xz"): path for path in sorted(text.glob("*.tsv.xz"))[::every]}
    if not (work / "encoder").exists():
        _save_encoder_tokenizer(files, work / "encoder")
    if not (work / "llm").exists():
        _save_llm_tokenizer(files, work / "llm")
    settings = ShardSettings(
        inputs=tuple(InputFile(path=str(path), language=code, text_field="2") for code, path in files.items()),
        encoder=TokenizerSpec(name=str(work / "encoder"), side="encoder"),
        llm=TokenizerSpec(name=str(work / "llm"), side="llm"),
    )
    if (work / "shards" / MANIFEST_NAME).exists():
        return Manifest.load(work / "shards")
    return build_shards(settings, work / "shards")


def _column(path: Path, number: int, lines: int) -> Iterator[str]:
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line in islice(file, lines):
            yield line.rstrip("\n").split("\t")[number]


def _save_encoder_tokenizer(files: dict[str, Path], folder: Path) -> None:
    """One vocabulary for all languages, shaped like NLLB's."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    trainer = trainers.BpeTrainer(
        vocab_size=ENCODER_VOCABULARY, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], show_progress=False
    )
    backend.train_from_iterator(
        (text for path in files.values() for text in _column(path, 1, LINES_FOR_VOCABULARY)), trainer
    )
    model = json.loads(backend.to_str())["model"]
    merges: list[Any] = [tuple(merge) for merge in model["merges"]]
    NllbTokenizer(
        vocab=model["vocab"],
        merges=merges,
        src_lang=next(iter(files)),
        additional_special_tokens=list(files),
    ).save_pretrained(folder)


def _save_llm_tokenizer(files: dict[str, Path], folder: Path) -> None:
    """A byte-level vocabulary of mostly English with some of every language, as Llama's is."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=LLM_VOCABULARY,
        special_tokens=["<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    english = (text for path in files.values() for text in _column(path, 0, LINES_FOR_VOCABULARY))
    foreign = (text for path in files.values() for text in _column(path, 1, LINES_FOR_VOCABULARY // 5))
    backend.train_from_iterator((text for part in (english, foreign) for text in part), trainer)
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>").save_pretrained(folder)
