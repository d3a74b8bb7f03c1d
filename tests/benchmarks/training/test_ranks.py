"""All variants make the same step: the loss of the first is one number, whoever makes it."""

import gc
import json
import shutil

import pytest
import torch

from benchmarks.training import ranks as kinds
from benchmarks.training.material import DOCUMENTS, FORWARDS
from benchmarks.training.sizes import SIZES
from mtllm_ds.objectives.pooled_alignment import PooledAlignment
from tests.distributed.ranks import ranks

ROUNDS = 2
SIZE = SIZES["smoke"]


class Over(BaseException):
    """All turns are taken, as `SystemExit` in a process of one's own."""


class Steps:
    """Takes the place of `Turns`: lets a rank make `ROUNDS` steps and no more."""

    def __init__(self):
        self.begun = 0

    def next(self):
        if self.begun == ROUNDS:
            raise Over
        self.begun += 1


def losses_of(kind, folder):
    """On a rank: the loss of each forward of the steps, as it was before their division, summed over rows."""
    seen, forward = [], PooledAlignment.forward

    def spy(self, batch):
        output = forward(self, batch)
        seen.append(float(output.loss_sum))
        return output

    PooledAlignment.forward = spy
    steps = Steps()
    try:
        kinds.KINDS[kind](steps, folder, f"{kind}_test", (), ROUNDS)
    except Over:
        pass
    finally:
        PooledAlignment.forward = forward
    assert steps.begun == ROUNDS
    return seen


def losses_of_script(folder):
    """On a rank: of the script's first step, the mean loss of each of its forwards."""
    from accelerate.state import AcceleratorState
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    from benchmarks.training.trainer_script import DistillationTrainer

    seen, compute = [], DistillationTrainer.compute_loss

    def spy(self, *args, **options):
        loss = compute(self, *args, **options)
        seen.append(float(loss))
        return loss

    DistillationTrainer.compute_loss = spy
    try:
        kinds.trainer(Steps(), folder, "trainer_test", (), ROUNDS)
    except Over:
        pass
    finally:
        # Nothing of it may meet the runs of later tests.
        DistillationTrainer.compute_loss = compute
        unset_hf_deepspeed_config()
        AcceleratorState._reset_state(reset_partial_state=True)
        gc.collect()
    return seen


@pytest.fixture(scope="module")
def expected(material):
    """(steps, forwards, ranks) loss sums by the product's objective, one rank, no engine and no update: the first step's truth."""
    return losses_of("alone", material)[: SIZE.lanes]


def first_step(losses_by_rank):
    """Its forwards in the order of lanes, which one rank alone makes one after the other."""
    return [losses[forward] for forward in range(SIZE.num_forwards) for losses in losses_by_rank]


@pytest.mark.parametrize("kind", ["ours", "plain", "bare"])
def test_our_variants_begin_with_the_same_losses(material, expected, kind):
    assert first_step(ranks(2).run(losses_of, kind, material)) == pytest.approx(expected, rel=1e-6)


def test_the_script_begins_with_the_same_losses(material, expected):
    found = first_step(ranks(2).run(losses_of_script, material))
    assert [loss * SIZE.samples_per_cell for loss in found] == pytest.approx(expected, rel=1e-5)


def test_the_script_trains_in_bf16(material, expected, tmp_path):
    """Which `TrainingArguments` refuse on a CPU that is not asked for."""
    folder = shutil.copytree(material, tmp_path / "bf16")
    given = json.loads((folder / "trainer.json").read_text())
    given |= {"precision": "bf16", "deepspeed": {**given["deepspeed"], "bf16": {"enabled": True}}}
    (folder / "trainer.json").write_text(json.dumps(given))
    found = first_step(ranks(2).run(losses_of_script, folder))
    assert [loss * SIZE.samples_per_cell for loss in found] == pytest.approx(expected, rel=0.05)


def test_the_update_of_one_rank_is_that_of_adamw_in_fp32():
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(5, 3)), torch.nn.Parameter(torch.randn(3))]
    others = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
    update = kinds.Update([{"params": weights, "lr": 0.1, "weight_decay": 0.01}], max_grad_norm=0.5)
    truth = torch.optim.AdamW(others, lr=0.1, weight_decay=0.01)
    for _ in range(3):
        for own, other in zip(weights, others, strict=True):
            own.grad = torch.randn_like(own)
            other.grad = own.grad.clone()
        torch.nn.utils.clip_grad_norm_(others, 0.5)
        truth.step()
        update()
    for own, other in zip(weights, others, strict=True):
        torch.testing.assert_close(own, other)


def test_each_document_of_a_step_is_in_one_forward(material):
    steps = json.loads((material / FORWARDS).read_text())
    documents = json.loads((material / DOCUMENTS).read_text())
    assert {len(ids) for rows in documents.values() for ids in rows} == {SIZE.lengths}
    for step in steps:
        places = [place for forward in step for rank in forward for place in rank]
        assert len(set(places)) == len(places) == SIZE.lanes * SIZE.samples_per_cell
