"""A stack whose encoder trains in part: alike on any ranks, resumed exactly, exported, read again and started from."""

import json
import shutil

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModel

from mtllm_ds import MTLLM
from mtllm_ds.checkpoint.export import export_run
from mtllm_ds.checkpoint.trained import read_trained
from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.cluster.zero import gathered
from mtllm_ds.data.stream.stream import EvalStream
from mtllm_ds.errors import UserError
from mtllm_ds.preflight.plan import check_run
from mtllm_ds.training.assemble import open_run
from tests.distributed.ranks import PARTITIONED, ranks
from tests.fixtures.dialogue_runs import PACKED
from tests.fixtures.runs import losses_of, make_run, settings_of
from tests.fixtures.task_runs import make_task_run

TOP = {
    "model__encoder__num_trainable_layers": "1", "optim__encoder_learning_rate": "0.004", "run__max_steps": "4",
    "run__validate_every": "2", "run__save_every": "2", "training__deepspeed": PARTITIONED,
    "training__whole_frozen_gib": "0",
}  # fmt: skip
_PREFIX = "student.encoder.model."
TEXTS = ["Click the button.", "Save the file."]


def trained(recipe, resume, overrides):
    """On a rank: train. Then the encoder's weights as they stand, whether in shares, and vectors of validation texts."""
    settings = settings_of(recipe, **overrides)
    trainer = open_run(settings, join_cluster(), resume, Console(quiet=True))
    try:
        assert trainer.run()
        trainer.finish()
        objective, parameters = trainer.objective.eval(), list(trainer.objective.parameters())
        encoder = {n: p for n, p in objective.named_parameters() if n.startswith(_PREFIX)}
        in_shares = all(p.numel() < p.ds_numel for p in encoder.values())
        with gathered(encoder.values()):
            weights = {name.removeprefix(_PREFIX): p.detach().clone() for name, p in encoder.items()}
        batch = next(iter(EvalStream(settings.data.validation, batch_size=5)))
        with torch.no_grad(), trainer.engine.outside_forward(parameters):
            return weights, in_shares, objective.student.vectors(batch)
    finally:
        trainer.close()


def run_on(world_size, recipe, name, resume=False, **overrides):
    overrides |= {"run__output_dir": str(recipe.parent / name)}
    seen = ranks(world_size).run(trained, recipe, resume, overrides)
    return settings_of(recipe, **overrides), seen[0]


def tensors_of(run, file="trainable", step=4):
    return load_file(run / "checkpoints" / f"step_{step:08d}" / f"{file}.safetensors")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("unfrozen"))


@pytest.fixture(scope="module")
def two(recipe):
    """Two ranks of ZeRO-3 that hold shares of every weight."""
    return run_on(2, recipe, "two", **TOP)


@pytest.fixture(scope="module")
def export(recipe, two):
    export_run(recipe.parent / "two", recipe.parent / "export", step=4)
    return recipe.parent / "export"


def test_the_top_layer_moves_and_what_is_below_keeps_every_bit(recipe, two):
    _, (weights, in_shares, _) = two
    assert in_shares
    base = dict(AutoModel.from_pretrained(recipe.parent / "mt").get_encoder().named_parameters())
    moved = {name for name, value in weights.items() if not torch.equal(value, base[name])}
    tops = {name for name in base if name.startswith(("layers.1.", "layer_norm."))}
    # Softmax takes no notice of a bias of keys: rounding alone moves it.
    assert tops - {"layers.1.self_attn.k_proj.bias"} <= moved <= tops
    masters = tensors_of(recipe.parent / "two")
    assert {name.removeprefix(_PREFIX) for name in masters if name.startswith(_PREFIX)} == tops
    for name in tops:
        assert torch.equal(masters[_PREFIX + name], weights[name])


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_one_rank_has_the_curve_of_two(recipe, two, layout):
    more = PACKED if layout == "packed" else {}
    losses = losses_of(two[0] if layout == "padded" else run_on(2, recipe, "two packed", **TOP, **more)[0])
    one, _ = run_on(1, recipe, f"one {layout}", **TOP, **more)
    assert len(losses) == 4
    assert losses_of(one) == pytest.approx(losses, rel=1e-5)
    frozen, _ = run_on(1, recipe, f"frozen {layout}", **{k: v for k, v in TOP.items() if "encoder" not in k}, **more)
    assert losses_of(frozen)[1] == pytest.approx(losses[1], rel=1e-5)  # before the first update there is no difference
    assert losses_of(frozen)[4] != pytest.approx(losses[4], rel=1e-4)


def test_it_trains_beside_the_other_levers(recipe):
    """Mixed layers, the contrastive term, an LLM in 8 bits, recomputed layers, packed."""
    more = {
        "model__connector__layers": "all", "objective__contrastive_weight": "0.1", "model__llm__quantization": "int8",
        "training__activation_checkpointing": "true", **PACKED,
    }  # fmt: skip
    curves = [losses_of(run_on(world, recipe, f"levers {world}", **{**TOP, **more})[0]) for world in (1, 2)]
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)
    base = AutoModel.from_pretrained(recipe.parent / "mt").get_encoder().layers[1].fc1.weight.detach()
    moved = tensors_of(recipe.parent / "levers 2")[f"{_PREFIX}layers.1.fc1.weight"] - base
    assert float(moved.abs().min()) > 0


def test_a_run_that_was_cut_off_ends_as_the_whole_one(recipe, two):
    folder = recipe.parent
    for ranks_after, name in ((2, "cut"), (1, "cut on one")):
        shutil.copytree(folder / "two", folder / name)
        shutil.rmtree(folder / name / "checkpoints" / "step_00000004")
        again, _ = run_on(ranks_after, recipe, name, resume=True, **TOP)
        if ranks_after == 2:
            assert losses_of(again) == losses_of(two[0])
        assert losses_of(again) == pytest.approx(losses_of(two[0]), rel=1e-5)
    for file in ("trainable", "moments"):
        whole, resumed = (tensors_of(folder / name, file) for name in ("two", "cut"))
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_an_export_reads_as_the_model_in_training(recipe, two, export, tmp_path):
    _, (weights, _, vectors) = two
    in_training = read_trained(recipe.parent / "two")  # of the best step
    assert in_training.has_trained_encoder
    assert {"encoder_trained": True, "format": 8}.items() <= json.loads((export / "config.json").read_text()).items()
    assert "its top layers trained too" in (export / "README.md").read_text()
    stored = load_file(export / "trained.safetensors")
    assert all(torch.equal(value, weights[name.removeprefix("encoder.model.")]) for name, value in stored.items())
    model = MTLLM.from_pretrained(export)
    for name, value in model.reader.encoder.model.named_parameters():
        assert torch.equal(value, weights[name]), name
    batch = next(iter(EvalStream(recipe.parent / "validation", batch_size=5)))
    with torch.no_grad():
        torch.testing.assert_close(model.reader.vectors(batch), vectors, rtol=1e-5, atol=1e-6)
    assert not model.reader.encoder.trains
    shutil.copytree(export, tmp_path / "broken")
    (tmp_path / "broken" / "trained.safetensors").unlink()
    with pytest.raises(UserError, match=r"trained\.safetensors cannot be read"):
        read_trained(tmp_path / "broken")


@pytest.fixture(scope="module")
def stage2(tmp_path_factory):
    return make_task_run(tmp_path_factory.mktemp("stage2"), reader="stacked")


STAGE2 = {"run__max_steps": "2", "run__save_every": "1", "run__validate_every": "2", "training__deepspeed": PARTITIONED,
          "training__whole_frozen_gib": "0"}  # fmt: skip


def test_stage_2_keeps_what_stage_1_trained(stage2, export):
    start = stage2.parent / "start"
    shutil.copytree(export, start)
    before = MTLLM.from_pretrained(start)
    settings, (weights, _, _) = run_on(2, stage2, "frozen", model__start=str(start), **STAGE2)
    shutil.rmtree(start)  # a run that goes on needs its start no more
    taken = before.reader.encoder.model.state_dict()
    assert all(torch.equal(value, taken[name]) for name, value in weights.items())
    kept = tensors_of(stage2.parent / "frozen", "kept", step=2)
    own = {name: value for name, value in read_trained(export).weights.items() if name.startswith("encoder.")}
    assert own
    assert all(torch.equal(kept[f"student.{name}"], value) for name, value in own.items())
    shutil.rmtree(stage2.parent / "frozen" / "checkpoints" / "step_00000002")
    whole = losses_of(settings)
    again, _ = run_on(1, stage2, "frozen", resume=True, model__start=str(start), **STAGE2)
    assert losses_of(again) == pytest.approx(whole, rel=1e-5)
    export_run(stage2.parent / "frozen", stage2.parent / "frozen_export")
    after = MTLLM.from_pretrained(stage2.parent / "frozen_export")
    assert torch.equal(*(one.encode_with_encoder(TEXTS, "eng_Latn") for one in (before, after)))
    plain = AutoModel.from_pretrained(stage2.parent / "mt").get_encoder()
    assert not torch.equal(plain.layer_norm.weight, after.reader.encoder.model.layer_norm.weight)


def test_stage_2_trains_it_further(stage2, export):
    further = {"model__encoder__num_trainable_layers": "1", "model__start": str(export), **STAGE2}
    run_on(1, stage2, "further", **further)
    names = {name for name in tensors_of(stage2.parent / "further", step=2) if name.startswith(_PREFIX)}
    own = {f"student.{name}" for name in read_trained(export).weights if name.startswith("encoder.")}
    assert names == own
    assert not names & tensors_of(stage2.parent / "further", "kept", step=2).keys()
    after, before = (read_trained(place).weights for place in (stage2.parent / "further", export))
    moved = [float((after[name] - before[name]).abs().max()) for name in before if name.startswith("encoder.")]
    assert 0 < max(moved) < 0.1


def test_what_does_not_fit_is_told_before_a_weight_is_loaded(recipe):
    with pytest.raises(
        UserError, match=r"num_trainable_layers=3: this m2m_100 encoder has 2 layers; lower it to 2 or less"
    ):
        check_run(settings_of(recipe, model__encoder__num_trainable_layers=3), 1)
