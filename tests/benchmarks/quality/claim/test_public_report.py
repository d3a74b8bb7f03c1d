"""The report on public models, of answers that are known: each comparison against a computation of its own."""

import json

import numpy as np
import pytest
from rich.console import Console

from benchmarks.quality.claim.public_budgets import public_budget
from benchmarks.quality.claim.public_plan import PublicBackbone, PublicPlan, public_learners, translate_test_step
from benchmarks.quality.claim.public_report import write_public_report
from mtllm_ds.atomic import write_json
from mtllm_ds.evaluation.answers.predictions import concatenate, predictions_of, write_predictions
from mtllm_ds.evaluation.items.items import Item
from mtllm_ds.evaluation.items.tasks import TaskFacts
from mtllm_ds.evaluation.items.translated import READINGS

LANGUAGES = ("deu_Latn", "fra_Latn", "gaz_Latn", "spa_Latn")
COUNTING = ("fra_Latn", "spa_Latn")
FACTS = TaskFacts("lohelp_modules", {}, ["deu_Latn"])
ITEMS = [Item(f"i{n}", f"g{n // 3}", "Calc", ("x",)) for n in range(300)]
SEEDS = (0, 1, 2)
ACCURACY = {"llm_direct": 0.3, "mt_encoder": 0.55, "mtllm_direct": 0.5, "mtllm_stage2": 0.7, "translate_train": 0.4,
            "english_originals": 0.8, "ridge": 0.5, "ridge_centred": 0.6, "majority": 0.2, "tfidf": 0.3,
            "shuffled_connector": 0.2}  # fmt: skip


class World:
    """A finished run with known answers."""

    def __init__(self, root, with_translations=True):
        self.rng = np.random.default_rng(0)
        self.rows = {}
        budget = public_budget("public", "lohelp_modules", "minilm")
        self.plan = PublicPlan(
            root=root, budget=budget, text=root, mt="e5", languages=list(LANGUAGES), development=["deu_Latn"],
            headline="plain", choice=root / "none", more_text=root,
        )  # fmt: skip
        self.backbone = PublicBackbone(self.plan, "minilm")
        counts = {"train items": 40, "train items that leak": 0, "stage1_train": 9}
        data = {"counts": counts, "counts_by_language": dict.fromkeys(LANGUAGES, 300), "changed_files": []}
        write_json(root / "data" / "data.json", data)
        retrieval = dict.fromkeys(LANGUAGES, 0.9) | {"gaz_Latn": 0.3}
        write_json(root / "gates" / "gates.json", {c: {"retrieval": r, "n": 200} for c, r in retrieval.items()})
        for system in ("majority", "tfidf"):
            self.save(root / "baseline" / system, system, [system], 0)
        folder = self.backbone.folder("eval")
        for seed in SEEDS:
            for learner in public_learners(self.plan):
                name = learner.answers
                self.save(folder / f"{name}-{seed}" / name, name, [name], seed)
                write_json(folder / f"{name}-{seed}" / "done.json", {"seconds": 1.0})
            own = folder / f"llm_direct-{seed}" / "english_originals"
            self.save(
                own, "english_originals", ["english_originals"], seed, ("fra_Latn", "spa_Latn", "deu_Latn", "gaz_Latn")
            )
            self.save(folder / f"ridge-{seed}" / "ridge", "ridge", ["ridge", "ridge_centred"], seed)
            if with_translations:
                self.translate_test(seed)
        write_json(root / "translate/test/spa_Latn/translation.json", {"seconds": 600.0, "num_items": 900})
        for name in ("stage1", *(learner.name for learner in public_learners(self.plan))):
            for pilot in self.backbone._pilot_names(name).values():
                run = root / "minilm" / pilot / "run"
                run.mkdir(parents=True)
                (run / "metrics.jsonl").write_text('{"eval_fvu": 0.5}\n')

    def draw(self, system, code, seed, setting, share=None):
        key = (system, code, seed, setting)
        more = 0.2 if code == "eng_Latn" and system in ("llm_direct", "tfidf") else 0.0
        self.rows[key] = self.rng.random(len(ITEMS)) < (ACCURACY.get(system, 0.6) + more if share is None else share)
        answers = ["Calc" if hit else "Math" for hit in self.rows[key]]
        return predictions_of(FACTS, ITEMS, answers, language=code, system=system, seed=seed, setting=setting)

    def save(self, folder, name, systems, seed, languages=("eng_Latn", *LANGUAGES)):
        parts = [
            self.draw(system, code, seed, setting)
            for system in systems
            for code in languages
            for setting in (("plain",) if code == "eng_Latn" else ("plain", "copy_masked"))
        ]
        write_predictions(folder / "predictions.parquet", concatenate(parts))
        write_json(folder / "summary.json", {f"seconds_per_item/{name}": 0.01})

    def translate_test(self, seed):
        step = self.backbone.folder(translate_test_step("spa_Latn", seed))
        for reading, share in zip(READINGS, (0.6, 0.4, 0.65), strict=True):
            found = self.draw("translate_test", "spa_Latn", seed, "plain", share)
            self.rows["translate_test", "spa_Latn", seed, reading] = self.rows[
                "translate_test", "spa_Latn", seed, "plain"
            ]
            write_predictions(step / reading / "translate_test" / "predictions.parquet", found)
            write_json(step / reading / "translate_test" / "summary.json", {"seconds_per_item/translate_test": 0.02})
        write_json(step / "done.json", {"seconds": 1.0})

    def mean(self, system, setting, languages=COUNTING):
        """Accuracy over seeds and languages, from the draws alone."""
        return float(np.mean([self.rows[system, code, seed, setting] for code in languages for seed in SEEDS]))


def bootstrap(world, first, second, setting, languages, num=4000):
    """Mean, and the central 95% of means over groups and seeds drawn with replacement: written anew, with other draws."""
    gains = np.array(
        [
            [world.rows[first, c, s, setting].astype(float) - world.rows[second, c, s, setting] for s in SEEDS]
            for c in languages
        ]
    )
    by_group = gains.reshape(len(languages), len(SEEDS), 100, 3).sum(-1)  # three items a group
    rng = np.random.default_rng(7)
    means = []
    for _ in range(num):
        groups, seeds = rng.integers(0, 100, 100), rng.integers(0, 3, 3)
        means.append(by_group[:, seeds][:, :, groups].mean() / 3)
    return gains.mean(), *np.quantile(means, (0.025, 0.975))


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    root = tmp_path_factory.mktemp("public")
    world = World(root / "run")
    verdict = write_public_report(world.backbone, ["minilm/eval/x"], root / "report", Console(quiet=True))
    return (
        world,
        verdict,
        json.loads((root / "report/summary.json").read_text()),
        (root / "report/report.html").read_text(),
    )


@pytest.mark.parametrize("setting", ["plain", "copy_masked"])
@pytest.mark.parametrize("rival", ["mt_encoder", "ridge_centred"])
def test_a_comparison_is_the_paired_bootstrap_over_groups_and_seeds(told, rival, setting):
    world, _, summary, _ = told
    mean, low, high = bootstrap(world, "mtllm_stage2", rival, setting, COUNTING)
    place = f"{setting}/difference/mtllm_stage2-{rival}"
    assert summary[f"{place}/mean"] == pytest.approx(mean, abs=1e-12)
    assert summary[f"{place}/low"] == pytest.approx(low, abs=0.006)
    assert summary[f"{place}/high"] == pytest.approx(high, abs=0.006)


def test_translate_test_is_compared_where_it_answered_and_masked_where_that_is_better(told):
    world, verdict, summary, _ = told
    stack = world.mean("mtllm_stage2", "copy_masked", ["spa_Latn"])
    rival = world.mean("translate_test", "masked_after", ["spa_Latn"])
    assert summary["copy_masked/difference/mtllm_stage2-translate_test/mean"] == pytest.approx(stack - rival, abs=1e-12)
    assert "against translate-test by Apertium: " in verdict.line
    assert verdict.line.endswith("over 1 languages")
    assert summary["seconds_per_item/translate_test"] == pytest.approx(0.02 + 600 / 900 * 1.5)


def test_the_verdict_counts_the_languages_that_pass(told):
    world, verdict, _, page = told
    assert verdict.status == "confirmed"
    assert "against the encoder + LoRA + head tuned on English on copy-masked text" in verdict.line
    assert "over 2 languages; plain" in verdict.line
    floor, top = world.mean("llm_direct", "copy_masked"), world.mean("english_originals", "copy_masked")
    closed = (world.mean("mtllm_stage2", "copy_masked") - floor) / (top - floor)
    assert f"{100 * closed:.0f}% of the copy-masked gap closed" in verdict.line
    assert "against the better ridge: ahead" in verdict.line
    assert "Not known to the encoder: gaz_Latn (0.30)." in page
    assert "Means over the 2 languages that count: fra_Latn, spa_Latn" in page
    assert "Not run yet, or not to be had: minilm/eval/x." in page


def test_without_apertium_that_rival_is_left_out(tmp_path):
    world = World(tmp_path / "run", with_translations=False)
    verdict = write_public_report(world.backbone, [], tmp_path / "report", Console(quiet=True))
    assert verdict.status == "confirmed"
    assert verdict.line.endswith("against translate-test by Apertium: not run")
