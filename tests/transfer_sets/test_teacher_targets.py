"""Cached teacher vectors: those of the eager model, whatever the ranks; a killed run resumes; others are refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaModel, dynamic_module_utils

from mtllm_ds.cluster.launch import Cluster
from mtllm_ds.config.sections import LLMSettings, ModelSettings
from mtllm_ds.data.shards.manifest import Manifest, TaskEntry
from mtllm_ds.data.shards.tar_shards import read_block
from mtllm_ds.data.shards.targets import TargetSet
from mtllm_ds.data.stream.stream import EvalStream
from mtllm_ds.data.text.tokenization import TokenizerSpec
from mtllm_ds.data.writing.builder import build_shards
from mtllm_ds.data.writing.settings import ShardSettings
from mtllm_ds.data.writing.sources import InputFile
from mtllm_ds.data.writing.tasks import TaskShardSettings, build_task_shards
from mtllm_ds.errors import UserError
from mtllm_ds.models.build import new_reader
from mtllm_ds.objectives.pooled_alignment import PooledAlignment
from mtllm_ds.teachers.cached import CachedTeacher
from mtllm_ds.teachers.frozen_self import FrozenSelf
from mtllm_ds.teachers.trained import load_teacher, plain_teacher
from mtllm_ds.transfer_sets import teacher_targets
from mtllm_ds.transfer_sets.teacher_targets import write_targets
from tests.data.writing.test_tasks import CHOICE, choice_rows
from tests.distributed.ranks import ranks
from tests.fixtures.exports import make_export
from tests.fixtures.hub import hub_at, push
from tests.fixtures.models import save_llama, save_mt_model
from tests.fixtures.own_code import give_own_tokenizer
from tests.fixtures.runs import build_data, write_text
from tests.objectives.test_pooled_alignment import POOLED

ALONE = Cluster(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_mt_model(folder / "mt")
    save_llama(folder / "llm")
    build_data(folder / "data", write_text(folder / "text.jsonl", 61, 0), folder / "mt", folder / "llm")
    return folder


@pytest.fixture
def data(base, tmp_path):
    return Path(shutil.copytree(base / "data", tmp_path / "data"))


def write(data, place, cluster=ALONE, batch_size=7, advance=lambda done, total: None, **options):
    """Small groups, so that there are several."""
    teacher_targets._GROUP_SAMPLES, before = 16, teacher_targets._GROUP_SAMPLES
    try:
        manifest = Manifest.load(data)
        teacher = load_teacher(str(place), manifest, cluster.device, torch.float32, **options)
        write_targets(manifest, "t", teacher, cluster, batch_size=batch_size, advance=advance)
        return teacher
    finally:
        teacher_targets._GROUP_SAMPLES = before


def write_on_rank(data, place):
    import torch.distributed as dist

    from mtllm_ds.cluster.launch import join_cluster

    join_cluster()
    write(data, place, Cluster(dist.get_rank(), dist.get_world_size(), dist.get_rank(), torch.device("cpu")))


def eager(llm, bidirectional):
    """states(ids): float64 states of one row, no padding, no mask shortcuts."""
    model = LlamaModel.from_pretrained(llm, dtype=torch.float64, attn_implementation="eager").eval()

    @torch.no_grad()
    def states(ids):
        length = len(ids)
        seen = torch.ones(length, length, dtype=torch.bool)
        seen = seen if bidirectional else seen.tril()
        mask = torch.zeros(length, length, dtype=torch.float64).masked_fill(~seen, torch.finfo(torch.float64).min)
        return model(input_ids=ids[None], attention_mask=mask[None, None]).last_hidden_state[0]

    return states


def contents(data):
    return {path.name: path.read_bytes() for path in (data / "targets" / "t").iterdir()}


@pytest.mark.parametrize(
    ("bidirectional", "pooling"), [(True, "mean"), (False, "mean"), (False, "last"), (False, "weighted_mean")]
)
def test_a_plain_llm_equals_float64(base, data, bidirectional, pooling):
    done = []
    how = {"bidirectional": bidirectional, "pooling": pooling}
    teacher = write(data, base / "llm", advance=lambda *counts: done.append(counts), **how)
    assert (done[0], done[-1]) == ((0, 61), (61, 61))
    manifest = Manifest.load(data)
    states = eager(base / "llm", bidirectional)
    rows = 0
    for batch in EvalStream(manifest, batch_size=9, targets=[TargetSet(manifest, "t", teacher.identity)]):
        for ids, mask, stored in zip(batch.llm_ids, batch.llm_mask, batch.extras["teacher_pooled"], strict=True):
            truth = POOLED[pooling](states(ids[mask.bool()]))
            assert torch.allclose(stored.double(), truth, rtol=1e-5, atol=1e-5)
            rows += 1
    assert rows == manifest.num_samples == 61


class Killed(BaseException):
    pass


def test_killed_and_gone_on_with_by_two_ranks_gives_the_same_bytes(base, data, tmp_path):
    twin = Path(shutil.copytree(data, tmp_path / "twin"))
    write(data, base / "llm")

    def die(done, total):
        if done >= 20:
            raise Killed

    with pytest.raises(Killed):
        write(twin, base / "llm", advance=die)
    manifest = Manifest.load(twin)
    with pytest.raises(UserError, match="not finished"):
        TargetSet(manifest, "t")
    finished = {path.name: path.stat().st_mtime_ns for path in (twin / "targets" / "t").glob("group-*.tar")}
    assert len(finished) == 1
    ranks(2).run(write_on_rank, twin, base / "llm")
    assert contents(twin) == contents(data)
    assert {name: (twin / "targets" / "t" / name).stat().st_mtime_ns for name in finished} == finished


def test_choices_of_a_task_tuned_llm_equal_float64(base, tmp_path):
    entry = {"name": CHOICE.name, "type": CHOICE.type, "labels": list(CHOICE.labels)}
    export = make_export(tmp_path / "teacher", task=entry, reader="llm")
    llm = tmp_path / "teacher" / "llm"
    specs = {
        side: TokenizerSpec(name=str(place), side=side, max_length=64)
        for side, place in (("encoder", base / "mt"), ("llm", llm))
    }
    rows = [row for row in choice_rows(21) if len(row.options) in (3, 4)]
    short = [
        type(row)(row.segments, tuple(option[:6] for option in row.options), row.label, row.language) for row in rows
    ]
    data = tmp_path / "shards"
    build_task_shards(short, TaskShardSettings(task=CHOICE, **specs, block_samples=8), data)
    teacher = write(data, export)
    manifest = Manifest.load(data)
    states = eager(llm, bidirectional=True)  # LoRA is untrained: B = 0
    [batch] = EvalStream(manifest, batch_size=21, targets=[TargetSet(manifest, "t", teacher.identity)])
    assert batch.extras["teacher_pooled"].shape == (21, 4, 24)
    for row in range(21):
        own = states(batch.llm_ids[row][batch.llm_mask[row].bool()])
        spans = read_block(manifest, row // 8)["llm_choice_spans"][row % 8]
        for choice, (start, end) in enumerate(spans.tolist()):
            expected = own[start:end].mean(0)
            assert torch.allclose(batch.extras["teacher_pooled"][row, choice].double(), expected, rtol=1e-5, atol=1e-5)
        assert batch.extras["teacher_pooled"][row, len(spans) :].eq(0).all()
    other = TaskEntry("other", CHOICE.type, ("1", "2", "3", "4", "5"))
    build_task_shards(short, TaskShardSettings(task=other, **specs), tmp_path / "other")
    with pytest.raises(UserError, match=r"it answers choose, but the shards .* are labelled for other"):
        write(tmp_path / "other", export)


def test_stage_1_from_the_cache_gives_the_loss_of_the_live_teacher(base, data):
    teacher = write(data, base / "llm")
    manifest = Manifest.load(data)
    model = ModelSettings(encoder={"name": str(base / "mt")}, llm={"name": str(base / "llm")}, lora={"rank": 2})
    stack = new_reader(model, torch.device("cpu"), torch.float32).eval()
    live, cached = (PooledAlignment(stack, asked, 1) for asked in (FrozenSelf(stack), CachedTeacher(stack.hidden_size)))
    for batch in EvalStream(manifest, batch_size=16, targets=[TargetSet(manifest, "t", teacher.identity)]):
        one, other = live(batch), cached(batch)
        assert other.loss_sum.item() == pytest.approx(one.loss_sum.item(), rel=1e-6)
        assert one.sums.keys() == other.sums.keys()
        for name, value in one.sums.items():
            assert torch.allclose(other.sums[name], value, rtol=1e-5, atol=1e-5), name
    empty = replace(batch, valid=torch.zeros_like(batch.valid), extras={}, host=None)
    assert cached(empty).loss_sum.item() == 0.0


def test_a_plain_llm_of_the_hub_is_asked_at_the_revision_of_the_shards(base, tmp_path):
    name, first, later = "someone/llm", "a" * 40, "b" * 40
    push(tmp_path / "hub", name, base / "llm", first)
    push(tmp_path / "hub", name, save_llama(tmp_path / "later", seed=5), later)
    specs = {
        side: TokenizerSpec(name=place, revision=revision, side=side, max_length=64)
        for side, place, revision in (("encoder", str(base / "mt"), None), ("llm", name, first))
    }
    text = InputFile(path=str(base / "text.jsonl"), language="eng_Latn")
    with hub_at(tmp_path / "hub"):
        # One process: another one would look for the hub where it always is.
        build_shards(ShardSettings(inputs=(text,), **specs, block_samples=8), tmp_path / "shards", num_workers=1)
        assert write(tmp_path / "shards", name).identity.revision == f"hub:{first}"
        manifest = Manifest.load(tmp_path / "shards")
        other = load_teacher(name, manifest, ALONE.device, torch.float32, revision=later)
        assert other.identity.revision == f"hub:{later}"
    states = eager(base / "llm", bidirectional=True)
    batch = next(iter(EvalStream(manifest, batch_size=4, targets=[TargetSet(manifest, "t")])))
    for ids, mask, stored in zip(batch.llm_ids, batch.llm_mask, batch.extras["teacher_pooled"], strict=True):
        assert torch.allclose(stored.double(), states(ids[mask.bool()]).mean(0), rtol=1e-5, atol=1e-5)


def test_a_plain_llm_may_bring_code_of_its_own_where_it_is_trusted(base, data, tmp_path, monkeypatch):
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    own = give_own_tokenizer(Path(shutil.copytree(base / "llm", tmp_path / "llm")))
    with pytest.raises(UserError, match="brings code of its own"):
        write(data, own)
    write(data, own, trust_remote_code=True)
    assert contents(data)


def test_another_teacher_or_tokenizer_is_refused(base, data, tmp_path):
    write(data, base / "llm")
    again = save_llama(tmp_path / "llm", seed=5)
    with pytest.raises(UserError, match="begun by another teacher"):
        write(data, again)
    with pytest.raises(UserError, match="begun by another teacher"):
        write(data, base / "llm", bidirectional=False)
    with pytest.raises(UserError, match="begun by another teacher"):
        write(data, base / "llm", pooling="last")
    with pytest.raises(UserError, match=r"tokenizer .* is not the one the shards"):
        write(data, base / "mt")
    manifest = Manifest.load(data)
    expected = plain_teacher(LLMSettings(name=str(again)), "x")
    with pytest.raises(UserError, match="come from the teacher's"):
        TargetSet(manifest, "t", expected)
