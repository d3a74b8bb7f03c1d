"""The public function and its operator: derivatives, compilation, refusals, memory. On the CPU."""

import gc
import subprocess
import sys

import pytest
import torch
from kernel_cases import DIVERGENCES, Tensors, gradients, make, relative_error, truth
from mtllm_kernels import fused_linear_kl
from mtllm_kernels.common import chunks, products, scratch
from mtllm_kernels.common.chunks import Wanted
from mtllm_kernels.common.operator import Call
from mtllm_kernels.linear_kl import chunked
from mtllm_kernels.linear_kl.function import linear_kl
from mtllm_kernels.linear_kl.problem import Problem

from benchmarks.kernels.live_bytes import LiveBytes

OPTIONS = {"labels": torch.tensor([3, -100, 5]), "label_weight": 0.3, "softcap": 4.0, "temperature": 1.5}


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_gradcheck(backend: str, divergence: str) -> None:
    t = make(3, 11, 4, 5, dtype=torch.float64)
    hidden, weight = t.student_hidden.requires_grad_(), t.student_weight.requires_grad_()
    bias = torch.linspace(-1, 1, 11, dtype=torch.float64, requires_grad=True)

    def loss(hidden, weight, bias):
        return fused_linear_kl(hidden, weight, t.teacher_hidden, t.teacher_weight, divergence=divergence, beta=0.3,
                               student_bias=bias, backend=backend, reduction="none", **OPTIONS)  # fmt: skip

    assert torch.autograd.gradcheck(loss, (hidden, weight, bias), check_forward_ad=False)


@pytest.mark.parametrize("per_row", [False, True])
def test_opcheck(per_row: bool) -> None:
    t = make(5, 37, 8, 12)
    hidden, weight = t.student_hidden.requires_grad_(), t.student_weight.requires_grad_()
    problem = Problem(student_hidden=hidden, student_weight=weight, teacher_hidden=t.teacher_hidden,
                      teacher_weight=t.teacher_weight, row_weight=torch.rand(5), divergence="jsd", temperature=2.0,
                      divergence_scale=4.0)  # fmt: skip
    call = Call(problem, Wanted(True, True, False), per_row=per_row, backend="chunked")
    torch.library.opcheck(linear_kl.operator, linear_kl.flat(call))


@pytest.mark.parametrize("shared", [False, True])
def test_compiled_whole_equals_eager(shared: bool) -> None:
    t = make(9, 67, 8, None if shared else 12)
    hidden = t.student_hidden.requires_grad_()
    valid = torch.arange(9) != 4

    def loss(hidden):
        mean = fused_linear_kl(hidden * 2, t.student_weight, t.teacher_hidden, t.teacher_weight, valid=valid)
        rows = fused_linear_kl(hidden, t.student_weight, t.teacher_hidden, t.teacher_weight, reduction="none")
        return mean + rows.square().sum()

    compiled = torch.compile(loss, fullgraph=True)
    torch.testing.assert_close(compiled(hidden), loss(hidden), rtol=1e-6, atol=0)
    grad, grad_compiled = (torch.autograd.grad(f(hidden), hidden)[0] for f in (loss, compiled))
    torch.testing.assert_close(grad_compiled, grad, rtol=1e-5, atol=1e-7)


def test_backward_twice() -> None:
    t = make(9, 67, 8)
    hidden = t.student_hidden.requires_grad_()
    loss = fused_linear_kl(*t.arguments())
    (first,) = torch.autograd.grad(3 * loss, hidden, retain_graph=True)
    (second,) = torch.autograd.grad(3 * loss, hidden)
    assert torch.equal(first, second)


@pytest.mark.parametrize("through_scale", [False, True])
def test_a_second_derivative_is_refused(through_scale: bool) -> None:
    """Already when it is asked for: the first derivative would look like a constant."""
    t = make(9, 67, 8)
    hidden, scale = t.student_hidden.requires_grad_(), torch.ones((), requires_grad=through_scale)
    loss = fused_linear_kl(*t.arguments()) * scale
    with pytest.raises(NotImplementedError, match="first derivatives"):
        torch.autograd.grad(loss, hidden, create_graph=True)


def test_forward_mode_is_refused() -> None:
    t = make(9, 67, 8)

    def loss(hidden: torch.Tensor, weight: torch.Tensor, backend: str) -> torch.Tensor:
        return fused_linear_kl(hidden, weight, t.teacher_hidden, t.teacher_weight, backend=backend)

    ones = torch.ones_like(t.student_hidden)
    for backend in ("auto", "chunked"):
        with pytest.raises(NotImplementedError, match="forward-mode"):
            torch.func.jvp(lambda h, b=backend: loss(h, t.student_weight, b), (t.student_hidden,), (ones,))
    _, tangent = torch.func.jvp(lambda h: loss(h, t.student_weight, "reference"), (t.student_hidden,), (ones,))
    _, (grad,) = gradients(t, backend="chunked")
    torch.testing.assert_close(tangent, grad.sum(), rtol=1e-4, atol=1e-6)


class TestAutocast:
    """Hidden states and heads are cast as `F.linear` casts them; what is float64, or lies outside, is left alone."""

    NAMES = ("student_hidden", "student_weight")

    @pytest.mark.parametrize("backend", ["chunked", "reference"])
    @pytest.mark.parametrize("widths", [(8, None), (8, 12)])
    def test_as_if_cast_by_hand(self, backend: str, widths: tuple[int, int | None]) -> None:
        t = make(9, 67, *widths)
        by_hand, grads = gradients(t.to(torch.bfloat16), backend=backend, trained=self.NAMES)
        with torch.autocast("cpu", torch.bfloat16):
            loss, grads_under = gradients(t, backend=backend, trained=self.NAMES)
        assert torch.equal(loss, by_hand)
        assert loss.dtype == torch.float32
        for grad, cast in zip(grads_under, grads, strict=True):
            assert grad.dtype == torch.float32
            torch.testing.assert_close(grad, cast.float(), rtol=2e-2, atol=1e-4)

    def test_sides_of_different_dtypes(self) -> None:
        t = make(9, 67, 8, 12)
        mixed = Tensors(t.student_hidden.bfloat16(), t.student_weight, t.teacher_hidden, t.teacher_weight.bfloat16())
        with pytest.raises(ValueError, match="student_weight"):
            fused_linear_kl(*mixed.arguments())
        with torch.autocast("cpu", torch.bfloat16):
            loss = fused_linear_kl(*mixed.arguments())
        assert torch.equal(loss, fused_linear_kl(*t.to(torch.bfloat16).arguments()))

    @pytest.mark.parametrize("reduction", ["mean", "none"])
    def test_a_backward_inside_is_the_backward_outside(self, reduction: str) -> None:
        t = make(9, 67, 8).to(torch.bfloat16)
        upstream = torch.linspace(0, 1, 9) if reduction == "none" else None
        options = {"backend": "chunked", "trained": self.NAMES, "reduction": reduction, "upstream": upstream}
        outside = gradients(t, **options)
        with torch.autocast("cpu", torch.bfloat16):
            inside = gradients(t, **options)
        assert all(torch.equal(a, b) for a, b in zip(outside[1], inside[1], strict=True))

    def test_float64_and_disabled(self) -> None:
        t = make(9, 67, 8)
        outside = [gradients(x, backend="chunked") for x in (t, t.to(torch.float64))]
        with torch.autocast("cpu", torch.bfloat16):
            double = gradients(t.to(torch.float64), backend="chunked")
            with torch.autocast("cpu", enabled=False):
                single = gradients(t, backend="chunked")
        for (loss, grads), (true, true_grads) in zip((single, double), outside, strict=True):
            assert torch.equal(loss, true)
            assert torch.equal(grads[0], true_grads[0])

    def test_compiled_whole(self) -> None:
        t = make(9, 67, 8)

        def loss(hidden: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return fused_linear_kl(hidden, t.student_weight, t.teacher_hidden, t.teacher_weight)

        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(t.student_hidden), loss(t.student_hidden), rtol=1e-6, atol=0)


def test_the_teacher_is_never_differentiated() -> None:
    t = make(9, 67, 8, 12)
    for tensor in t.arguments():
        tensor.requires_grad_()
    fused_linear_kl(*t.arguments()).backward()
    assert t.teacher_hidden.grad is None
    assert t.teacher_weight.grad is None


def test_without_gradients_none_is_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "times_head", None)
    t = make(9, 67, 8, 12)
    t.student_hidden.requires_grad_()
    with torch.no_grad():
        loss = fused_linear_kl(*t.arguments())
    assert relative_error(loss, truth(t)[0]) < 1e-5


@pytest.mark.parametrize("rows_per_chunk", [1, 5, 12, 13, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_borders_of_chunks(rows_per_chunk: int, dtype: torch.dtype) -> None:
    t = make(13, 67, 8, 12).to(dtype)
    weight = torch.linspace(0, 2, 13)
    tensors = dict(
        zip(("student_hidden", "student_weight", "teacher_hidden", "teacher_weight"), t.arguments(), strict=True)
    )
    problem = Problem(**tensors, row_weight=weight)
    result = chunked.solve(problem, Wanted(True, True, False), rows_per_chunk)
    loss, grads = truth(t, reduction="none", upstream=weight, trained=("student_hidden", "student_weight"))
    assert relative_error(result.loss_rows[1:], loss[1:]) < 1e-5  # row 0 weighs nothing
    assert relative_error(result.grad_hidden, grads[0]) < 3e-3
    assert relative_error(result.grad_weight, grads[1]) < 3e-3


def test_a_vocabulary_of_several_tiles_in_low_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "CPU_TILE", 16)
    t = make(13, 67, 8, 12).to(torch.bfloat16)
    loss, (grad,) = gradients(t, backend="chunked")
    true_loss, (true_grad,) = truth(t)
    assert relative_error(loss, true_loss) < 1e-5
    assert relative_error(grad, true_grad) < 5e-3


REFUSED = {
    "student_hidden": {"student_hidden": torch.zeros(4)},
    "student_weight": {"student_weight": torch.zeros(9, 7)},
    "teacher_hidden": {"teacher_hidden": torch.zeros(5, 8)},
    "teacher_weight": {"teacher_weight": torch.zeros(10, 8)},
    "student_bias": {"student_bias": torch.zeros(8)},
    "teacher_bias": {"teacher_bias": torch.zeros(9, dtype=torch.int64)},
    "valid": {"valid": torch.ones(4)},
    "labels": {"labels": torch.zeros(4, dtype=torch.int32), "label_weight": 0.5},
    "student_weight is torch.float64": {"student_weight": torch.zeros(9, 8, dtype=torch.float64)},
    "student_weight is on meta": {"student_weight": torch.zeros(9, 8, device="meta")},
    "partitioned": {"student_weight": torch.zeros(0)},
    "divergence": {"divergence": "kl"},
    "beta": {"divergence": "jsd", "beta": 1.0},
    "temperature": {"temperature": 0.0},
    "softcap": {"softcap": -1.0},
    "softcap must be positive and finite": {"softcap": float("inf")},
    "temperature must be positive and finite": {"temperature": float("inf")},
    "temperature must be positive and finite, got nan": {"temperature": float("nan")},
    "label_weight must": {"label_weight": float("nan"), "labels": torch.zeros(4, dtype=torch.int64)},
    "beta must": {"divergence": "jsd", "beta": float("nan")},
    "student_hidden must have two dimensions": {"student_hidden": torch.tensor(1.0)},
    "student_weight has no rows": {"student_weight": torch.zeros(0, 8), "teacher_weight": torch.zeros(0, 8)},
    "student_hidden has no columns": {"student_hidden": torch.zeros(4, 0), "student_weight": torch.zeros(9, 0)},
    "label_weight is set": {"label_weight": 0.5},
    "no effect": {"labels": torch.zeros(4, dtype=torch.int64)},
    "reduction": {"reduction": "batchmean"},
    "backend": {"backend": "cuda"},
}


@pytest.mark.parametrize("named", REFUSED)
def test_what_does_not_fit_is_named(named: str) -> None:
    arguments = {"student_hidden": torch.zeros(4, 8), "student_weight": torch.zeros(9, 8),
                 "teacher_hidden": torch.zeros(4, 8), "teacher_weight": torch.zeros(9, 8)}  # fmt: skip
    with pytest.raises(ValueError, match=named):
        fused_linear_kl(**(arguments | REFUSED[named]))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU honours it")
def test_triton_without_a_gpu_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="triton"):
        fused_linear_kl(*make(4, 9, 8).arguments(), backend="triton")


def test_no_rows() -> None:
    t = make(0, 9, 8)
    hidden = t.student_hidden.requires_grad_()
    loss = fused_linear_kl(*t.arguments())
    loss.backward()
    assert loss == 0
    assert hidden.grad.shape == (0, 8)


def test_memory_does_not_grow_with_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the gradient itself, the scratch alone: here 2 * 32 rows, and a block of as many, of the vocabulary."""
    monkeypatch.setattr(scratch, "CPU_SCRATCH_BYTES", 0)
    vocabulary, width = 4096, 16
    peaks = []
    for num_rows in (32, 256):
        t = make(num_rows, vocabulary, width)
        scratch.release_scratch()
        gc.collect()
        with LiveBytes() as counted:
            gradients(t, backend="chunked")
        peaks.append(counted.peak)
    scratch_bytes, small = 3 * 32 * vocabulary * 4, 40 * 256 * width * 4
    assert peaks[0] >= scratch_bytes
    assert max(peaks) <= scratch_bytes + small


def test_scratch_made_in_inference_mode_serves_training() -> None:
    scratch.release_scratch()
    t = make(9, 67, 8)
    with torch.inference_mode():
        fused_linear_kl(*t.arguments())
    gradients(t, backend="chunked")


def test_importing_needs_neither_triton_nor_a_driver() -> None:
    code = "import sys; sys.modules['triton'] = None; import mtllm_kernels; print('triton.language' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
