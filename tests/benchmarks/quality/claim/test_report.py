"""The report of a run whose answers are known: which reading of translate-test counts, who wins, and the verdict line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.quality.claim.backbone import BackbonePlan
from benchmarks.quality.claim.budgets import SMOKE, Budget
from benchmarks.quality.claim.plan import Plan
from benchmarks.quality.claim.report import write_quality_report
from benchmarks.quality.claim.trainings import LEARNERS
from benchmarks.quality.claim.variants import VARIANTS
from mtllm_ds.atomic import write_json
from mtllm_ds.evaluation.answers.predictions import concatenate, predictions_of, read_predictions, write_predictions
from mtllm_ds.evaluation.items.items import Item
from mtllm_ds.evaluation.items.tasks import TaskFacts

LANGUAGES = ["deu_Latn", "fra_Latn", "rus_Cyrl"]
FACTS = TaskFacts("lohelp_modules", {}, ["deu_Latn"])
NUM_ITEMS = 300
WHOLE = replace(SMOKE, seeds=(0, 1, 2))
BOTH = ("plain", "copy_masked")


def items() -> list[Item]:
    return [Item(f"i{n}", f"g{n // 2}", "Calc", ("x",)) for n in range(NUM_ITEMS)]


def answers(share: float) -> list[str]:
    """Right answers to a share of the items, spread evenly over them."""
    return ["Calc" if (n * 7919) % NUM_ITEMS < share * NUM_ITEMS else "Math" for n in range(NUM_ITEMS)]


def save(path: Path, system: str, seed: int, share: float, languages: list[str], settings: tuple[str, ...]) -> None:
    parts = [
        predictions_of(FACTS, items(), answers(share), language=code, system=system, seed=seed, setting=setting)
        for code in languages
        for setting in (settings if code != "eng_Latn" else ("plain",))
    ]
    write_predictions(path / "predictions.parquet", concatenate(parts))
    write_json(path / "summary.json", {f"seconds_per_item/{system}": 0.01})


def make_run(root: Path, chrf: float, stage2: float, budget: Budget = WHOLE) -> Plan:
    """Everything that a finished run leaves: translate-test gets .5 (greedy), .55 (beam 4), .6 (tuned, masked after)."""
    plan = Plan(root, budget, Path("help"), "assets/mt", LANGUAGES, ["deu_Latn"], "plain", root / "none")
    every = ["eng_Latn", *LANGUAGES]
    counts = {"train items": 40, "train items that leak": 3, "stage1_train": 120}
    data = {"counts": counts, "counts_by_language": dict.fromkeys(LANGUAGES, NUM_ITEMS), "changed_files": []}
    write_json(root / "data" / "data.json", data)
    write_json(root / "gates" / "gates.json", {code: {"chrf": chrf, "retrieval": 0.8} for code in LANGUAGES})
    for decoding in ("greedy", "beam4"):
        write_json(root / "translate" / decoding / "translation.json", {"seconds": 90.0, "num_items": 900})
    for system, share in (("majority", 0.2), ("tfidf", 0.7)):
        save(root / "baseline" / system, system, 0, share, every, BOTH)
    folder = root / "minilm" / "eval"
    shares = {"llm_direct": 0.7, "mt_encoder": 0.5, "translate_train": 0.5, "mtllm_direct": 0.5, "mtllm_stage2": stage2}
    for seed in budget.seeds:
        for system, share in shares.items():
            # The tuned LLM reads English well and all else badly.
            save(folder / f"{system}-{seed}" / system, system, seed, share, ["eng_Latn"], BOTH)
            own = [predictions_of(FACTS, items(), answers(0.2 if system == "llm_direct" else share), language=code,
                                  system=system, seed=seed, setting=setting) for code in LANGUAGES for setting in BOTH]  # fmt: skip
            english = predictions_of(FACTS, items(), answers(share), language="eng_Latn", system=system, seed=seed)
            write_predictions(
                folder / f"{system}-{seed}" / system / "predictions.parquet", concatenate([english, *own])
            )
            write_json(folder / f"{system}-{seed}" / "done.json", {"seconds": 1.0})
        save(folder / f"llm_direct-{seed}" / "english_originals", "english_originals", seed, 0.8, LANGUAGES, BOTH)
        ridges = []
        for system, share in (("ridge", 0.4), ("ridge_centred", 0.45)):
            place = folder / f"{system}-{seed}" / "parts"
            save(place, system, seed, share, LANGUAGES, BOTH)
            ridges.append(read_predictions([place / "predictions.parquet"]))
        write_predictions(folder / f"ridge-{seed}" / "ridge" / "predictions.parquet", concatenate(ridges))
        write_json(folder / f"ridge-{seed}" / "ridge" / "summary.json", {"seconds_per_item/ridge": 0.01})
        for system, readings in (
            ("translate_test_greedy", (0.6, 0.5, 0.4)),
            ("translate_test_beam4", (0.6, 0.4, 0.55)),
            ("translate_test_tuned", (0.6, 0.5, 0.6)),
        ):
            for reading, share in zip(("plain", "masked_before", "masked_after"), readings, strict=True):
                place = folder / f"{system}-{seed}" / reading / system
                save(place, system, seed, share, LANGUAGES, ("plain",))
    for control in ("wrong_tag", "shuffled_connector"):
        save(folder / f"{control}-0" / control, control, 0, 0.2, LANGUAGES, BOTH)
        write_json(folder / f"{control}-0" / "done.json", {"seconds": 1.0})
    backbone = BackbonePlan(plan, "minilm")
    for name in ("stage1", *(learner.name for learner in LEARNERS)):
        for pilot in backbone._pilot_names(name).values():
            run = root / "minilm" / pilot / "run"
            run.mkdir(parents=True)
            (run / "metrics.jsonl").write_text('{"eval_fvu": 0.5}\n')
    return plan


@pytest.mark.parametrize(
    ("chrf", "stage2", "expected"),
    [
        (45.0, 0.75, "confirmed: +15.0 points"),
        (45.0, 0.6, "not confirmed: the difference is not positive beyond chance"),
        (12.0, 0.75, "gate failed: no language passes the gates of the MT model"),
    ],
)
def test_the_verdict_follows_from_the_answers(tmp_path, chrf, stage2, expected):
    plan = make_run(tmp_path / "run", chrf, stage2)
    verdict = write_quality_report(plan, "minilm", [], [], tmp_path / "report", Console(quiet=True))
    assert verdict.line.startswith(expected)
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert json.loads((tmp_path / "report" / "verdict.json").read_text()) == {
        "status": verdict.status,
        "line": verdict.line,
    }
    for system, masked in (("greedy", 0.5), ("beam4", 0.55), ("tuned", 0.6)):
        assert summary[f"copy_masked/mean/translate_test_{system}"] == pytest.approx(masked, abs=1e-9)
        assert summary[f"plain/mean/translate_test_{system}"] == pytest.approx(0.6, abs=1e-9)
    # two of three readings were translated: 90 s over 600 items, and .01 s of reading
    assert summary["seconds_per_item/translate_test_greedy"] == pytest.approx(0.16)
    assert "copy_masked/difference/mtllm_stage2-ridge_centred/mean" in summary
    if chrf > 30:
        assert "over 2 languages" in verdict.line  # deu_Latn is for development
        assert "against translate-test, tuned on round trips" in verdict.line
    page = (tmp_path / "report" / "report.html").read_text()
    assert "masked after translation 0.600" in page
    assert "A smoke run" in page


def test_rivals_beside_the_verdict_may_be_missing(tmp_path):
    plan = make_run(tmp_path / "run", 45.0, 0.75)
    for path in (tmp_path / "run").glob("minilm/eval/mt_encoder-*/done.json"):
        path.unlink()
    verdict = write_quality_report(
        plan, "minilm", [], ["minilm/eval/mt_encoder-0"], tmp_path / "report", Console(quiet=True)
    )
    assert verdict.status == "confirmed"
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert "copy_masked/mean/mtllm_direct" in summary
    assert "copy_masked/mean/mt_encoder" not in summary


def test_fewer_seeds_than_the_protocol_asks_for_claim_nothing(tmp_path):
    plan = make_run(tmp_path / "run", 45.0, 0.75, SMOKE)
    left = ["minilm/ablations/mlp/stage2"]
    verdict = write_quality_report(plan, "minilm", [], left, tmp_path / "report", Console(quiet=True))
    assert "Not run yet: minilm/ablations/mlp/stage2." in (tmp_path / "report" / "report.html").read_text()
    assert verdict.line == "gate failed: 2 seeds of the 3 that the protocol asks for; nothing is claimed"


def test_each_variant_stands_against_the_one_that_it_changes_in_one_thing(tmp_path):
    plan = make_run(tmp_path / "run", 45.0, 0.75)
    shares = {"plain": 0.5, "half_stage1": 0.4, "half_layers": 0.46, "at_teacher": 0.6, "parallel_at_teacher": 0.7}
    for name, share in shares.items():
        place = tmp_path / "run" / "minilm" / "ablations" / name / "stage2" / f"variant_{name}"
        save(place, f"variant_{name}", 0, share, ["eng_Latn", *plan.development], BOTH)
    write_quality_report(plan, "minilm", [], [], tmp_path / "report", Console(quiet=True))
    summary = json.loads((tmp_path / "report" / "variants" / "summary.json").read_text())
    found = {name: value for name, value in summary.items() if "/difference/" in name and name.endswith("/mean")}
    brought = {("half_stage1", "plain"): -0.1, ("half_layers", "half_stage1"): 0.06, ("at_teacher", "plain"): 0.1}
    # The base of the last, long_at_teacher, did not answer.
    assert found == {
        f"{setting}/difference/variant_{own}-variant_{base}/mean": pytest.approx(value, abs=1e-9)
        for (own, base), value in brought.items()
        for setting in BOTH
    }
    assert summary["plain/difference/variant_half_layers-variant_half_stage1/low"] < 0.06
    assert all(variant.base in VARIANTS for variant in VARIANTS.values())
