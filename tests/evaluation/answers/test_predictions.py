"""Predictions survive the disk unchanged, and files that do not belong together are refused."""

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.answers.predictions import concatenate, predictions_of, read_predictions, write_predictions
from mtllm_ds.evaluation.items.items import Item
from mtllm_ds.evaluation.items.tasks import TaskFacts

FACTS = TaskFacts("colours", {"tar_Latn": "spa_Latn"}, ["deu_Latn"])
ITEMS = [Item(f"i{n}", f"g{n // 2}", "red" if n % 3 else "blue", ("x",)) for n in range(5)]


def some(system="tfidf", facts=FACTS, seed=0, **more):
    return predictions_of(facts, ITEMS, ["red"] * 5, language="deu_Latn", system=system, seed=seed, **more)


def test_round_trip(tmp_path):
    first, second = some(scores=[0.1, 0.2, 0.3, 0.4, 0.5]), some("ridge", seed=2, setting="copy_masked")
    for name, part in (("a", first), ("b", second)):
        write_predictions(tmp_path / "deep" / f"{name}.parquet", part)
    back = read_predictions([tmp_path / "deep" / "a.parquet", tmp_path / "deep" / "b.parquet"])
    assert back.facts == FACTS
    assert len(back) == 10
    assert back.id.tolist() == [item.id for item in ITEMS] * 2
    assert back.where(system="ridge", seed=2, setting="copy_masked").label.tolist() == [item.label for item in ITEMS]
    assert back.where(system="tfidf").score.tolist() == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert np.isnan(back.where(system="ridge").score).all()
    assert back.correct.tolist() == [item.label == "red" for item in ITEMS] * 2
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"a.parquet", "b.parquet"}


def test_anyone_can_read_the_columns(tmp_path):
    write_predictions(tmp_path / "a.parquet", some())
    table = parquet.read_table(tmp_path / "a.parquet")
    assert table.column_names == [
        "id", "group", "language", "system", "seed", "setting", "label", "prediction", "score",
    ]  # fmt: skip


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    write_predictions(path, some())
    before = path.read_bytes()

    def fails(table, where, **settings):
        where.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(parquet, "write_table", fails)
    with pytest.raises(OSError, match="disk full"):
        write_predictions(path, some("ridge"))
    assert path.read_bytes() == before


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match="answered twice by tfidf"):
        concatenate([some(), some()])
    with pytest.raises(UserError, match="'colours' and 'shapes' do not fit"):
        concatenate([some(), some("ridge", TaskFacts("shapes"))])
    with pytest.raises(UserError, match="at least one file"):
        read_predictions([])
    with pytest.raises(UserError, match="no such file"):
        read_predictions([tmp_path / "nothing.parquet"])
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="not a Parquet file"):
        read_predictions([damaged])
    other = tmp_path / "other.parquet"
    parquet.write_table(pa.table({"id": ["a"]}), other)
    with pytest.raises(UserError, match="it lacks group, language"):
        read_predictions([other])


def test_an_answer_that_is_there_twice_is_told_with_both_files(tmp_path):
    for name in ("a", "b"):
        write_predictions(tmp_path / f"{name}.parquet", some())
    first, second = tmp_path / "a.parquet", tmp_path / "b.parquet"
    with pytest.raises(UserError) as caught:
        read_predictions([first, second])
    assert str(caught.value) == (
        "predictions of colours: item i0 in deu_Latn is answered twice by tfidf (seed 0, plain), "
        f"in {first} and {second}; give each file once"
    )
    with pytest.raises(UserError, match=rf"in {first}; give each file once"):
        read_predictions([first, first])
