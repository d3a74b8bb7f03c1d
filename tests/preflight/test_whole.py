"""Which frozen weights every rank keeps whole: by part, in order, as far as the memory goes; refused where that changes nothing."""

import pytest

from mtllm_ds.commands.train import main
from mtllm_ds.config.deepspeed import resolve_deepspeed
from mtllm_ds.errors import UserError
from mtllm_ds.models.loading import load_config
from mtllm_ds.planning.paper import objective_on_paper, text_of
from mtllm_ds.preflight.whole import SMALL, choose_whole, frozen_parts
from tests.distributed.ranks import PARTITIONED
from tests.fixtures.dialogue_runs import make_dialogue_run
from tests.fixtures.runs import make_run, settings_of

TABLE, ENCODER_TABLE, NORM = 512 * 24, 480 * 16, 24
ENCODER_LAYERS = 2 * (4 * (16 * 16 + 16) + 2 * 16 * 32 + 32 + 16 + 2 * 2 * 16) + 2 * 16


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory):
    return make_dialogue_run(tmp_path_factory.mktemp("dialogues"))


def frozen_of(recipe, **overrides):
    """Settings, and (part, elements) of every frozen weight, from configurations alone."""
    settings = settings_of(recipe, training__deepspeed=PARTITIONED, **overrides)
    objective = objective_on_paper(settings, text_of(settings, None, None))
    return settings, [(part, parameter.numel()) for part, parameter in frozen_parts(objective)]


def chosen(settings, frozen, gib="auto", device_bytes=2**40, **zero):
    training = settings.training.model_copy(update={"whole_frozen_gib": gib})
    settings = settings.model_copy(update={"training": training})
    ds_config = resolve_deepspeed(settings, world_size=2, micro_batch_size=1, micro_batches_per_step=1)
    ds_config["zero_optimization"] |= zero
    return dict(choose_whole(settings, ds_config, frozen, device_bytes).bytes_by_part)


def test_all_but_the_layers_of_the_llm(recipe):
    settings, frozen = frozen_of(recipe)
    assert chosen(settings, frozen) == {
        "encoder's embeddings": 4 * ENCODER_TABLE, "encoder's layers": 4 * ENCODER_LAYERS, "input embeddings": 4 * TABLE,
        "other weights outside of layers": 4 * NORM,
    }  # fmt: skip
    assert load_config(settings.model.llm.name, None, False, "model.llm.name").num_hidden_layers == 2
    assert sum(numel for part, numel in frozen if part == "layers") == 2 * (
        2 * 24 * 24 + 2 * 24 * 12 + 3 * 24 * 40 + 2 * 24
    )


def test_as_much_as_fits_the_encoder_first(recipe):
    settings, frozen = frozen_of(recipe)
    for gib, parts in (
        ((4 * ENCODER_TABLE + 95) / 2**30, ["encoder's embeddings"]),
        ((4 * ENCODER_TABLE + 96) / 2**30, ["encoder's embeddings", "other weights outside of layers"]),
        (4 * (ENCODER_TABLE + ENCODER_LAYERS) / 2**30, ["encoder's embeddings", "encoder's layers"]),
        (4 * ENCODER_LAYERS / 2**30, ["encoder's layers"]),
        (0, []),
    ):
        assert list(chosen(settings, frozen, gib)) == parts
    assert list(chosen(settings, frozen, "auto", device_bytes=20 * 4 * ENCODER_TABLE)) == ["encoder's embeddings"]
    assert chosen(settings, frozen, "auto", device_bytes=1000) == {}


def test_what_zero_keeps_whole_anyway_comes_on_top(recipe):
    settings, frozen = frozen_of(recipe)
    small = sum(4 * numel for _, numel in frozen if numel <= 600)
    found = chosen(settings, frozen, "auto", device_bytes=1000, stage3_param_persistence_threshold=600)
    assert found == {SMALL: small}


def test_a_table_that_nothing_reads_stays_in_shares(recipe, dialogues):
    """A stack whose teacher is cached reads no token of the LLM's, unless it goes on with responses."""
    assert "input embeddings" not in chosen(*frozen_of(recipe, data__targets="plain"))
    assert "input embeddings" in chosen(*frozen_of(dialogues, data__targets="told"))


def test_a_head_of_its_own_is_a_part_and_a_tied_one_is_the_table(dialogues):
    settings, frozen = frozen_of(dialogues)
    found = chosen(settings, frozen)
    assert found["output head"] == found["input embeddings"] == 4 * TABLE


def refusal(recipe, **overrides):
    words = [f"{key.replace('__', '.')}={value}" for key, value in overrides.items()]
    with pytest.raises(UserError) as caught:
        main(["--recipe", str(recipe), "--dry-run", "--world-size", "2", *words])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_setting_without_effect_is_refused(recipe):
    for gib in (0, 1.5):
        assert refusal(recipe, training__deepspeed="zero2", training__whole_frozen_gib=gib) == (
            f"training.whole_frozen_gib={float(gib)}: has no effect: ZeRO stage 2 leaves all weights whole; set it to auto"
        )
    tiny = refusal(recipe, training__deepspeed=PARTITIONED, training__whole_frozen_gib=1e-9)
    assert tiny.startswith("training.whole_frozen_gib=1e-09: has no effect: the smallest part, other weights outside")
    settings, frozen = frozen_of(recipe)
    for gib in (0, 1.0):
        with pytest.raises(UserError, match="nothing outside of layers is frozen; set it to auto"):
            chosen(settings, [one for one in frozen if one[0] == "layers"], gib)


def test_a_dry_run_says_what_stays_whole_and_that_zero_2_would_send_less(recipe, capsys):
    words = ["--recipe", str(recipe), "--dry-run", "--world-size", "2", f"training.deepspeed={PARTITIONED}"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    (whole,) = [line for line in lines if line.startswith("whole ")]
    for part in ("encoder's embeddings 0.03 MiB", "encoder's layers 0.02 MiB", "input embeddings 0.05 MiB"):
        assert part in whole
    (layout,) = [line for line in lines if line.startswith("layout ")]
    # Of 1,848 trained weights in fp32 two ranks sum the gradients of two forwards, and gather them once.
    assert "with training.deepspeed=zero2 a rank sends 0.02 MiB in a step and not" in layout
    assert main([*words[:-1], "training.deepspeed=zero2"]) == 0
    assert not [line for line in capsys.readouterr().out.splitlines() if line.startswith(("whole ", "layout "))]
