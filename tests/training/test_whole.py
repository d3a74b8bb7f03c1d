"""Small frozen models that every rank keeps whole under ZeRO-3: what is no longer gathered, and that nothing else changes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mtllm_ds.checkpoint.store import checkpoint_root
from tests.distributed.ranks import PARTITIONED, ranks
from tests.fixtures.dialogue_runs import PACKED, make_dialogue_run
from tests.fixtures.runs import learnt, losses_of, make_run, rows_of, settings_of
from tests.training.test_paired_sweep import gathered
from tests.training.test_runs import train_until, train_with

STEPS = 4
FORWARDS = 2
TABLE, ENCODER_TABLE = 512 * 24 * 4, 480 * 16 * 4
ENCODER_BYTES = 4 * (480 * 16 + 2 * (4 * (16 * 16 + 16) + 2 * 16 * 32 + 32 + 16 + 2 * 2 * 16) + 2 * 16)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory):
    return make_dialogue_run(tmp_path_factory.mktemp("dialogues"))


def chosen(recipe, name, gib, **overrides):
    return {
        "run__output_dir": str(recipe.parent / name), "run__max_steps": STEPS, "run__validate_every": 2, "run__save_every": 2,
        "training__deepspeed": PARTITIONED, "training__whole_frozen_gib": gib, "model__lora__dropout": 0.05, **overrides,
    }  # fmt: skip


RUNS = {
    "stage 1": ("texts", {}),
    "stage 1, packed, recomputed": ("texts", {**PACKED, "training__activation_checkpointing": "true"}),
    "stage 1, two passes": ("texts", {"model__paired_sweep": "false"}),
    "stage 1, bf16": ("texts", {"training__precision": "bf16"}),
    "LLM alone, its own responses": ("dialogues", {"model__reader": "llm", "objective__rollouts__max_new_tokens": 4}),
}


@pytest.mark.parametrize("name", RUNS)
def test_nothing_but_layers_is_gathered_and_every_figure_stays(request, name):
    kind, overrides = RUNS[name]
    recipe = request.getfixturevalue(kind)
    found, rows = {}, {}
    for gib in (0, "auto"):
        run = chosen(recipe, f"{name}_{gib}".replace(" ", "_").replace(",", ""), gib, **overrides)
        one, other = ranks(2).run(gathered, recipe, run, False)
        assert one == other
        found[gib] = one
        rows[gib] = [learnt(row) for row in rows_of(settings_of(recipe, **run))]
    assert rows[0] == rows["auto"]
    assert len(rows[0]) > STEPS
    for shared, whole in zip(found[0], found["auto"], strict=True):
        parts = {"embed_tokens", "norm", "losses", "encoder"} & shared.keys()
        assert {"embed_tokens", "norm"} <= parts
        assert ("encoder" in parts) is (overrides.get("model__reader") != "llm")
        assert {part: counts for part, counts in shared.items() if part not in parts} == whole
        assert whole["layers"][0] > 0
        if "encoder" in parts:  # in one call of each forward, however many buckets of lengths there are
            assert shared["encoder"] == (FORWARDS, FORWARDS * ENCODER_BYTES // (2 if "bf16" in name else 1))
        assert shared["embed_tokens"][1] >= TABLE // (2 if "bf16" in name else 1)


def test_the_encoders_table_alone_is_kept_where_its_layers_do_not_fit(texts):
    run = chosen(texts, "table", (ENCODER_TABLE + 100) / 2**30)
    shared = chosen(texts, "shared", 0)
    (after, _), (before, _) = (ranks(2).run(gathered, texts, one, False) for one in (run, shared))
    for less, more in zip(after, before, strict=True):
        assert more["encoder"][1] - less["encoder"][1] == FORWARDS * ENCODER_TABLE
        assert more["embed_tokens"] == less["embed_tokens"]
    assert losses_of(settings_of(texts, **run)) == losses_of(settings_of(texts, **shared))


@pytest.mark.parametrize(("first", "then"), [("auto", 0), (0, "auto")])
def test_a_run_goes_on_and_ends_alike_whichever_it_was(texts, first, then):
    """To the last bit of weights and moments, which are those of a run that nobody stopped."""
    truth = chosen(texts, f"truth_{first}", first)
    assert ranks(2).run(train_with, texts, False, truth) == [0, 0]
    stopped = chosen(texts, f"stopped_{first}", first)
    assert ranks(2).run(train_until, texts, 2, stopped) == [False, False]
    assert ranks(2).run(train_with, texts, True, {**stopped, "training__whole_frozen_gib": then}) == [0, 0]
    assert tensors_of(settings_of(texts, **stopped)) == tensors_of(settings_of(texts, **truth))
    assert losses_of(settings_of(texts, **stopped)) == losses_of(settings_of(texts, **truth))


def tensors_of(settings):
    """Every number of the last checkpoint, by file and name."""
    folder = checkpoint_root(settings) / f"step_{STEPS:08d}"
    return {
        (Path(file).name, name): tensor.view(torch.uint8).tolist()
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }
