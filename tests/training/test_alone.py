"""A model that reads alone: shards of its own ids only, no second base model, all or part of its weights in training."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from mtllm_ds import MTLLM
from mtllm_ds.checkpoint.export import export_run
from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.text.tokenization import TokenizerSpec
from mtllm_ds.data.writing.merge import merge_data_sets
from mtllm_ds.data.writing.tasks import TaskShardSettings, build_task_shards
from mtllm_ds.errors import UserError
from mtllm_ds.preflight.plan import check_run, describe_plan
from mtllm_ds.teachers.trained import load_teacher
from mtllm_ds.training.runs import run_seeds
from mtllm_ds.transfer_sets.merged_llm import write_merged
from tests.distributed.ranks import ranks
from tests.fixtures.models import save_llama, save_mt_model
from tests.fixtures.runs import losses_of, settings_of
from tests.fixtures.task_runs import TOPICS, topic_rows, tuning_recipe

SIDES = {"llm": save_llama, "encoder": save_mt_model}


def make(folder, side):
    """Base model, shards and recipe of a side that reads alone."""
    model = SIDES[side](folder / side)
    for name, count, salt in (("train", 60, 0), ("validation", 21, 3)):
        spec = TokenizerSpec(name=str(model), side=side, max_length=64)
        build_task_shards(
            topic_rows(count, salt), TaskShardSettings(task=TOPICS, **{side: spec}, block_samples=8), folder / name
        )
    return tuning_recipe(folder, {"reader": side, side: {"name": str(model), "max_length": 64}, "trainable": "all"})


@pytest.fixture(scope="module", params=list(SIDES))
def recipe(request, tmp_path_factory):
    return make(tmp_path_factory.mktemp(request.param), request.param)


def train(recipe, resume, overrides):
    """On a rank of a pool."""
    return run_seeds(settings_of(recipe, **overrides), join_cluster(), resume)


def run_on(world_size, recipe, name, resume=False, **overrides):
    overrides["run__output_dir"] = str(recipe.parent / name)
    assert ranks(world_size).run(train, recipe, resume, overrides) == [0] * world_size
    return settings_of(recipe, **overrides)


def test_shards_hold_one_side(recipe):
    manifest = Manifest.load(recipe.parent / "train")
    [side] = manifest.tokenizers
    other = {"llm": "encoder", "encoder": "llm"}[side]
    assert int(getattr(manifest, f"{side}_lengths").min()) > 0
    assert int(getattr(manifest, f"{other}_lengths").max()) == 0


def test_one_and_two_ranks_train_all_weights_alike_and_resume(recipe):
    whole = run_on(1, recipe, "one")
    two = run_on(2, recipe, "two")
    assert losses_of(two) == pytest.approx(losses_of(whole), rel=1e-4)
    assert min(losses_of(whole).values()) < losses_of(whole)[1]
    shutil.copytree(recipe.parent / "one", recipe.parent / "again")
    shutil.rmtree(recipe.parent / "again" / "checkpoints" / "step_00000006")
    resumed = run_on(2, recipe, "again", resume=True)
    assert losses_of(resumed) == pytest.approx(losses_of(whole), rel=1e-4)
    side = whole.model.reader
    base = AutoModel.from_pretrained(recipe.parent / side)
    kept = load_file(recipe.parent / "one" / "checkpoints" / "step_00000006" / "trainable.safetensors")
    of_the_base = base.get_encoder() if side == "encoder" else base
    names = {name.removeprefix(f"student.{side}.") for name in kept if name.startswith("student.")}
    assert names == {name for name, _ in of_the_base.named_parameters()}


def test_the_export_needs_no_other_model_and_answers_alike(recipe, tmp_path):
    run = run_on(1, recipe, "exported")
    side = run.model.reader
    export_run(recipe.parent / "exported", tmp_path / "export")
    assert not (tmp_path / "export" / "adapter").exists()
    assert sorted(path.name for path in (tmp_path / "export" / "tokenizers").iterdir()) == [side]
    model = MTLLM.from_pretrained(tmp_path / "export")
    texts = ["Open the dialog and choose a range", "The cells of this column"]
    again = MTLLM.from_pretrained(tmp_path / "export")
    scores = torch.stack(model.predict(_items(texts), "eng_Latn"))
    assert torch.equal(scores, torch.stack(again.predict(_items(texts), "eng_Latn")))
    untouched = AutoModel.from_pretrained(recipe.parent / side)
    changed = dict(model.reader.trained_model.named_parameters())
    own = untouched.get_encoder() if side == "encoder" else untouched
    assert any(not torch.allclose(changed[name], value) for name, value in own.named_parameters())
    if side == "llm":
        write_merged(recipe.parent / "exported", tmp_path / "folder")
        folder = AutoModel.from_pretrained(tmp_path / "folder")
        for name, value in folder.named_parameters():
            assert torch.equal(value, changed[name]), name


def test_packed_rows_of_one_side_train_as_on_two_ranks(recipe):
    side = settings_of(recipe).model.reader
    budgets = {"data__samples_per_cell": "null", f"data__{side}_tokens_per_cell": "64"}
    one, two = run_on(1, recipe, "packed", **budgets), run_on(2, recipe, "packed2", **budgets)
    assert losses_of(two) == pytest.approx(losses_of(one), rel=1e-4)
    assert "packed;" in describe_plan(check_run(settings_of(recipe, **budgets), 1))


def test_named_modules_are_all_that_moves(recipe):
    layer = "layers.1"
    run = run_on(2, recipe, "named", model__trainable=f"[{layer}]")
    kept = load_file(recipe.parent / "named" / "checkpoints" / "step_00000006" / "trainable.safetensors")
    moved = {name for name in kept if not name.startswith("head.")}
    assert moved
    assert all(name.startswith(f"student.{run.model.reader}.{layer}.") for name in moved)


def test_who_reads_the_other_side_is_told_so(recipe, tmp_path):
    side = settings_of(recipe).model.reader
    other = {"llm": "encoder", "encoder": "llm"}[side]
    manifest = Manifest.load(recipe.parent / "train")
    if side == "encoder":
        with pytest.raises(UserError, match="holds no ids of an llm; prepare it with --llm"):
            load_teacher(str(save_llama(tmp_path / "llm")), manifest, torch.device("cpu"), torch.float32)
    models = {name: save(tmp_path / "models" / name) for name, save in SIDES.items()}
    specs = {name: TokenizerSpec(name=str(place), side=name, max_length=64) for name, place in models.items()}
    for name, chosen in (("one", {side: specs[side]}), ("both", specs)):
        build_task_shards(topic_rows(9), TaskShardSettings(task=TOPICS, **chosen), tmp_path / "parts" / name)
    with pytest.raises(UserError, match=rf"was made with .*--{other}.*prepare it anew"):
        merge_data_sets(tmp_path / "parts")
    pairs = TaskShardSettings(task=TOPICS, **{side: specs[side]}, token_pairs=True)
    with pytest.raises(UserError, match="--token-pairs: compares two tokenizers"):
        build_task_shards(topic_rows(9), pairs, tmp_path / "pairs")


def test_what_does_not_fit_is_told(recipe, tmp_path):
    side = settings_of(recipe).model.reader
    other = {"llm": "encoder", "encoder": "llm"}[side]
    with pytest.raises(UserError, match=rf"model\.{other}\.name is missing: model\.reader=stacked needs it"):
        settings_of(recipe, model__reader="stacked")
    model = SIDES[other](tmp_path / other)
    with pytest.raises(
        UserError, match=rf"holds no ids of an .*; prepare it with --{other}, or leave model\.{other} out"
    ):
        check_run(settings_of(recipe, **{f"model__{other}__name": str(model)}), 1)
    with pytest.raises(UserError, match=r"expected lora, all, or a list of modules such as"):
        settings_of(recipe, model__trainable="layers.1")
    if side == "llm":  # told before a weight is loaded
        with pytest.raises(UserError, match=r"no module layers\.99; below it there are .*layers"):
            check_run(settings_of(recipe, model__trainable="[layers.99]"), 1)
    budgets = {"data__samples_per_cell": "null", f"data__{side}_tokens_per_cell": "64"}
    assert check_run(settings_of(recipe, **budgets), 1).settings.data.has_budgets
    with pytest.raises(UserError, match=rf"data\.{other}_tokens_per_cell=64: has no effect without model\.{other}"):
        settings_of(recipe, **budgets, **{f"data__{other}_tokens_per_cell": "64"})
    with pytest.raises(UserError, match=r"model\.lora: has no effect with model\.trainable=all"):
        settings_of(recipe, model__lora__rank=4)


def _items(texts):
    from mtllm_ds.inference import PlainItem

    return [PlainItem((text,)) for text in texts]
