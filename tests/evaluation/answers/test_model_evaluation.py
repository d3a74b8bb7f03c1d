"""A model's answers over ranks: the same as on one rank, continued where they stopped, refused where they do not belong."""

import json

import numpy as np
import pytest
import torch
from pyarrow import parquet

from mtllm_ds.cluster.launch import Cluster, join_cluster
from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.answers.answerer import Answerer
from mtllm_ds.evaluation.answers.model_evaluation import ModelEvaluation, Question, look_at_items
from mtllm_ds.evaluation.answers.predictions import read_predictions
from mtllm_ds.evaluation.items.items import load_items
from mtllm_ds.evaluation.items.masking import in_setting
from mtllm_ds.evaluation.items.tasks import load_task
from mtllm_ds.evaluation.report.of_model import report_model
from mtllm_ds.inference import MTLLM
from tests.distributed.ranks import ranks
from tests.fixtures.classifiers import ByteClassifier, GreedyForMemory
from tests.fixtures.exports import make_export
from tests.fixtures.tasks import LABELS, save_task, text_of

ALONE = Cluster(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))


def evaluate(path, output, model=None, batch_size=16, cluster=ALONE, **changes):
    """The whole evaluation of a classifier; returns the object and the Answerer."""
    task = load_task(str(path))
    chosen = {"languages": task.languages, "labels": task.labels, "system": "mtllm_stage2"} | changes
    tags = {code: task.tag_of(code) for code in chosen["languages"]}
    question = Question(task=task, tags=tags, **chosen)
    surveys, units = look_at_items(question, cluster)
    evaluation = ModelEvaluation(question, surveys, units, output, cluster)
    answerer = Answerer(model or ByteClassifier(), batch_size)
    evaluation.answer(answerer)
    report_model(evaluation, {"device": "cpu"})
    return evaluation, answerer


def evaluate_on_rank(path, output, batch_size, memory_limit=None):
    cluster = join_cluster()
    model = ByteClassifier() if memory_limit is None or cluster.rank == 0 else GreedyForMemory(memory_limit)
    _, answerer = evaluate(path, output, model, batch_size, cluster)
    return answerer.items_at_once, sum(model.batch_sizes)


def rows_of(output):
    """(everything that identifies a row and its prediction, score), sorted."""
    table = parquet.read_table(output / "predictions.parquet").to_pylist()
    table.sort(key=lambda row: (row["setting"], row["language"], row["id"]))
    scores = [row.pop("score") for row in table]
    return table, scores


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """1,000 items in each of three languages, and their evaluation on one rank."""
    folder = tmp_path_factory.mktemp("thousand")
    path = save_task(folder / "data", 1000)
    evaluate(path, folder / "alone")
    return path, folder / "alone"


def test_predictions_are_the_models(thousand):
    path, output = thousand
    task = load_task(str(path))
    predictions = read_predictions([output / "predictions.parquet"])
    assert len(predictions) == 1000 * 5  # English has no originals, so no masked text
    for setting in ("plain", "copy_masked"):
        items = in_setting(load_items(task, "test", "deu_Latn"), setting)
        logits = torch.stack(ByteClassifier().predict(items, "deu_Latn", 1000))
        mine = predictions.where(language="deu_Latn", setting=setting)
        assert mine.id.tolist() == [item.id for item in items]
        assert mine.group.tolist() == [item.group for item in items]
        assert mine.prediction.tolist() == [LABELS[i] for i in logits.argmax(1).tolist()]
        np.testing.assert_allclose(mine.score, logits.softmax(1).max(1).values, atol=1e-5)


def test_two_ranks_are_one_rank(thousand, tmp_path):
    path, alone = thousand
    shares = ranks(2).run(evaluate_on_rank, path, tmp_path / "two", 16)
    assert rows_of(tmp_path / "two") == rows_of(alone)  # scores too: the batches are the same
    assert abs(shares[0][1] - shares[1][1]) < 5 * 16 * 2
    tables = [json.loads((place / "tables.json").read_text()) for place in (tmp_path / "two", alone)]
    assert tables[0] == tables[1]
    assert not list((tmp_path / "two").rglob("*.npy"))


def evaluate_export_on_rank(path, output, export):
    evaluate(path, output, MTLLM.from_pretrained(export), 16, join_cluster(), languages=("deu_Latn",), setting="plain")


def test_a_real_model_on_two_ranks_is_the_same_on_one(thousand, tmp_path):
    path, _ = thousand
    export = make_export(tmp_path, task={"name": "colours", "type": "classification", "labels": LABELS})
    ranks(2).run(evaluate_export_on_rank, path, tmp_path / "two", export)
    model = MTLLM.from_pretrained(export)
    evaluate(path, tmp_path / "one", model, 50, languages=("deu_Latn",), setting="plain")
    (rows, scores), (expected, expected_scores) = rows_of(tmp_path / "two"), rows_of(tmp_path / "one")
    assert rows == expected
    assert len(rows) == 1000
    assert len({row["prediction"] for row in rows}) > 1
    np.testing.assert_allclose(scores, expected_scores, atol=1e-5)


def test_lack_of_memory_on_one_rank_changes_nothing(thousand, tmp_path):
    path, alone = thousand
    sizes = ranks(2).run(evaluate_on_rank, path, tmp_path / "poor", 50, 20)
    assert [size for size, _ in sizes] == [50, 12]
    (rows, scores), (expected, expected_scores) = rows_of(tmp_path / "poor"), rows_of(alone)
    assert rows == expected
    np.testing.assert_allclose(scores, expected_scores, atol=1e-5)


def test_ranks_without_items(tmp_path):
    path = save_task(tmp_path / "data", 1)
    ranks(2).run(evaluate_on_rank, path, tmp_path / "out", 8)
    assert len(read_predictions([tmp_path / "out" / "predictions.parquet"])) == 5


def test_a_rank_without_memory_stops_all(tmp_path):
    path = save_task(tmp_path / "data", 6)
    with pytest.raises(AssertionError) as caught:
        ranks(2).run(evaluate_on_rank, path, tmp_path / "out", 8, 0)
    kinds = [error[0] for error in caught.value.errors]
    assert kinds == ["PeerFailedError", "UserError"]


def evaluate_in_own_folder(path, output):
    cluster = join_cluster()
    evaluate(path, output / f"disk{cluster.rank}", cluster=cluster)


def test_a_folder_that_ranks_do_not_share_is_told(tmp_path):
    path = save_task(tmp_path / "data", 6)
    with pytest.raises(AssertionError) as caught:
        ranks(2).run(evaluate_in_own_folder, path, tmp_path)
    (kind, message, _), (other, _, _) = caught.value.errors
    assert (kind, other) == ("UserError", "PeerFailedError")
    assert message.endswith("disk0: rank 0 does not see what rank 1 wrote there; name a folder that all machines share")


class Interrupted(ByteClassifier):
    def predict(self, items, lang, batch_size):
        if lang == "khm_Khmr":
            raise KeyboardInterrupt
        return super().predict(items, lang, batch_size)


def test_an_interrupted_evaluation_goes_on(tmp_path, capsys):
    path = save_task(tmp_path / "data", 40)
    whole, _ = evaluate(path, tmp_path / "whole")
    output = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        evaluate(path, output, Interrupted())
    assert not (output / "report.html").exists()
    before = {file: file.stat().st_mtime_ns for file in output.rglob("*.parquet")}
    assert {file.stem for file in before} == {"eng_Latn", "deu_Latn"}
    (output / "predictions" / "plain" / ".khm_Khmr.part7.npy").write_bytes(b"of a rank that is no more")
    capsys.readouterr()
    again, _ = evaluate(path, output, batch_size=7)
    assert [unit.language for unit in again.units_to_do] == ["khm_Khmr"] * 2
    assert again.num_finished == 3
    assert "3 of the files are finished already" in capsys.readouterr().err
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())
    assert rows_of(output)[0] == rows_of(tmp_path / "whole")[0]
    assert not list(output.rglob("*.npy"))
    assert whole.num_finished == 0


def test_languages_and_settings_may_be_added(tmp_path):
    path = save_task(tmp_path / "data", 12)
    evaluate(path, tmp_path / "out", languages=("deu_Latn",), setting="plain")
    model = ByteClassifier()
    evaluate(path, tmp_path / "out", model, languages=("deu_Latn", "khm_Khmr"), setting="masked")
    found = {(row["language"], row["setting"]) for row in rows_of(tmp_path / "out")[0]}
    assert found == {("deu_Latn", "plain"), ("deu_Latn", "copy_masked"), ("khm_Khmr", "copy_masked")}


def test_another_evaluation_in_the_same_folder_is_refused(tmp_path):
    path = save_task(tmp_path / "data", 12)
    evaluate(path, tmp_path / "out", described={"model": "abc"})
    before = (tmp_path / "out" / "evaluation.json").read_text()
    with pytest.raises(UserError, match="holds an evaluation with model abc, not def; choose another folder"):
        evaluate(path, tmp_path / "out", described={"model": "def"})
    with pytest.raises(UserError, match="with seed 0, not 1"):
        evaluate(path, tmp_path / "out", seed=1, described={"model": "abc"})
    save_task(tmp_path / "data", 11)
    with pytest.raises(UserError, match="the items of eng_Latn have changed"):
        evaluate(path, tmp_path / "out", described={"model": "abc"})
    assert (tmp_path / "out" / "evaluation.json").read_text() == before
    save_task(tmp_path / "data", 12, read_as={"deu_Latn": "eng_Latn"})
    with pytest.raises(UserError, match="the items of deu_Latn have changed"):
        evaluate(path, tmp_path / "out", described={"model": "abc"})
    (tmp_path / "out" / "evaluation.json").write_text("{")
    with pytest.raises(UserError, match=r"evaluation\.json: cannot be read"):
        evaluate(path, tmp_path / "out", described={"model": "abc"})


def test_reading_the_english_originals(tmp_path):
    path = save_task(tmp_path / "data", 30)
    evaluate(path, tmp_path / "text", languages=("eng_Latn",))
    evaluate(path, tmp_path / "originals", read="originals", system="english_originals")
    ceiling = read_predictions([tmp_path / "originals" / "predictions.parquet"])
    assert set(ceiling.language) == {"deu_Latn", "khm_Khmr"}
    assert set(ceiling.setting) == {"plain", "copy_masked"}


def test_what_has_no_originals_cannot_be_masked(tmp_path):
    path = save_task(tmp_path / "data", 6)
    for changes in ({"setting": "masked"}, {"read": "originals"}):
        with pytest.raises(UserError, match="has English originals"):
            evaluate(path, tmp_path / "out", languages=("eng_Latn",), **changes)
    assert not (tmp_path / "out").exists()


def test_seconds_and_figures_stand_in_the_summary(thousand):
    _, output = thousand
    summary = json.loads((output / "summary.json").read_text())
    finished = json.loads((output / "evaluation.json").read_text())["finished"]
    plain = [row for key, row in finished.items() if key.startswith("plain/")]
    assert summary["seconds_per_item/mtllm_stage2"] == pytest.approx(sum(row["seconds"] for row in plain) / 3000)
    assert summary["seconds_per_item/mtllm_stage2"] > 0
    rows, _ = rows_of(output)
    mine = [
        row["label"] == row["prediction"] for row in rows if (row["language"], row["setting"]) == ("deu_Latn", "plain")
    ]
    assert summary["plain/deu_Latn/mtllm_stage2"] == pytest.approx(np.mean(mine))
    assert {"report.html", "tables.json", "tables.png"} <= {file.name for file in output.iterdir()}


def test_multiple_choice_answers_are_numbers_from_1(tmp_path):
    rows = [
        {"id": str(n), "p": "p", "q": "q", "label": str(1 + n % 3)}
        | {name: text_of(7 * n + 3 * i, "eng_Latn") for i, name in enumerate("abc")}
        for n in range(20)
    ]
    (tmp_path / "test_eng_Latn.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "reading.yaml"
    path.write_text(
        "name: reading\ntype: multiple_choice\nlabels: ['1', '2', '3']\nlanguages: [eng_Latn]\n"
        f"source: {{folder: {tmp_path}, fields: {{segments: [p, q], options: [a, b, c], id: [id]}}}}\n"
    )
    evaluate(path, tmp_path / "out", labels=())
    items = load_items(load_task(str(path)), "test")
    expected = [str(1 + int(row.argmax())) for row in ByteClassifier().predict(items, "eng_Latn", 20)]
    assert read_predictions([tmp_path / "out" / "predictions.parquet"]).prediction.tolist() == expected
    assert len(set(expected)) > 1
