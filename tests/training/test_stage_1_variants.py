"""Stage 1 from cached teacher vectors and with the token loss, through the loop; what does not fit is told in one line."""

import shutil

import pytest
import torch

from mtllm_ds.cluster.launch import Cluster, join_cluster
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.text.tokenization import TokenizerSpec
from mtllm_ds.data.writing.builder import build_shards
from mtllm_ds.data.writing.settings import ShardSettings
from mtllm_ds.data.writing.sources import InputFile
from mtllm_ds.errors import UserError
from mtllm_ds.preflight.plan import check_run
from mtllm_ds.teachers.trained import load_teacher
from mtllm_ds.training.runs import run_seeds
from mtllm_ds.transfer_sets.teacher_targets import write_targets
from tests.distributed.ranks import RankError, ranks
from tests.fixtures.models import save_llama
from tests.fixtures.runs import losses_of, make_run, rows_of, settings_of

CONTRASTIVE = {"objective__contrastive_weight": "0.5", "objective__contrastive_temperature": "0.2"}
ALONE = Cluster(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))


def train(recipe, overrides):
    """On a rank of a pool."""
    return run_seeds(settings_of(recipe, **overrides), join_cluster(), False)


def run_on(world_size, recipe, name, **overrides):
    overrides |= {"run__output_dir": str(recipe.parent / name), "run__max_steps": "3", "run__validate_every": "3"}
    assert ranks(world_size).run(train, recipe, overrides) == [0] * world_size
    return settings_of(recipe, **overrides)


def cache(recipe, name, llm):
    for folder in ("train", "validation"):
        manifest = Manifest.load(recipe.parent / folder)
        teacher = load_teacher(str(llm), manifest, ALONE.device, torch.float32)
        write_targets(manifest, name, teacher, ALONE, batch_size=8)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("variants"))


def test_cached_and_live_teacher_train_alike(recipe):
    cache(recipe, "plain", recipe.parent / "llm")
    live, cached = run_on(1, recipe, "live"), run_on(1, recipe, "cached", data__targets="plain")
    assert losses_of(cached) == pytest.approx(losses_of(live), rel=1e-5)
    [one], [other] = ([row for row in rows_of(run) if "eval_fvu" in row] for run in (live, cached))
    assert other["eval_fvu"] == pytest.approx(one["eval_fvu"], rel=1e-4)


def test_a_set_that_the_validation_shards_lack_is_told_before_a_weight_is_loaded(recipe, tmp_path):
    cache(recipe, "plain", recipe.parent / "llm")
    bare = shutil.copytree(recipe.parent / "validation", tmp_path / "bare", ignore=shutil.ignore_patterns("targets"))
    chosen = {"data__targets": "plain", "run__output_dir": tmp_path / "run"}
    check_run(settings_of(recipe, **chosen), 1)
    with pytest.raises(UserError, match=r"data\.targets=plain: those of '.*bare' are not finished"):
        check_run(settings_of(recipe, data__validation=bare, **chosen), 1)


def test_vectors_of_another_llm_are_refused(recipe, tmp_path):
    cache(recipe, "other", save_llama(tmp_path / "llm", seed=9))
    for targets, words in (("other", "come from the teacher's revision"), ("none", "not finished or damaged")):
        with pytest.raises(RankError, match=words) as raised:
            run_on(1, recipe, targets, data__targets=targets)
        assert raised.value.errors[0][0] == "UserError"


@pytest.mark.parametrize("more", [{}, CONTRASTIVE], ids=["alone", "contrastive"])
def test_token_loss_runs_and_wants_its_column(recipe, tmp_path, more):
    weights = {"objective__token_weight": "0.667", "objective__sequence_weight": "0.333", **more}
    with pytest.raises(
        UserError,
        match=r"has no column 'token_pairs', which .* reads; add it by",
    ):
        check_run(settings_of(recipe, **weights), 1)
    with pytest.raises(UserError, match="holds its pooled vectors only"):
        settings_of(recipe, **weights, data__targets="plain")
    specs = {
        side: TokenizerSpec(name=str(recipe.parent / name), side=side, max_length=64)
        for side, name in (("encoder", "mt"), ("llm", "llm"))
    }
    for name in ("train", "validation"):
        source = InputFile(path=str(recipe.parent / f"{name}.jsonl"), language="eng_Latn")
        build_shards(ShardSettings(inputs=(source,), **specs, block_samples=8, token_pairs=True), tmp_path / name, 1)
    places = {"data__train": str(tmp_path / "train"), "data__validation": str(tmp_path / "validation")}
    one, two = (run_on(n, recipe, f"tokens{n}{len(more)}", **weights, **places) for n in (1, 2))
    assert losses_of(two) == pytest.approx(losses_of(one), rel=1e-5)
    [row] = [row for row in rows_of(one) if "eval_token_loss" in row]
    assert row["eval_token_loss"] > 0


@pytest.mark.parametrize("targets", [{}, {"data__targets": "plain"}], ids=["live", "cached"])
def test_contrastive_term_is_the_same_on_any_number_of_ranks(recipe, targets):
    if targets:
        cache(recipe, "plain", recipe.parent / "llm")
    one, two = (run_on(n, recipe, f"contrast{n}{len(targets)}", **CONTRASTIVE, **targets) for n in (1, 2))
    assert losses_of(two) == pytest.approx(losses_of(one), rel=1e-5)
    rows = [row for row in rows_of(one) if "contrastive_loss" in row]
    assert len(rows) == 3
    assert all(row["contrastive_loss"] > 0 <= row["contrastive_found"] <= 1 for row in rows)
    assert not any("eval_contrastive_loss" in row for row in rows_of(one))


def test_a_teacher_that_reads_ahead_cannot_go_beside_the_student(recipe):
    with pytest.raises(
        UserError, match=r"model\.paired_sweep=true: objective\.contrastive_weight wants .* set it to auto"
    ):
        check_run(settings_of(recipe, **CONTRASTIVE, model__paired_sweep="true"), 2)
