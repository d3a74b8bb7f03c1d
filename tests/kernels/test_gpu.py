"""What only a GPU can show: real sizes in bfloat16, equal bits, no synchronisation, memory. Skipped where there is none."""

import pytest
import torch
from kernel_cases import DIVERGENCES, Tensors, relative_error, truth
from mtllm_kernels import fused_linear_kl, fused_topk_kl
from mtllm_kernels.common.chunks import Wanted
from mtllm_kernels.common.operator import Call
from mtllm_kernels.linear_kl.function import linear_kl
from mtllm_kernels.linear_kl.problem import Problem

pytestmark = pytest.mark.gpu

BACKENDS = ("triton-split", "triton-fused", "chunked")
CHECKED_ROWS = 64


def close(num_rows: int, vocabulary: int, width: int, noise: float, dtype: torch.dtype = torch.bfloat16) -> Tensors:
    """A shared head with logits of standard deviation 2; the mean forward KL is about 2 noise^2."""
    generator = torch.Generator("cuda").manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device="cuda")

    student, weight = normal(num_rows, width), (normal(vocabulary, width) * 2 * width**-0.5).to(dtype)
    return Tensors(student.to(dtype), weight, (student + noise * normal(num_rows, width)).to(dtype), weight)


def rows_and_gradient(t: Tensors, **options) -> tuple[torch.Tensor, torch.Tensor]:
    hidden = t.student_hidden.detach().requires_grad_()
    rows = fused_linear_kl(hidden, t.student_weight, t.teacher_hidden, t.teacher_weight, reduction="none", **options)
    return rows.detach(), torch.autograd.grad(rows.sum(), hidden)[0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("noise", [0.77, 0.39, 0.12, 0.039, 0.012])
def test_error_at_real_sizes(backend: str, divergence: str, noise: float) -> None:
    """KL 1.2, 0.3, 3e-2, 3e-3, 3e-4; the truth of the first rows stands for all, since rows do not touch each other."""
    t = close(1100, 128256, 1024, noise)
    rows, grad = rows_and_gradient(t, backend=backend, divergence=divergence)
    some = Tensors(t.student_hidden[:CHECKED_ROWS], t.student_weight, t.teacher_hidden[:CHECKED_ROWS], t.student_weight)
    options = {"divergence": divergence, "reduction": "none", "device": "cuda"}
    true_rows, (true_grad,) = truth(some, upstream=torch.ones(CHECKED_ROWS), **options)
    assert relative_error(rows[:CHECKED_ROWS].mean(), true_rows.mean()) <= 1e-3
    assert relative_error(grad[:CHECKED_ROWS], true_grad) <= 5e-3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("vocabulary", "width"), [(256206, 1024), (32003, 1003), (32000, 520)])
def test_sizes_that_are_not_aligned(backend: str, vocabulary: int, width: int) -> None:
    t = close(300, vocabulary, width, 0.2)
    rows, grad = rows_and_gradient(t, backend=backend)
    some = Tensors(t.student_hidden[-40:], t.student_weight, t.teacher_hidden[-40:], t.student_weight)
    true_rows, (true_grad,) = truth(some, upstream=torch.ones(40), reduction="none", device="cuda")
    assert relative_error(rows[-40:].mean(), true_rows.mean()) <= 1e-3
    assert relative_error(grad[-40:], true_grad) <= 5e-3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_rows", [1, 2, 129])
def test_few_rows(backend: str, num_rows: int) -> None:
    t = close(num_rows, 1003, 64, 0.2)
    rows, grad = rows_and_gradient(t, backend=backend)
    true_rows, (true_grad,) = truth(t, upstream=torch.ones(num_rows), reduction="none", device="cuda")
    assert relative_error(rows, true_rows) <= 5e-3
    assert relative_error(grad, true_grad) <= 5e-3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_equal_bits(backend: str, divergence: str) -> None:
    t = close(2100, 32003, 1024, 0.2)
    first, second = (rows_and_gradient(t, backend=backend, divergence=divergence) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("trained_head", [False, True])
def test_no_synchronisation(backend: str, trained_head: bool) -> None:
    t = close(1500, 32000, 512, 0.2)
    weight = t.student_weight.detach().requires_grad_(trained_head)
    hidden, valid = t.student_hidden.requires_grad_(), torch.arange(1500, device="cuda") < 1400

    def step() -> None:
        fused_linear_kl(hidden, weight, t.teacher_hidden, weight, valid=valid, backend=backend).backward()

    step()  # compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_no_synchronisation_in_topk() -> None:
    t = close(1500, 32000, 512, 0.2)
    hidden = t.student_hidden.requires_grad_()
    log_probs, ids = (t.teacher_hidden.float() @ t.teacher_weight.float().T).log_softmax(-1).topk(64)
    fused_topk_kl(hidden, t.student_weight, ids, log_probs).backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        fused_topk_kl(hidden, t.student_weight, ids, log_probs).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("backend", ["triton-split", "triton-fused"])
@pytest.mark.parametrize(("vocabulary", "width"), [(256206, 1024), (128256, 4096)])
def test_extra_memory(backend: str, vocabulary: int, width: int) -> None:
    t = close(8192, vocabulary, width, 0.2)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    rows_and_gradient(t, backend=backend)
    assert torch.cuda.max_memory_allocated() - before <= 4.5e9


@pytest.mark.parametrize("backend", ["triton-split", "triton-fused"])
def test_operator_and_whole_graph(backend: str) -> None:
    t = close(70, 1003, 64, 0.2)
    hidden = t.student_hidden.float().requires_grad_()
    weight, teacher = t.student_weight.float(), t.teacher_hidden.float()
    problem = Problem(student_hidden=hidden, student_weight=weight, teacher_hidden=teacher, teacher_weight=None,
                      row_weight=torch.full((70,), 1 / 70, device="cuda"))  # fmt: skip
    call = Call(problem, Wanted(True, False, False), per_row=False, backend=backend)
    torch.library.opcheck(linear_kl.operator, linear_kl.flat(call))

    def loss(hidden: torch.Tensor) -> torch.Tensor:
        return fused_linear_kl(hidden * 2, weight, teacher, weight, backend=backend)

    grads = [torch.autograd.grad(f(hidden), hidden)[0] for f in (loss, torch.compile(loss, fullgraph=True))]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-7)
