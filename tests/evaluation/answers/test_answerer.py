"""Answers depend on the items alone: not on batches, ranks, or a lack of memory."""

import numpy as np
import pytest
import torch

from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.answers.answerer import TOLERANCE, Answerer, deal, is_out_of_memory
from mtllm_ds.evaluation.items.items import Item
from mtllm_ds.inference import MTLLM
from tests.fixtures.classifiers import ByteClassifier, GreedyForMemory
from tests.fixtures.exports import make_export
from tests.fixtures.tasks import text_of

ITEMS = [Item(str(n), str(n), "red", (text_of(n, "deu_Latn"),)) for n in range(60)]


def choices(model, batch_size, items=ITEMS):
    return [answer.choice for answer in Answerer(model, batch_size)(items, "deu_Latn")]


@pytest.mark.parametrize("batch_size", [2, 7, 32, 60])
def test_batch_size_changes_nothing(batch_size):
    assert choices(ByteClassifier(), batch_size) == choices(ByteClassifier(), 1)


class Jittery(ByteClassifier):
    """Classes 0 and 1 tie but for a jitter that depends on the batch, as padding's rounding does."""

    def predict(self, items, lang, batch_size):
        found = []
        for row in super().predict(items, lang, batch_size):
            jitter = 1e-5 * (-1) ** len(items)
            found.append(torch.stack([row[0], row[0] + jitter, row[0] - 1]))
        return found


@pytest.mark.parametrize("batch_size", [2, 3, 60])
def test_ties_are_decided_by_the_item_alone(batch_size):
    assert choices(Jittery(), batch_size) == choices(Jittery(), 1) == [0] * len(ITEMS)
    model = ByteClassifier()
    model.head[:] = 0  # all classes tie exactly: the first is answered
    assert choices(model, batch_size) == [0] * len(ITEMS)


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def real(request, tmp_path_factory):
    """A stack with a head on random weights: its classes lie near each other."""
    task = {"name": "colours", "type": "classification", "labels": ["blue", "green", "red"]}
    export = make_export(tmp_path_factory.mktemp("real"), task)
    return MTLLM.from_pretrained(export, dtype=request.param), TOLERANCE[request.param]


def test_a_real_model_answers_alike_in_any_company(real):
    model, tolerance = real
    alone = Answerer(model, 1, tolerance)([ITEMS[0]], "deu_Latn")
    every = [Answerer(model, size, tolerance)(ITEMS, "deu_Latn") for size in (1, 7, 60)]
    assert every[0][0] == alone[0]
    for answers in every[1:]:
        assert [answer.choice for answer in answers] == [answer.choice for answer in every[0]]


def test_the_tolerance_is_far_above_the_noise_of_batches(real):
    model, tolerance = real
    alone = torch.stack([model.predict([item], "deu_Latn")[0] for item in ITEMS])
    noise = (torch.stack(model.predict(ITEMS, "deu_Latn", 60)) - alone).abs().amax(1)
    assert (noise / alone.abs().amax(1).clamp(min=1)).max() < tolerance / 4


def test_only_ties_are_asked_twice():
    model = ByteClassifier()
    choices(model, 60)
    assert model.batch_sizes[0] == 60
    assert len(model.batch_sizes) <= 4


def test_scores_are_probabilities():
    model = ByteClassifier()
    logits = torch.stack(model.predict(ITEMS, "deu_Latn", 60)).double()
    expected = logits.softmax(-1)
    answers = Answerer(model, 60)(ITEMS, "deu_Latn")
    assert [answer.choice for answer in answers] == expected.argmax(-1).tolist()
    np.testing.assert_allclose([answer.score for answer in answers], expected.max(-1).values, atol=1e-6)


def test_choices_of_any_number():
    items = [
        Item(str(n), "", "1", ("p", "q"), tuple(text_of(n + i, "eng_Latn") for i in range(2 + n % 3))) for n in range(9)
    ]
    model = ByteClassifier()
    expected = [int(row.argmax()) for row in model.predict(items, "eng_Latn", 9)]
    assert choices(model, 4, items) == [row.choice for row in Answerer(model, 4)(items, "deu_Latn")]
    assert [answer.choice for answer in Answerer(model, 4)(items, "eng_Latn")] == expected


def test_out_of_memory_halves_the_batch_with_one_note(capsys):
    model = GreedyForMemory(limit=10)
    answerer = Answerer(model, 16, name=" on rank 1")
    assert [answer.choice for answer in answerer(ITEMS, "deu_Latn")] == choices(ByteClassifier(), 1)
    assert (answerer.batch_size, answerer.items_at_once) == (16, 8)
    notes = capsys.readouterr().err.splitlines()
    assert notes == ["note: out of memory on rank 1 with 16 items at once, going on with 8"]
    assert max(model.batch_sizes) == 8


def test_no_memory_for_one_item_is_one_line(capsys):
    with pytest.raises(
        UserError, match=r"item 0, read as deu_Latn: out of memory with it alone; use a smaller max_length"
    ):
        choices(GreedyForMemory(limit=0), 4)
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_what_counts_as_out_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("not enough memory"))


class Broken(ByteClassifier):
    def predict(self, items, lang, batch_size):
        if items[0].id == "5":
            raise RuntimeError("shapes cannot be multiplied")
        return [row * float("nan") for row in super().predict(items, lang, batch_size)]


def test_other_errors_and_nan_are_told():
    with pytest.raises(RuntimeError, match="shapes"):
        choices(Broken(), 4, ITEMS[5:])
    with pytest.raises(UserError, match="item 0, read as deu_Latn: its logits are not finite"):
        choices(Broken(), 4)
    with pytest.raises(UserError, match="batch_size=0"):
        Answerer(ByteClassifier(), 0)


@pytest.mark.parametrize(
    ("num_items", "batch_size", "world_size"), [(60, 4, 1), (60, 4, 3), (5, 32, 4), (2, 8, 4), (7, 2, 2)]
)
def test_every_item_is_dealt_once_and_loads_are_alike(num_items, batch_size, world_size):
    items = ITEMS[:num_items]
    hands = [deal(items, batch_size, rank, world_size) for rank in range(world_size)]
    rows = [row for hand in hands for batch in hand for row in batch]
    assert sorted(rows) == list(range(num_items))
    assert all(len(batch) <= batch_size for hand in hands for batch in hand)
    loads = [sum(len(items[row].segments[0]) for batch in hand for row in batch) for hand in hands]
    heaviest = max(len(item.segments[0]) for item in items) * batch_size
    assert max(loads) - min(loads) <= heaviest
    for hand in hands:
        lengths = [len(items[batch[0]].segments[0]) for batch in hand]
        assert lengths == sorted(lengths, reverse=True)
