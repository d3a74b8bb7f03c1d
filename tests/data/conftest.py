"""Small data sets, made once a session from generated sentences in three languages."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import settings

from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.text.tokenization import TokenizerSpec
from mtllm_ds.data.writing.builder import build_shards
from mtllm_ds.data.writing.settings import ShardSettings
from mtllm_ds.data.writing.sources import InputFile
from tests.fixtures.tokenizers import TEXT, save_llama_tokenizer, save_nllb_tokenizer

settings.register_profile("deterministic", derandomize=True, database=None, deadline=None)
settings.load_profile("deterministic")

SAMPLES = {"eng_Latn": 203, "deu_Latn": 90, "khm_Khmr": 35}


@pytest.fixture(scope="session")
def tokenizer_folders(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("tokenizers")
    return {"encoder": str(save_nllb_tokenizer(root / "encoder")), "llm": str(save_llama_tokenizer(root / "llm"))}


@pytest.fixture(scope="session")
def specs(tokenizer_folders) -> dict[str, TokenizerSpec]:
    return {
        side: TokenizerSpec(name=folder, side=side, max_length=128)  # type: ignore[arg-type]
        for side, folder in tokenizer_folders.items()
    }


def sentences(count: int, seed: int) -> list[str]:
    """Distinct texts of very different lengths."""
    rng = random.Random(seed)
    words = " ".join(TEXT).split()
    return [f"{i} " + " ".join(rng.choices(words, k=min(60, 1 + int(rng.expovariate(0.1))))) for i in range(count)]


@pytest.fixture(scope="session")
def text_files(tmp_path_factory) -> dict[str, Path]:
    """language -> JSON lines of `text` and `label`."""
    root = tmp_path_factory.mktemp("text")
    files = {}
    for seed, (language, count) in enumerate(SAMPLES.items()):
        files[language] = root / f"{language}.jsonl"
        rows = [{"text": text, "label": i % 3} for i, text in enumerate(sentences(count, seed))]
        files[language].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return files


@pytest.fixture(scope="session")
def shard_settings(specs, text_files) -> ShardSettings:
    """Blocks of 16 samples, and a shard every few blocks."""
    inputs = tuple(
        InputFile(path=str(file), language=code, label_field="label", labels=("0", "1", "2"))
        for code, file in text_files.items()
    )
    return ShardSettings(inputs=inputs, **specs, block_samples=16, shard_bytes=10_000)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory, shard_settings) -> Manifest:
    return build_shards(shard_settings, tmp_path_factory.mktemp("dataset") / "shards", num_workers=1)


@pytest.fixture
def dataset_copy(dataset, tmp_path) -> Path:
    """A copy that a test may damage."""
    import shutil

    return Path(shutil.copytree(dataset.storage.root, tmp_path / "copy"))
