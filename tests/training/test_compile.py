"""torch.compile of each layer under all that stands around one: LoRA, ZeRO-3's gathers, recomputing, teacher and student in one."""

import pytest
import torch

from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.errors import UserError
from mtllm_ds.models.compiled import compile_layers, layers_to_compile
from mtllm_ds.training.runs import run_seeds
from tests.distributed.ranks import PARTITIONED, ranks
from tests.fixtures.dialogue_runs import PACKED, make_dialogue_run
from tests.fixtures.runs import losses_of, make_run, rows_of, settings_of

STEPS = 3


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("compiled"))


def train(recipe, overrides, backend):
    """On a rank: what dynamo counted in a run."""
    from torch._dynamo.utils import counters

    from mtllm_ds.models import compiled

    before, limit = compiled.BACKEND, torch._dynamo.config.recompile_limit
    compiled.BACKEND = backend
    counters.clear()
    try:
        assert run_seeds(settings_of(recipe, **overrides), join_cluster(), False) == 0
        return {name: dict(counters[name]) for name in ("graph_break", "stats")}
    finally:
        compiled.BACKEND, torch._dynamo.config.recompile_limit = before, limit
        torch._dynamo.reset()


def same_losses(recipe, backend, world_size, **overrides):
    rows, counted = {}, {}
    for compiles in ("false", "layers"):
        chosen = {
            "run__output_dir": str(recipe.parent / f"{backend}_{compiles}_{len(overrides)}"), "run__max_steps": STEPS,
            "run__validate_every": STEPS, "training__deepspeed": PARTITIONED, "training__compile": compiles,
            "model__lora__dropout": 0.05, **overrides,
        }  # fmt: skip
        (counted[compiles], *_) = ranks(world_size).run(train, recipe, chosen, backend)
        settings = settings_of(recipe, **chosen)
        (validated,) = [row["eval_loss"] for row in rows_of(settings) if "eval_loss" in row]
        rows[compiles] = [*losses_of(settings).values(), validated]
    assert len(rows["false"]) == STEPS + 1
    assert rows["layers"] == pytest.approx(rows["false"], rel=1e-5)
    assert counted["false"]["stats"] == {}
    assert counted["layers"]["graph_break"] == {}
    # Whatever the number of layers: the teacher, the student, the student in validation, and each once more where lengths vary.
    assert 3 <= counted["layers"]["stats"]["unique_graphs"] <= 8


def test_a_teacher_beside_and_recomputed_layers_on_two_ranks(recipe):
    """By dynamo and autograd's tracing, without the machine code, which no CPU of a test has the time for."""
    recomputed = {"training__activation_checkpointing": "true", "model__paired_sweep": "true"}
    same_losses(recipe, "aot_eager", 2, **recomputed)


@pytest.mark.slow
def test_two_passes_in_packed_rows(recipe):
    same_losses(recipe, "aot_eager", 2, **PACKED, model__paired_sweep="false")


@pytest.mark.slow
def test_machine_code_too(recipe):
    same_losses(recipe, "inductor", 1)


def test_what_cannot_be_compiled_is_refused(recipe, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"training\.compile.*expected false or layers"):
        settings_of(recipe, training__compile="true")
    with pytest.raises(UserError, match=r"training.compile=layers: has no effect on what objective.rollouts writes"):
        settings_of(make_dialogue_run(tmp_path), training__compile="layers", objective__rollouts__max_new_tokens=4)

    class Odd(torch.nn.Module):
        class config:  # noqa: N801 - as of a model of transformers
            model_type = "odd"
            num_hidden_layers = 2

            @classmethod
            def get_text_config(cls):
                return cls

    with pytest.raises(UserError, match="of this odd model its 2 layers stand in no list; set it to false"):
        layers_to_compile(Odd())

    def fail(*_, **__):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(
        UserError, match=r"does not work on this machine \(RuntimeError: no compiler\); set it to false"
    ):
        compile_layers(Odd(), torch.device("cpu"))
