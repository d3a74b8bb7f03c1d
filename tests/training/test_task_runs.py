"""Task tuning and distillation on real ranks: the same losses on one and two, and what stage 2 must never do."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mtllm_ds.checkpoint.export import export_run
from mtllm_ds.checkpoint.trained import read_trained
from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.shards.targets import TargetSet
from mtllm_ds.data.stream.stream import EvalStream
from mtllm_ds.models.build import load_reader
from mtllm_ds.training.runs import run_seeds
from tests.distributed.ranks import RankError, ranks
from tests.fixtures.runs import build_data, losses_of, rows_of, settings_of, write_text
from tests.fixtures.task_runs import (
    CHOICE,
    TOPICS,
    build_task_data,
    make_distillation,
    make_task_run,
    topic_rows,
    write_targets,
)


def train(recipe, resume, overrides):
    """On a rank of a pool."""
    return run_seeds(settings_of(recipe, **overrides), join_cluster(), resume)


def run_on(world_size, recipe, name, resume=False, **overrides):
    overrides["run__output_dir"] = str(recipe.parent / name)
    assert ranks(world_size).run(train, recipe, resume, overrides) == [0] * world_size
    return settings_of(recipe, **overrides)


def assert_same_losses(found, truth, rel=1e-5):
    assert found.keys() == truth.keys()
    for step, loss in truth.items():
        assert found[step] == pytest.approx(loss, rel=rel), f"step {step}"


def evaluations(settings):
    return [row for row in rows_of(settings) if "eval_loss" in row]


@pytest.fixture(scope="module")
def tuning(tmp_path_factory):
    return make_task_run(tmp_path_factory.mktemp("tuning"))


@pytest.fixture(scope="module")
def teacher(tuning):
    """The run of a task-tuned LLM."""
    run_on(1, tuning, "teacher", model__reader="llm")
    return tuning.parent / "teacher"


@pytest.fixture(scope="module")
def distillation(tuning, teacher):
    """The recipe of stage 2, with the teacher's vectors in the shards."""
    for name in ("train", "validation"):
        write_targets(tuning.parent / name, teacher)
    return make_distillation(tuning, teacher)


@pytest.fixture(scope="module")
def distilled(distillation):
    """Stage 2 on one rank: settings."""
    return run_on(1, distillation, "distilled_one")


@pytest.mark.parametrize("reader", ["stacked", "llm", "encoder"])
def test_one_and_two_ranks_tune_alike(tuning, reader):
    one = run_on(1, tuning, f"{reader}1", model__reader=reader)
    two = run_on(2, tuning, f"{reader}2", model__reader=reader)
    assert list(losses_of(one)) == list(range(1, 7))
    assert_same_losses(losses_of(two), losses_of(one))
    for a, b in zip(evaluations(one), evaluations(two), strict=True):
        for figure in ("eval_loss", "eval_accuracy", "eval_macro_f1"):
            assert b[figure] == pytest.approx(a[figure], rel=1e-4)


def test_the_best_is_the_most_accurate(tuning):
    settings = run_on(1, tuning, "best", model__reader="llm", run__validate_every=1, run__keep_checkpoints=1)
    accuracies = {row["step"]: row["eval_accuracy"] for row in evaluations(settings)}
    best = json.loads((tuning.parent / "best" / "checkpoints" / "best.json").read_text())
    assert best == {"step": best["step"], "figure": "eval_accuracy", "value": max(accuracies.values())}
    assert accuracies[best["step"]] == best["value"]
    assert max(accuracies.values()) > 1 / 3


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_multiple_choice_is_tuned_and_distilled_through_spans(tmp_path, pooling):
    recipe = make_task_run(tmp_path, CHOICE, pooling=pooling)
    one = losses_of(run_on(1, recipe, "one", model__reader="llm"))
    assert_same_losses(losses_of(run_on(2, recipe, "two", model__reader="llm")), one)
    for name in ("train", "validation"):
        write_targets(tmp_path / name, tmp_path / "one")
    stage2 = make_distillation(recipe, tmp_path / "one")
    distilled = losses_of(run_on(1, stage2, "distilled_one"))
    assert_same_losses(losses_of(run_on(2, stage2, "distilled_two")), distilled)
    assert distilled[6] < distilled[1]


@torch.no_grad()
def test_cached_and_live_teacher_agree(distillation, teacher):
    trained, manifest = read_trained(teacher), Manifest.load(str(distillation.parent / "train"))
    live = load_reader(trained.model, trained.weights, torch.device("cpu"), torch.float32)
    for batch in EvalStream(manifest, batch_size=7, targets=[TargetSet(manifest, "teacher")]):
        cached = batch.extras["teacher_pooled"]
        torch.testing.assert_close(cached[batch.valid], live.vectors(batch)[batch.valid], atol=1e-5, rtol=1e-5)


def test_distillation_is_the_same_on_two_ranks_and_learns(distillation, distilled):
    two = run_on(2, distillation, "distilled_two")
    assert_same_losses(losses_of(two), losses_of(distilled))
    assert losses_of(distilled)[6] < losses_of(distilled)[1]
    last = evaluations(distilled)[-1]
    assert {"eval_loss", "eval_fvu", "eval_accuracy"} <= last.keys()


def test_labels_enter_no_loss_of_distillation(distillation, distilled, teacher):
    """The same items with other labels, the same vectors: the same losses, bit for bit."""
    folder = distillation.parent
    shifted = [type(row)(row.segments, row.options, (row.label + 1) % 3, row.language) for row in topic_rows(60)]
    build_task_data(folder / "permuted", shifted, TOPICS, folder)
    write_targets(folder / "permuted", teacher)
    permuted = run_on(1, distillation, "permuted_run", data__train=str(folder / "permuted"))
    assert losses_of(permuted) == losses_of(distilled)


def test_head_and_connector_never_move(distillation, distilled, teacher):
    run = distillation.parent / "distilled_one"
    checkpoints = sorted((run / "checkpoints").glob("step_*"))
    kept = [load_file(folder / "kept.safetensors") for folder in checkpoints]
    assert sorted(kept[0]) == ["head.bias", "head.weight", "student.connector.bias", "student.connector.weight"]
    assert all(torch.equal(kept[0][name], kept[-1][name]) for name in kept[0])
    assert not any("connector" in n or "head" in n for n in load_file(checkpoints[-1] / "trainable.safetensors"))
    head = read_trained(teacher).head
    assert all(torch.equal(head[name], kept[0][f"head.{name}"]) for name in head)
    export_run(run, distillation.parent / "export")
    exported = load_file(distillation.parent / "export" / "head.safetensors")
    assert all(torch.equal(head[name], exported[name]) for name in head)


def test_a_start_is_taken_up_merged_or_not(distillation, distilled):
    """A run that starts from a distilled model and does not move has its loss."""
    start = str(distillation.parent / "distilled_one")
    extra = {"model__start": start, "optim__learning_rate": 1e-12, "run__max_steps": 1}
    plain = run_on(1, distillation, "go_on", **extra)
    merged = run_on(1, distillation, "merged", model__merge_start_lora="true", model__lora__rank=3, **extra)
    best = min(row["eval_loss"] for row in evaluations(distilled))
    assert evaluations(plain)[0]["eval_loss"] == pytest.approx(best, rel=1e-5)
    assert evaluations(merged)[0]["eval_loss"] == pytest.approx(best, rel=1e-5)
    both = read_trained(distillation.parent / "merged")
    assert both.model.lora.rank == 5
    export_run(distillation.parent / "merged", distillation.parent / "merged_export")
    again = read_trained(distillation.parent / "merged_export")
    assert again.fingerprint == both.fingerprint
    from_export = run_on(1, distillation, "from_export", **{
        **extra, "model__start": str(distillation.parent / "merged_export"), "model__merge_start_lora": "true"
    })  # fmt: skip
    assert evaluations(from_export)[0]["eval_loss"] == pytest.approx(best, rel=1e-5)


def lora_changes(place):
    """What the adapters of a trained model add to each weight of the LLM: layer -> matrix."""
    trained = read_trained(place)
    scale, weights = trained.model.lora.alpha / trained.model.lora.rank, trained.weights
    return {
        name.split(".lora_A")[0]: scale * weights[name.replace("lora_A", "lora_B")] @ tensor
        for name, tensor in weights.items()
        if ".lora_A" in name
    }


def test_a_student_can_start_with_both_changes_to_the_llm(distillation, distilled, teacher):
    start = str(distillation.parent / "distilled_one")
    run_on(
        1, distillation, "both", model__start=start, model__merge_start_lora="true", objective__start_at_teacher="true",
        optim__learning_rate=1e-12, run__max_steps=1,
    )  # fmt: skip
    found, first, second = (lora_changes(place) for place in (distillation.parent / "both", Path(start), teacher))
    assert found.keys() == first.keys() == second.keys()
    assert all(change.abs().max() > 1e-4 for change in second.values())
    for layer, change in found.items():
        torch.testing.assert_close(change, first[layer] + second[layer], atol=1e-6, rtol=1e-4)
    with pytest.raises(RankError, match=r"start_at_teacher=true: the teacher .* has a LoRA with rank=2"):
        run_on(
            1, distillation, "other_rank", model__start=start, model__merge_start_lora="true", model__lora__rank=3,
            objective__start_at_teacher="true",
        )  # fmt: skip


def test_a_merged_start_resumes_without_its_start(distillation, distilled):
    folder = distillation.parent
    start = folder / "start_copy"
    shutil.copytree(folder / "distilled_one", start)
    extra = {"model__start": str(start), "model__merge_start_lora": "true"}
    whole = losses_of(run_on(1, distillation, "merged_whole", **extra))
    settings = run_on(1, distillation, "merged_part", **extra)
    for folder_ in ("step_00000006",):
        shutil.rmtree(folder / "merged_part" / "checkpoints" / folder_)
    (folder / "merged_part" / "checkpoints" / "best.json").unlink(missing_ok=True)
    run_on(2, distillation, "merged_part", resume=True, **extra)
    assert_same_losses(losses_of(settings), whole)


def test_logits_can_be_matched(distillation):
    settings = run_on(1, distillation, "logits", objective__match="logits", objective__select_by="accuracy")
    losses = losses_of(settings)
    assert 0 < losses[6] < losses[1]


def test_targets_of_another_teacher_are_refused(distillation, tuning, teacher):
    run_on(1, tuning, "other_teacher", model__reader="llm", run__seed=5, run__max_steps=1)
    with pytest.raises(RankError, match="come from the teacher's revision"):
        run_on(1, distillation, "wrong", objective__teacher=str(tuning.parent / "other_teacher"))


def test_several_seeds_in_one_command(tuning):
    seeds, folder = (0, 3, 5, 7), tuning.parent / "seeds"
    several = {"run__seeds": "[0,3,5,7]", "run__max_steps": 2, "run__save_every": 1, "model__reader": "llm"}

    def losses():
        return [losses_of(settings_of(tuning, run__output_dir=folder / f"seed-{seed}")) for seed in seeds]

    assert run_on(1, tuning, "seeds", **several).run.seeds == seeds
    whole = losses()
    assert whole[0] != whole[1]
    summary = json.loads((folder / "seeds.json").read_text())
    assert set(summary["eval_accuracy"]["seeds"]) == {"0", "3", "5", "7"}
    # As a kill leaves it: the first finished, one within, one before its first checkpoint, one not begun.
    shutil.rmtree(folder / "seed-3" / "checkpoints" / "step_00000002")
    (folder / "seed-3" / "checkpoints" / "best.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "seed-5" / "checkpoints")
    shutil.rmtree(folder / "seed-7")
    (folder / "seeds.json").unlink()
    finished = {path: path.stat().st_mtime_ns for path in (folder / "seed-0").rglob("*")}
    run_on(1, tuning, "seeds", resume=True, **several)
    assert losses() == whole
    assert {path: path.stat().st_mtime_ns for path in (folder / "seed-0").rglob("*")} == finished
    assert json.loads((folder / "seeds.json").read_text()) == summary


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"objective__teacher": "TUNED_ENCODER"}, "of 'mt'; compute them anew"),
        ({"model__start": "TEACHER"}, "reader=llm"),
        ({"model__start": "NOWHERE"}, "neither a run"),
    ],
)
def test_what_does_not_fit_is_refused(distillation, tuning, teacher, overrides, message):
    places = {
        "TEACHER": str(teacher),
        "NOWHERE": str(teacher / "x"),
        "TUNED_ENCODER": str(tuning.parent / "encoder_run"),
    }
    if "TUNED_ENCODER" in overrides.values():
        run_on(1, tuning, "encoder_run", model__reader="encoder", run__max_steps=1)
    with pytest.raises(RankError) as caught:
        run_on(1, distillation, "refused", **{key: places[value] for key, value in overrides.items()})
    assert message in str(caught.value)


def test_text_without_labels_distils_alike_where_ranks_see_nothing(distillation, teacher):
    """Ten samples of validation leave rank 1 without any, and three lanes leave its second forward empty: nobody waits for it."""
    folder = distillation.parent
    for name, count in (("plain", 60), ("plain_valid", 10)):
        build_data(folder / name, write_text(folder / f"{name}.jsonl", count, 5), folder / "mt", folder / "llm")
        write_targets(folder / name, teacher)
    overrides = {
        "data__train": folder / "plain", "data__validation": folder / "plain_valid", "data__lanes": 3, "data__cells_per_forward": 1,
        "run__max_steps": 2, "run__validate_every": 1,
    }  # fmt: skip
    one, two = (run_on(world_size, distillation, f"plain{world_size}", **overrides) for world_size in (1, 2))
    assert_same_losses(losses_of(two), losses_of(one))
    for a, b in zip(evaluations(one), evaluations(two), strict=True):
        assert b["eval_loss"] == pytest.approx(a["eval_loss"], rel=1e-5)
        assert "eval_accuracy" not in b


def test_a_run_goes_on_although_its_teacher_and_its_start_have_moved(distillation, distilled, teacher):
    folder = distillation.parent
    places = {name: folder / f"{name}_to_move" for name in ("teacher", "start")}
    shutil.copytree(teacher, places["teacher"])
    shutil.copytree(Path(distilled.run.output_dir), places["start"])
    chosen = {
        "objective__teacher": places["teacher"],
        "model__start": places["start"],
        "model__merge_start_lora": "true",
    }
    truth = losses_of(run_on(1, distillation, "moved_whole", **chosen))
    run_on(1, distillation, "moved", **chosen, run__max_steps=3)
    for place in places.values():
        place.rename(place.with_name(f"{place.name}_elsewhere"))
    with pytest.raises(RankError, match="teacher_to_move"):
        run_on(1, distillation, "fresh", **chosen)
    settings = run_on(1, distillation, "moved", resume=True, **chosen)
    assert losses_of(settings).keys() == truth.keys()
    newest = read_trained(Path(settings.run.output_dir))
    assert newest.head is not None
