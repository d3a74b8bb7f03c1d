"""TokenKLHead alone, and under ZeRO-3 on two real ranks with a partitioned, frozen head."""

import pytest
import torch
from mtllm_kernels import fused_linear_kl
from torch import nn
from torch.nn import functional

from mtllm_ds.models.lm_head import OutputHead
from mtllm_ds.objectives.clipped_divergence import clipped_rows
from mtllm_ds.objectives.token_kl_head import TokenKLHead, TokenLoss
from tests.distributed.ranks import ranks

WIDTH, VOCABULARY, ROWS, STEPS = 16, 211, 6, 4
LOSSES = {
    "kl": TokenLoss(temperature=2.0),
    "jsd_and_nll": TokenLoss(divergence="jsd", nll_weight=0.5),
    "nll": TokenLoss(kl_weight=0.0, nll_weight=1.0),
    "clip": TokenLoss(clip=0.02),
}


def head_of(bias: bool = False, **options) -> OutputHead:
    linear = nn.Linear(WIDTH, VOCABULARY, bias=bias).requires_grad_(False)
    return OutputHead(linear.weight, linear.bias, **options)


class Toy(nn.Module):
    """A trained student and a frozen teacher layer below one frozen head."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student, self.teacher = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.loss = TokenKLHead(head_of(), LOSSES[name])
        self.asks_teacher = LOSSES[name].kl_weight > 0

    def forward(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        known = self.teacher(x).tanh() if self.asks_teacher else None
        return self.loss(self.student(x).tanh(), known, tokens).loss.mean()


def batch(step: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 * step + rank)
    return torch.randn(ROWS, WIDTH, generator=generator), torch.randint(0, VOCABULARY, (ROWS,), generator=generator)


def alone(name: str) -> tuple[list[float], torch.Tensor]:
    """Losses of both ranks' batches, step by step, in one process with plain AdamW, and the last weights."""
    toy = Toy(name)
    optimizer = torch.optim.AdamW([p for p in toy.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for step in range(STEPS):
        both = torch.stack([toy(*batch(step, rank)) for rank in range(2)])
        both.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(both.tolist())
    return losses, toy.student.weight.detach()


def train_in_zero3(name: str) -> tuple[list[float], list[int], int, torch.Tensor]:
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
    toy = Toy(name)
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


@pytest.mark.parametrize("name", LOSSES)
def test_two_ranks_under_zero3_gather_the_head_once_a_step(name: str) -> None:
    expected, weight = alone(name)
    results = ranks(2).run(train_in_zero3, name)
    for rank, (losses, per_step, in_evaluation, weight_there) in enumerate(results):
        torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected)[:, rank], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(weight_there, weight, rtol=1e-4, atol=1e-6)
        assert in_evaluation == 1
        assert per_step == [1] * STEPS


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", [*LOSSES, "plain"])
def test_the_same_as_its_parts(name: str, training: bool) -> None:
    """Bias, soft cap, scale and a transform, each term by plain operators."""
    torch.manual_seed(0)
    own = LOSSES.get(name, TokenLoss(kl_weight=3.0))
    head = head_of(bias=True, softcap=3.0, scale=0.5, transform=nn.Linear(WIDTH, WIDTH).requires_grad_(False))
    student, teacher = torch.randn(ROWS, WIDTH, requires_grad=True), torch.randn(ROWS, WIDTH)
    tokens = torch.randint(0, VOCABULARY, (ROWS,))
    asked = teacher if own.kl_weight else None
    found = TokenKLHead(head, own).train(training)(student, asked, tokens)
    ours, theirs = head(student), head(teacher)
    nll = functional.cross_entropy(ours, tokens, reduction="none")
    kl = (theirs.softmax(-1) * (theirs.log_softmax(-1) - ours.log_softmax(-1))).sum(-1)
    options = {"divergence": own.divergence, "beta": own.beta, "temperature": own.temperature}
    if own.clip is None:
        eye = torch.eye(VOCABULARY)
        divergence = fused_linear_kl(
            ours, eye, theirs, eye, backend="reference", reduction="none", scale_by_temperature=True, **options
        )
    else:
        divergence = clipped_rows(ours, theirs, clip=own.clip, **options)
    expected = own.kl_weight * divergence + own.nll_weight * nll
    torch.testing.assert_close(found.loss, expected, rtol=1e-4, atol=1e-5)
    for value, truth in ((found.kl, kl), (found.nll, nll)):
        if value is not None:
            torch.testing.assert_close(value, truth, rtol=1e-4, atol=1e-5)
    assert training or found.nll is not None
    assert training or (found.kl is not None) == (asked is not None)
    upstream = torch.linspace(-1, 2, ROWS)
    grads = [
        torch.autograd.grad(x, student, upstream, retain_graph=True)[0] for x in (found.loss, expected, found.loss)
    ]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-5)
    assert torch.equal(grads[0], grads[2])


def test_clipped_rows_by_hand() -> None:
    student, teacher = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[2.0, 1.0, 0.0]])
    p, q = teacher.softmax(-1)[0], student.softmax(-1)[0]
    entries = [float(a * (a / b).log()) for a, b in zip(p, q, strict=True)]
    options = {"divergence": "forward_kl", "beta": 0.5, "temperature": 1.0}
    assert clipped_rows(student, teacher, clip=1e9, **options).item() == pytest.approx(sum(entries), rel=1e-5)
    clipped = sum(min(entry, 0.05) for entry in entries)
    assert clipped_rows(student, teacher, clip=0.05, **options).item() == pytest.approx(clipped, rel=1e-5)


def test_a_partitioned_head_outside_of_the_engine_is_named() -> None:
    head = head_of()
    head.weight.data = torch.empty(0)
    states = torch.randn(ROWS, WIDTH)
    with pytest.raises(ValueError, match="inside the engine's forward"):
        TokenKLHead(head, TokenLoss())(states, states, torch.zeros(ROWS, dtype=torch.int64))
