"""Several training sets in one recipe: what a dry run shows and refuses, and a run over them."""

import shutil

import pytest
from pydantic import ValidationError

from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.commands.train import main
from mtllm_ds.config.data import DataSettings
from mtllm_ds.errors import UserError
from mtllm_ds.training.runs import run_seeds
from tests.distributed.ranks import RankError, ranks
from tests.fixtures.runs import build_data, make_run, rows_of, settings_of, write_text


def train(recipe, resume, overrides):
    """On a rank of a pool."""
    return run_seeds(settings_of(recipe, **overrides), join_cluster(), resume)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    recipe = make_run(folder)
    build_data(folder / "other", write_text(folder / "other.jsonl", 40, 5), folder / "mt", folder / "llm")
    return recipe


def both(recipe, first=3, second=1):
    folder = recipe.parent
    return f"[{{path: {folder / 'train'}, weight: {first}}}, {{path: {folder / 'other'}, weight: {second}}}]"


def test_a_dry_run_shows_the_shares(recipe, capsys):
    assert main(["--recipe", str(recipe), "--dry-run", f"data.train={both(recipe)}"]) == 0
    said = capsys.readouterr().out
    assert f"train       {recipe.parent / 'train'}, {recipe.parent / 'other'}: 130 samples of eng_Latn" in said
    assert f"shares      {recipe.parent / 'train'} 75.00%: eng_Latn 75.00%\n" in said
    assert f"            {recipe.parent / 'other'} 25.00%: eng_Latn 25.00%\n" in said


def test_a_dry_run_shows_phases_and_refuses_one_that_never_begins(recipe, capsys):
    chosen = ["--recipe", str(recipe), "--dry-run", f"data.train={both(recipe)}", "data.mixing.cycle_draws=2"]
    chosen.append("data.mixing.phases=[{from_step: 4, rule: temperature, temperature: 2.0}]")
    assert main([*chosen, f"run.output_dir={recipe.parent / 'phases'}"]) == 0
    said = capsys.readouterr().out
    assert "from step 4:\n            " in said
    with pytest.raises(
        UserError, match=r"that of from_step=4 would begin at step 12, after the last \(run.max_steps=8\)"
    ):
        main([*chosen, f"run.output_dir={recipe.parent / 'phases'}", "data.mixing.cycle_draws=18"])


def test_a_run_with_phases_may_be_shortened(recipe, capsys):
    """Its phases are fixed, so that nobody could take out the one that never begins."""
    folder = recipe.parent / "shortened"
    overrides = {
        "data__train": both(recipe),
        "data__mixing__cycle_draws": 2,
        "data__mixing__phases": "[{from_step: 4, rule: temperature, temperature: 2.0}]",
        "run__output_dir": folder,
        "run__save_every": 2,
        "run__keep_checkpoints": 9,
    }
    assert ranks(1).run(train, recipe, False, {**overrides, "run__max_steps": 6}) == [0]
    for step in (4, 6):
        shutil.rmtree(folder / "checkpoints" / f"step_{step:08d}")
    words = [f"{key.replace('__', '.')}={value}" for key, value in {**overrides, "run__max_steps": 3}.items()]
    assert main(["--recipe", str(recipe), "--dry-run", "--resume", *words]) == 0
    said = capsys.readouterr().out
    assert (
        "warning     data.mixing.phases: that of from_step=4 would begin at step 4, after the last (run.max_steps=3)\n"
        in said
    )
    assert "from step 4" not in said
    assert ranks(1).run(train, recipe, True, {**overrides, "run__max_steps": 3}) == [0]


def test_a_dry_run_looks_at_the_target_sets(recipe):
    with pytest.raises(UserError, match=r"data\.targets=typo: those of '.*train' are not finished"):
        main(["--recipe", str(recipe), "--dry-run", "data.targets=typo", f"run.output_dir={recipe.parent / 'typo'}"])


def test_a_queue_that_is_shorter_than_a_cell_is_warned_of(recipe, capsys):
    chosen = [
        "--recipe",
        str(recipe),
        "--dry-run",
        f"run.output_dir={recipe.parent / 'queue'}",
        "data.samples_per_cell=null",
    ]
    chosen += ["data.encoder_tokens_per_cell=300", "data.llm_tokens_per_cell=300"]
    for queue_size, is_warned in ((5, True), (30, False)):
        assert main([*chosen, f"data.queue_size={queue_size}"]) == 0
        assert (f"warning     data.queue_size={queue_size}: " in capsys.readouterr().out) is is_warned


def test_a_run_over_two_sets_counts_each_and_resumes_with_its_weights_only(recipe):
    overrides = {"data__train": both(recipe), "data__mixing__cycle_draws": 4, "run__max_steps": 8}
    stopped = {**overrides, "run__max_steps": 4}
    whole = {**overrides, "run__output_dir": recipe.parent / "whole"}
    assert ranks(1).run(train, recipe, False, stopped) == [0]
    with pytest.raises(RankError) as refused:
        ranks(1).run(train, recipe, True, {**overrides, "data__train": both(recipe, 1, 1)})
    assert (
        "data.train: has the weights [1.0, 1.0], but the checkpoint's run has [3.0, 1.0]" in refused.value.errors[0][1]
    )
    assert ranks(2).run(train, recipe, True, overrides) == [0, 0]
    assert ranks(1).run(train, recipe, False, whole) == [0]
    counted, expected = (
        {name: value for row in rows_of(settings_of(recipe, **chosen)) for name, value in row.items() if "set_" in name}
        for chosen in (overrides, whole)
    )
    assert len(counted) == 4
    assert counted == expected
    assert sum(value for name, value in counted.items() if name.startswith("set_samples/")) == 8 * 12


def test_sets_of_different_columns_are_told(recipe, capsys):
    from dataclasses import replace

    from mtllm_ds.data.text.tokenization import TokenizerSpec
    from mtllm_ds.data.writing.builder import build_shards
    from mtllm_ds.data.writing.settings import ShardSettings
    from mtllm_ds.data.writing.sources import InputFile

    folder = recipe.parent
    sides = {
        side: TokenizerSpec(name=str(folder / name), side=side, max_length=64)
        for side, name in (("encoder", "mt"), ("llm", "llm"))
    }
    settings = ShardSettings(inputs=(InputFile(path=str(folder / "other.jsonl"), language="eng_Latn"),), **sides)
    build_shards(replace(settings, token_pairs=True), folder / "pairs", num_workers=1)
    sets = f"[{{path: {folder / 'train'}}}, {{path: {folder / 'pairs'}}}]"
    with pytest.raises(UserError, match=r"data\.train: of .*pairs and .*train only one has the column 'token_pairs"):
        main(
            [
                "--recipe",
                str(recipe),
                "--dry-run",
                f"data.train={sets}",
                f"run.output_dir={folder / 'fresh'}",
                "data.ignored_columns=[token_pairs]",
            ]
        )


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([], "at least two sets"),
        ([{"path": "a"}], "at least two sets"),
        ([{"path": "a"}, {"path": "a"}], "names a twice"),
        (["a", "b"], "a list such as"),
        ({"path": "a"}, "a list such as"),
        (5, "expected a folder or URL"),
        ([{"path": "a"}, {"path": "b", "weight": 0}], "greater than 0"),
        ([{"path": "a"}, {"path": "b", "share": 1}], "not permitted"),
    ],
)
def test_what_is_no_data_set_is_one_mistake(value, told):
    with pytest.raises(ValidationError, match=told) as caught:
        DataSettings(train=value)
    assert caught.value.error_count() == 1
