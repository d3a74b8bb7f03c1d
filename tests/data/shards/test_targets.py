import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from mtllm_ds.config.data import OrderSettings
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.shards.targets import (
    TargetSet,
    TargetWriter,
    TeacherIdentity,
    pooled_columns,
    top_k_columns,
    top_k_log_probs,
)
from mtllm_ds.data.stream.stream import EvalStream, TrainStream
from mtllm_ds.errors import UserError

TEACHER = TeacherIdentity(name="tiny", revision="1", tokenizer_fingerprint="abc")
VOCABULARY, K = 600, 5


def vector_of(row):
    """A teacher whose word about a sample follows from its number."""
    return torch.tensor([float(row), row / 7, -1.0])


def logits_of(row, length):
    return torch.randn(length, VOCABULARY, generator=torch.Generator().manual_seed(row)) * 3


def columns_of(manifest, block, kind):
    rows = range(int(manifest.first_row[block]), int(manifest.first_row[block + 1]))
    if kind == "pooled":
        return pooled_columns(torch.stack([vector_of(row) for row in rows]))
    lengths = manifest.index.llm_lengths[block].tolist()
    return top_k_columns([top_k_log_probs(logits_of(r, n), K) for r, n in zip(rows, lengths, strict=True)], VOCABULARY)


def write(manifest, kind, ranks, groups_each=None, name="t", **options):
    writer = TargetWriter(manifest, name, TEACHER, group_blocks=3, **options)
    for rank in range(ranks):
        for group in writer.missing_groups(rank, ranks)[:groups_each]:
            with writer.open(group) as sink:
                for block in sink.blocks:
                    sink.add(columns_of(manifest, block, kind))
    return writer


def killed(block):
    raise RuntimeError("killed")


def contents(folder):
    return {path.name: path.read_bytes() for path in (folder / "targets" / "t").iterdir()}


def test_pooled_vectors_come_along_with_their_samples(dataset_copy):
    manifest = Manifest.load(dataset_copy)
    write(manifest, "pooled", ranks=1).finish()
    targets = TargetSet(manifest, "t", TEACHER)
    streams = (
        (
            b
            for s in islice(TrainStream(manifest, OrderSettings(lanes=4), num_workers=1, targets=[targets]), 20)
            for b in s.micro_batches
        ),
        EvalStream(manifest, batch_size=10, targets=[targets]),
    )
    for stream in streams:
        for batch in stream:
            expected = torch.stack([vector_of(row) for row in batch.sample_ids.tolist()])
            assert torch.equal(batch.extras["teacher_pooled"], expected)


def test_top_k_equals_the_softmax(dataset_copy):
    manifest = Manifest.load(dataset_copy)
    write(manifest, "top_k", ranks=1).finish()
    batch = next(iter(EvalStream(manifest, batch_size=20, targets=[TargetSet(manifest, "t")])))
    for i, row in enumerate(batch.sample_ids.tolist()):
        length = int(batch.llm_mask[i].sum())
        log_probs = logits_of(row, length).double().log_softmax(-1)
        ids = batch.extras["teacher_top_ids"][i, :length]
        assert torch.equal(ids, log_probs.topk(K).indices)
        stored = batch.extras["teacher_top_log_probs"][i, :length].double()
        assert (stored - log_probs.gather(1, ids)).abs().max() < 4e-3
        tail = 1 - log_probs.gather(1, ids).exp().sum(-1)
        assert torch.allclose(batch.extras["teacher_log_tail_mass"][i, :length].double().exp(), tail, rtol=3e-3)
    assert batch.extras["teacher_top_ids"].shape == (20, batch.llm_ids.shape[1], K)


def test_the_tail_of_a_sure_teacher_is_not_lost_to_rounding():
    logits = torch.zeros(1, 1000)
    logits[0, 3] = 40.0
    result = top_k_log_probs(logits, 1)
    assert result.log_tail_mass.item() == pytest.approx(np.log(999) - 40, abs=1e-4)
    assert torch.isfinite(top_k_log_probs(torch.zeros(2, 4), 4).log_tail_mass).all()


def test_stopped_and_gone_on_with_by_other_ranks_gives_the_same_bytes(dataset_copy, tmp_path):
    import shutil

    twin = tmp_path / "twin"
    shutil.copytree(dataset_copy, twin)
    write(Manifest.load(dataset_copy), "pooled", ranks=1).finish()
    manifest = Manifest.load(twin)
    writer = write(manifest, "pooled", ranks=3, groups_each=1)
    assert len(writer.missing_groups()) == writer.num_groups - 3
    with pytest.raises(UserError, match="groups are missing"):
        writer.finish()
    with pytest.raises(UserError, match="are not finished"):
        TargetSet(manifest, "t")
    group = writer.missing_groups()[0]
    with pytest.raises(RuntimeError, match="killed"), writer.open(group) as sink:
        sink.add(columns_of(manifest, killed(sink.blocks[0]), "pooled"))
    assert group in writer.missing_groups()
    write(manifest, "pooled", ranks=2).finish()
    assert contents(twin) == contents(dataset_copy)


def test_another_teacher_or_data_set_is_refused(dataset_copy, shard_settings, tmp_path):
    manifest = Manifest.load(dataset_copy)
    write(manifest, "pooled", ranks=1).finish()
    for field, value in (("name", "tiny, looking back"), ("revision", None), ("tokenizer_fingerprint", "abd")):
        changed = TeacherIdentity(**(vars(TEACHER) | {field: value}))
        with pytest.raises(UserError, match=f"come from the teacher's {field}"):
            TargetSet(manifest, "t", changed)
        with pytest.raises(UserError, match="begun by another teacher"):
            TargetWriter(manifest, "t", changed, group_blocks=3)
    path = dataset_copy / "manifest.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(UserError, match="belong to other shards"):
        TargetSet(Manifest.load(dataset_copy), "t")


@pytest.mark.parametrize("is_done", [False, True], ids=["begun", "done"])
def test_columns_of_another_kind_are_not_added(dataset_copy, is_done):
    manifest = Manifest.load(dataset_copy)
    writer = write(manifest, "top_k", ranks=1, groups_each=None if is_done else 1, kept_as={"--top-k": K})
    if is_done:
        writer.finish()
    before = contents(dataset_copy)
    for other, line in (
        ({"--top-k": 9}, r"^--top-k=9: targets .* were begun with 5; give that, or choose another --name$"),
        ({}, r"^--top-k=None: targets .* were begun with 5"),
        ({"--top-k": K, "--store": "float16"}, r"^--store=float16: targets .* were begun with None"),
    ):
        with pytest.raises(UserError, match=line):
            write(manifest, "top_k", ranks=1, kept_as=other)
    assert contents(dataset_copy) == before
    write(manifest, "top_k", ranks=1, kept_as={"--top-k": K}).finish()


def test_a_set_that_did_not_note_how_it_was_kept_is_gone_on_with(dataset_copy):
    manifest = Manifest.load(dataset_copy)
    write(manifest, "top_k", ranks=1, groups_each=1)
    path = dataset_copy / "targets" / "t" / "teacher.json"
    content = json.loads(path.read_text())
    del content["kept_as"]
    path.write_text(json.dumps(content))
    write(manifest, "top_k", ranks=1, kept_as={"--top-k": K}).finish()
    assert TargetSet(manifest, "t", TEACHER)


def test_a_teacher_that_was_moved_is_the_same(dataset_copy):
    manifest = Manifest.load(dataset_copy)
    asked = replace(TEACHER, name="tiny, looking back")
    writer = TargetWriter(manifest, "t", asked, group_blocks=3)
    moved = replace(asked, name="snapshots, of 2026, looking back")
    assert TargetWriter(manifest, "t", moved, group_blocks=3).missing_groups() == writer.missing_groups()
    for group in writer.missing_groups():
        with writer.open(group) as sink:
            for block in sink.blocks:
                sink.add(columns_of(manifest, block, "pooled"))
    writer.finish()
    assert TargetSet(manifest, "t", moved).teacher == asked


def test_altered_targets_are_found(dataset_copy):
    manifest = Manifest.load(dataset_copy)
    write(manifest, "pooled", ranks=1).finish()
    path = dataset_copy / "targets" / "t" / "group-000001.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"damaged at block 3: .*sha256"):
        list(EvalStream(manifest, batch_size=8, targets=[TargetSet(manifest, "t")]))


def test_vectors_that_overflow_are_refused():
    with pytest.raises(UserError, match="not finite in it"):
        pooled_columns(torch.tensor([[1e6]]), "float16")
    assert pooled_columns(torch.tensor([[0.5]]), "float16")["teacher_pooled"].dtype == np.float16
