import json
import os
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds

from mtllm_ds.data.shards.blocks import decode_block
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.shards.tar_shards import read_block, verify_shards
from mtllm_ds.data.text.tokenization import load_text_tokenizer
from mtllm_ds.data.writing import chunks
from mtllm_ds.data.writing.builder import build_shards
from mtllm_ds.data.writing.settings import ShardSettings
from mtllm_ds.data.writing.sources import InputFile
from mtllm_ds.errors import UserError
from tests.data.conftest import SAMPLES, sentences


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


def test_every_text_is_there_once_in_order_with_its_label(dataset, specs):
    encoder, llm = (load_text_tokenizer(specs[side]) for side in ("encoder", "llm"))
    read = {code: ([], [], []) for code in SAMPLES}
    for block in range(dataset.num_blocks):
        columns = read_block(dataset, block)
        rows = read[dataset.languages[dataset.index.language[block]]]
        for row in range(len(columns["encoder_ids"])):
            rows[0].append(columns["encoder_ids"][row].tolist())
            rows[1].append(columns["llm_ids"][row].tolist())
            rows[2].append(int(columns["label"][row]))
    for seed, (code, count) in enumerate(SAMPLES.items()):
        texts = sentences(count, seed)
        assert read[code][2] == [i % 3 for i in range(count)]
        for text, encoder_ids, llm_ids in zip(texts, read[code][0], read[code][1], strict=True):
            whole = encoder([text], code), llm([text], code)
            if max(map(len, whole)) <= 128:
                assert (encoder_ids, llm_ids) == whole
            else:
                assert len(encoder_ids) <= 128
                assert len(llm_ids) <= 128


def test_manifest_tells_what_is_there(dataset):
    assert dataset.num_samples == sum(SAMPLES.values())
    assert dict(zip(dataset.languages, dataset.samples_of_language.tolist(), strict=True)) == SAMPLES
    sizes = np.diff(dataset.first_row)
    for position in range(len(dataset.languages)):
        assert (sizes[dataset.index.language == position][:-1] == 16).all()
    assert len(dataset.shards) >= 3
    for code, counts in dataset.statistics.items():
        blocks = np.flatnonzero(dataset.index.language == dataset.languages.index(code))
        assert counts["llm_tokens"] == sum(dataset.index.llm_lengths[block].sum() for block in blocks)
        assert counts["documents"] == counts["samples"] == SAMPLES[code]
    verify_shards(dataset)


def test_bytes_do_not_depend_on_the_number_of_processes(dataset, shard_settings, tmp_path):
    again = build_shards(shard_settings, tmp_path / "again", num_workers=2)
    assert contents(again.storage.root) == contents(dataset.storage.root)


def test_plain_webdataset_reads_the_shards(dataset):
    urls = [os.path.join(dataset.storage.root, shard.name) for shard in dataset.shards]
    members = list(wds.WebDataset(urls, shardshuffle=False))
    assert len(members) == dataset.num_blocks
    for block, member in enumerate(members):
        assert member["__key__"].endswith(dataset.languages[dataset.index.language[block]])
        assert decode_block(member["block"])["llm_ids"].lengths.tolist() == dataset.index.llm_lengths[block].tolist()


@pytest.mark.parametrize("chunks_before_the_end", [0, 1, 9, 18])
def test_a_rerun_goes_on_after_the_last_finished_shard(
    dataset, shard_settings, tmp_path, monkeypatch, chunks_before_the_end
):
    monkeypatch.setattr(chunks, "CHUNK_DOCUMENTS", 16)
    whole = build_shards(shard_settings, tmp_path / "whole", num_workers=1)
    tokenized = []

    def stop(progress):
        tokenized.append(progress.samples)
        if len(tokenized) == chunks_before_the_end:
            raise KeyboardInterrupt

    output = tmp_path / "stopped"
    try:
        build_shards(shard_settings, output, num_workers=1, report=stop)
    except KeyboardInterrupt:
        assert not (output / "manifest.json").exists()
    first = len(tokenized)
    tokenized.clear()
    build_shards(shard_settings, output, num_workers=1, report=lambda progress: tokenized.append(progress.samples))
    assert contents(output) == contents(whole.storage.root)
    if chunks_before_the_end == 18:
        assert len(tokenized) < first  # finished shards were kept


def test_killed_from_outside_then_run_again(specs, tmp_path, tokenizer_folders):
    """A real process, killed with SIGKILL once its first shard stands: the rerun yields the same bytes as an unbroken run."""
    big = tmp_path / "big.jsonl"
    big.write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences(12_000, 7)), encoding="utf-8")
    command = [sys.executable, "launchers/prepare.py", "shards", "--input", f"eng_Latn={big}", "--num-workers", "2"]
    command += ["--encoder", tokenizer_folders["encoder"], "--llm", tokenizer_folders["llm"], "--shard-megabytes", "1"]
    output = tmp_path / "out"
    process = subprocess.Popen(
        [*command, "--output", str(output)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not (output / ".unfinished" / "shard-000000.tar.journal").exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (output / "manifest.json").exists(), "the run ended before it could be killed"
    kept = (output / "shard-000000.tar").stat().st_mtime_ns
    subprocess.run([*command, "--output", str(output)], check=True, capture_output=True)
    assert (output / "shard-000000.tar").stat().st_mtime_ns == kept
    verify_shards(Manifest.load(output))
    source = InputFile(path=str(big), language="eng_Latn")
    sides = {name: replace(spec, max_length=512) for name, spec in specs.items()}
    unbroken = build_shards(
        ShardSettings(inputs=(source,), **sides, shard_bytes=1 << 20), tmp_path / "unbroken", num_workers=1
    )
    assert contents(output) == contents(unbroken.storage.root)


def test_a_finished_data_set_is_left_alone(dataset, shard_settings):
    before = {path: path.stat().st_mtime_ns for path in Path(dataset.storage.root).iterdir()}
    build_shards(shard_settings, Path(dataset.storage.root), num_workers=1)
    with pytest.raises(UserError, match="made with other settings"):
        build_shards(replace(shard_settings, block_samples=8), Path(dataset.storage.root), num_workers=1)
    assert before == {path: path.stat().st_mtime_ns for path in Path(dataset.storage.root).iterdir()}


def test_bad_input_leaves_no_manifest(shard_settings, tmp_path):
    blank = tmp_path / "blank.jsonl"
    blank.write_text('{"text": "  ", "label": 0}\n')
    source = replace(shard_settings.inputs[0], path=str(blank))
    with pytest.raises(UserError, match="no text there that may enter"):
        build_shards(replace(shard_settings, inputs=(source,)), tmp_path / "out", num_workers=1)
    assert not (tmp_path / "out" / "manifest.json").exists()
    source = replace(shard_settings.inputs[0], language="fur_Latn")
    with pytest.raises(UserError, match="no tag for language 'fur_Latn'"):
        build_shards(replace(shard_settings, inputs=(source,)), tmp_path / "none", num_workers=1)
    assert not (tmp_path / "none").exists()


def test_a_language_of_which_nothing_is_left_counts_but_is_not_mixed(shard_settings, tmp_path):
    blank = tmp_path / "blank.jsonl"
    blank.write_text('{"text": "  ", "label": 0}\n')
    source = replace(shard_settings.inputs[0], path=str(blank), language="fra_Latn")
    inputs = (source, shard_settings.inputs[1])
    manifest = build_shards(replace(shard_settings, inputs=inputs), tmp_path / "out", num_workers=1)
    assert manifest.languages == ("deu_Latn",)
    assert manifest.statistics["fra_Latn"]["empty"] == 1


def test_memory_does_not_grow_with_the_input(specs, tmp_path):
    """Python's own peak over a text of 16 tasks is that of a text of 4, but for the index (some bytes a sample)."""
    peaks = []
    for tasks in (4, 16):
        text = tmp_path / f"{tasks}.jsonl"
        rows = [{"text": line} for line in sentences(tasks * chunks.CHUNK_DOCUMENTS, 1)]
        text.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        settings = ShardSettings(
            inputs=(InputFile(path=str(text), language="eng_Latn"),), **specs, block_samples=64, shard_bytes=50_000
        )
        tracemalloc.start()
        build_shards(settings, tmp_path / f"out{tasks}", num_workers=1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 40 * 12 * chunks.CHUNK_DOCUMENTS
