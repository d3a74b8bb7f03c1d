"""TokenKLHead alone, and under ZeRO-3 on two real ranks with a partitioned, frozen head."""

import pytest
import torch
from mtllm_kernels import fused_linear_kl
from torch import nn

from mtllm_ds.objectives.token_kl_head import TokenKLHead
from tests.distributed.ranks import ranks

WIDTH, VOCABULARY, ROWS, STEPS = 16, 211, 6, 4


class Toy(nn.Module):
    """A trained student and a frozen teacher layer below one frozen head."""

    def __init__(self, trained_head: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student, self.teacher = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False).requires_grad_(trained_head)
        self.loss = TokenKLHead(self.head, reduction="mean", temperature=2.0)

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        return self.loss(self.student(x).tanh(), self.teacher(x).tanh(), valid)


def batch(step: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 * step + rank)
    return torch.randn(ROWS, WIDTH, generator=generator), torch.arange(ROWS) < ROWS - 2


def alone(trained_head: bool = False) -> tuple[list[float], torch.Tensor]:
    """Losses of both ranks' batches, step by step, in one process with plain AdamW, and the last weights."""
    toy = Toy(trained_head)
    optimizer = torch.optim.AdamW([p for p in toy.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for step in range(STEPS):
        both = torch.stack([toy(*batch(step, rank)) for rank in range(2)])
        both.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(both.tolist())
    return losses, toy.student.weight.detach()


def train_in_zero3(trained_head: bool) -> tuple[list[float], list[int], int, torch.Tensor]:
    """On one rank of two: the losses, the gathers of the head in each step and in one evaluation, the last weights."""
    import deepspeed
    import deepspeed.runtime.zero.partition_parameters as partition

    deepspeed.init_distributed(dist_backend="gloo")
    gathers, original = [0], partition._dist_allgather_fn

    def spy(input_tensor, output_tensor, group=None):
        gathers[0] += output_tensor.numel() >= WIDTH * VOCABULARY
        return original(input_tensor, output_tensor, group)

    partition._dist_allgather_fn = spy
    stage3 = {"stage": 3, "stage3_param_persistence_threshold": 0, "stage3_max_reuse_distance": 0,
              "stage3_prefetch_bucket_size": 0}  # fmt: skip
    toy = Toy(trained_head)
    optimizer = torch.optim.AdamW([p for p in toy.parameters() if p.requires_grad], lr=1e-2)
    config = {
        "train_micro_batch_size_per_gpu": ROWS,
        "zero_optimization": stage3,
        "zero_allow_untested_optimizer": True,
    }
    engine, *_ = deepspeed.initialize(model=toy, optimizer=optimizer, config=config)
    rank = torch.distributed.get_rank()
    losses, per_step = [], []
    try:
        for step in range(STEPS):
            before = gathers[0]
            loss = engine(*batch(step, rank))
            engine.backward(loss)
            engine.step()
            losses.append(loss.item())
            per_step.append(gathers[0] - before)
        before = gathers[0]
        engine.eval()
        with torch.no_grad():
            engine(*batch(0, rank))
        in_evaluation = gathers[0] - before
        with deepspeed.zero.GatheredParameters([toy.student.weight]):
            weight = toy.student.weight.detach().clone()
        engine.destroy()
    finally:
        partition._dist_allgather_fn = original
    return losses, per_step, in_evaluation, weight


@pytest.mark.parametrize("trained_head", [False, True])
def test_two_ranks_under_zero3(trained_head: bool) -> None:
    expected, weight = alone(trained_head)
    results = ranks(2).run(train_in_zero3, trained_head)
    for rank, (losses, per_step, in_evaluation, weight_there) in enumerate(results):
        torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected)[:, rank], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(weight_there, weight, rtol=1e-4, atol=1e-6)
        assert in_evaluation == 1
        assert trained_head or per_step == [1] * STEPS


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_the_same_as_the_function(reduction: str) -> None:
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, VOCABULARY).requires_grad_(False)
    student, teacher = torch.randn(ROWS, WIDTH, requires_grad=True), torch.randn(ROWS, WIDTH)
    upstream = torch.linspace(-1, 2, ROWS) if reduction == "none" else torch.tensor(3.0)
    options = {"divergence": "jsd", "softcap": 5.0, "reduction": reduction}
    loss = TokenKLHead(head, **options)(student, teacher)
    bias = {"student_bias": head.bias, "teacher_bias": head.bias}
    expected = fused_linear_kl(student, head.weight, teacher, head.weight, **bias, **options)
    torch.testing.assert_close(loss, expected)
    grads = [torch.autograd.grad(x, student, upstream, retain_graph=True)[0] for x in (loss, expected, loss)]
    torch.testing.assert_close(grads[0], grads[1])
    assert torch.equal(grads[0], grads[2])


def test_a_partitioned_head_outside_of_the_engine_is_named() -> None:
    head = nn.Linear(WIDTH, VOCABULARY, bias=False).requires_grad_(False)
    head.weight.data = torch.empty(0)
    with pytest.raises(ValueError, match="inside the engine's forward"):
        TokenKLHead(head)(torch.randn(ROWS, WIDTH), torch.randn(ROWS, WIDTH))
