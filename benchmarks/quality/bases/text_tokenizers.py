"""Train the two tiny tokenizers: NLLB-style BPE with FLORES tags for the MT model, English BPE for the Llama."""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, NllbTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from benchmarks.quality.text.folder_text import ParallelText
from mtllm_ds.languages import ENGLISH

MT_SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
LLM_SPECIALS = ["<unk>", "<bos>", "<eos>", "<pad>", "<mask>"]
# Where no piece may cross: between scripts of Japanese, around digits and punctuation (▁ is Metaspace's own mark), and
# before Khmer's zero-width spaces. Only training sees these cuts; afterwards no such merge exists, so the plain
# pre-tokenizer of NLLB gives the same pieces.
CUTS = r"[\u3040-\u309F]+|[\u30A0-\u30FF]+|[\u4E00-\u9FFF]+|[0-9]|[[\p{P}\p{S}]&&[^▁]]"


def _cut_metaspace() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True),
            pre_tokenizers.Split("\u200b", "merged_with_next"),
            pre_tokenizers.Split(Regex(CUTS), "isolated"),
        ]
    )


def balanced_lines(text: ParallelText, per_language: int, seed: int = 0) -> list[str]:
    """At most `per_language` segments of each language, English included."""
    rng = random.Random(seed)
    by_language: dict[str, list[str]] = {ENGLISH: list(text.english)}
    for translations in text.translations:
        for language, segment in translations.items():
            by_language.setdefault(language, []).append(segment)
    lines = []
    for segments in by_language.values():
        lines += rng.sample(segments, min(per_language, len(segments)))
    return lines


def train_mt_tokenizer(lines: Iterable[str], languages: Iterable[str], vocab_size: int) -> NllbTokenizer:
    """NLLB-style tokenizer, `[src] x </s>`: `vocab_size` pieces (specials included), then one FLORES tag a language."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    bpe.pre_tokenizer = _cut_metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=MT_SPECIALS, min_frequency=2, show_progress=False
    )
    bpe.train_from_iterator(lines, trainer)
    vocab = bpe.get_vocab()
    merges: list[Any] = [tuple(pair) for pair in _merges(bpe)]
    return NllbTokenizer(vocab, merges, src_lang=ENGLISH, additional_special_tokens=list(languages))


def train_llm_tokenizer(lines: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """English BPE with metaspace, template `<bos> x`; `<mask>` serves masked next-token prediction."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    bpe.pre_tokenizer = _cut_metaspace()
    bpe.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=LLM_SPECIALS, min_frequency=2, show_progress=False
    )
    bpe.train_from_iterator(lines, trainer)
    bos = ("<bos>", bpe.token_to_id("<bos>"))
    bpe.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B:1", special_tokens=[bos]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        mask_token="<mask>",
        model_max_length=512,
    )


def _merges(bpe: Tokenizer) -> list:
    return json.loads(bpe.to_str())["model"]["merges"]


def load_or_train(folder: Path, train) -> PreTrainedTokenizerBase:
    """The tokenizer saved in `folder`, or what `train()` returns, saved there."""
    if not (folder / "tokenizer.json").exists():
        train().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)
