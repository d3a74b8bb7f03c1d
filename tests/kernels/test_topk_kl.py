"""fused_topk_kl on every backend, judged by float64."""

import math

import pytest
import torch
from kernel_cases import GRADIENT_ERROR, LOSS_ERROR, Run, interpreting, make, relative_error
from mtllm_kernels import fused_linear_kl, fused_topk_kl
from mtllm_kernels.common.chunks import Wanted
from mtllm_kernels.common.operator import Call
from mtllm_kernels.topk_kl import chunked
from mtllm_kernels.topk_kl.function import topk_kl
from mtllm_kernels.topk_kl.problem import TopkProblem
from torch import Tensor

VOCABULARY = 1003


@pytest.fixture
def backend(run: Run) -> str:
    """This function has one Triton plan only."""
    if run.backend == "triton-fused":
        pytest.skip("fused_topk_kl has one Triton plan")
    return "triton" if run.backend == "triton-split" else run.backend


def targets(
    num_rows: int, k: int, vocabulary: int = VOCABULARY, *, like: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The k likeliest tokens of a random teacher, or of logits `like` a student's, and their log-probabilities."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(num_rows, vocabulary, generator=generator, dtype=torch.float64) * 2
    log_probs, ids = (logits if like is None else like + 0.02 * logits).log_softmax(-1).topk(k)
    return ids, log_probs.float()


def solved(
    hidden: Tensor, weight: Tensor, ids: Tensor, log_probs: Tensor, *, upstream: Tensor | None = None, **options
):
    hidden, weight = (x.detach().clone().requires_grad_() for x in (hidden, weight))
    loss = fused_topk_kl(hidden, weight, ids, log_probs, **options)
    return loss.detach(), *torch.autograd.grad(loss, (hidden, weight), upstream)


def check(run: Run, backend: str, hidden: Tensor, weight: Tensor, ids: Tensor, log_probs: Tensor, **options):
    hidden, weight = hidden.to(run.device, run.dtype), weight.to(run.device, run.dtype)
    options = {k: v.to(run.device) if isinstance(v, Tensor) else v for k, v in options.items()}
    got = solved(hidden, weight, ids.to(run.device), log_probs.to(run.device), backend=backend, **options)
    options = {k: v.cpu() if isinstance(v, Tensor) else v for k, v in options.items()}
    if "upstream" in options:
        options["upstream"] = options["upstream"].double()
    true = solved(hidden.cpu().double(), weight.cpu().double(), ids, log_probs.double(), backend="reference", **options)
    assert relative_error(got[0], true[0]) <= LOSS_ERROR
    for grad, true_grad in zip(got[1:], true[1:], strict=True):
        assert relative_error(grad, true_grad) <= GRADIENT_ERROR[run.dtype]
    return got


@pytest.mark.parametrize("k", [1, 8, 64])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_against_the_truth(run: Run, backend: str, k: int, temperature: float) -> None:
    t = make(13, VOCABULARY, 24)
    check(run, backend, t.student_hidden, t.student_weight, *targets(13, k), temperature=temperature)


def test_when_student_and_teacher_all_but_agree(run: Run, backend: str) -> None:
    t = make(13, VOCABULARY, 24).to(run.dtype)
    logits = t.student_hidden.double() @ t.student_weight.double().T
    check(run, backend, t.student_hidden, t.student_weight, *targets(13, 16, like=logits))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reductions_and_rows_that_do_not_count(run: Run, backend: str, reduction: str) -> None:
    t, valid = make(13, VOCABULARY, 24), torch.arange(13) % 4 != 1
    t.student_hidden[1] = math.nan
    upstream = {"upstream": torch.linspace(-1, 2, 13)} if reduction == "none" else {}
    args = (t.student_hidden, t.student_weight, *targets(13, 8))
    _, grad, _ = check(run, backend, *args, valid=valid, reduction=reduction, **upstream)
    assert (grad[~valid] == 0).all()


def test_no_valid_row(run: Run, backend: str) -> None:
    t, valid = make(3, VOCABULARY, 24).to(run.dtype, run.device), torch.zeros(3, dtype=torch.bool, device=run.device)
    ids, log_probs = (x.to(run.device) for x in targets(3, 8))
    loss, *grads = solved(t.student_hidden, t.student_weight, ids, log_probs, valid=valid, backend=backend)
    assert loss == 0
    assert all((grad == 0).all() for grad in grads)


def test_peaked_student_and_empty_slots(run: Run, backend: str) -> None:
    t = make(13, VOCABULARY, 24, logit_std=40.0)
    ids, log_probs = targets(13, 8)
    log_probs[:, 5:] = -math.inf
    check(run, backend, t.student_hidden, t.student_weight, ids, log_probs)


def test_all_tokens_kept_is_the_forward_kl(run: Run, backend: str) -> None:
    """No tail at all: the loss of fused_linear_kl."""
    t = make(5, 64, 24).to(run.dtype, run.device)
    logits = t.teacher_hidden.double() @ t.teacher_weight.double().T
    log_probs, ids = logits.log_softmax(-1).topk(64)
    loss = fused_topk_kl(t.student_hidden, t.student_weight, ids, log_probs.float(), backend=backend)
    true = fused_linear_kl(*(x.cpu().double() for x in t.arguments()), backend="reference")
    assert relative_error(loss, true) <= LOSS_ERROR


@pytest.mark.skipif(interpreting(), reason="needs no interpreter")
class TestInterface:
    @pytest.mark.parametrize("backend", ["reference", "chunked"])
    def test_gradcheck(self, backend: str) -> None:
        t, (ids, log_probs) = make(3, 11, 4, dtype=torch.float64), targets(3, 4, 11)
        inputs = t.student_hidden.requires_grad_(), t.student_weight.requires_grad_()
        options = {"backend": backend, "reduction": "none", "temperature": 1.5}
        assert torch.autograd.gradcheck(lambda h, w: fused_topk_kl(h, w, ids, log_probs.double(), **options), inputs)

    @pytest.mark.parametrize("per_row", [False, True])
    def test_opcheck(self, per_row: bool) -> None:
        t, (ids, log_probs) = make(5, 37, 8), targets(5, 4, 37)
        problem = TopkProblem(
            student_hidden=t.student_hidden.requires_grad_(), student_weight=t.student_weight.requires_grad_(),
            row_weight=torch.rand(5), topk_ids=ids, topk_log_probs=log_probs, temperature=2.0,
        )  # fmt: skip
        call = Call(problem, Wanted(True, True, False), per_row=per_row, backend="chunked")
        torch.library.opcheck(topk_kl.operator, topk_kl.flat(call))

    def test_compiled_whole_equals_eager(self) -> None:
        t, (ids, log_probs) = make(5, 37, 8), targets(5, 4, 37)
        hidden = t.student_hidden.requires_grad_()

        def loss(hidden):
            return fused_topk_kl(hidden, t.student_weight, ids, log_probs)

        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(hidden), loss(hidden), rtol=1e-6, atol=0)
        grads = [torch.autograd.grad(f(hidden), hidden)[0] for f in (loss, compiled)]
        torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-7)

    def test_borders_of_chunks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        t, (ids, log_probs) = make(13, 37, 8), targets(13, 4, 37)
        whole = solved(t.student_hidden, t.student_weight, ids, log_probs)
        monkeypatch.setattr(chunked, "chunk_rows", lambda problem, num_matrices: 5)
        for one, other in zip(whole, solved(t.student_hidden, t.student_weight, ids, log_probs), strict=True):
            assert relative_error(other, one) < 1e-5

    @pytest.mark.parametrize(("named", "wrong"), [
        ("topk_ids", {"topk_ids": torch.zeros(5, 4)}),
        ("topk_ids has 40", {"topk_ids": torch.zeros(5, 40, dtype=torch.int64), "topk_log_probs": torch.zeros(5, 40)}),
        ("topk_log_probs", {"topk_log_probs": torch.zeros(5, 3)}),
        ("student_weight", {"student_weight": torch.zeros(37, 9)}),
        ("temperature", {"temperature": -1.0}),
        ("backend", {"backend": "triton-fused"}),
    ])  # fmt: skip
    def test_what_does_not_fit_is_named(self, named: str, wrong: dict) -> None:
        t, (ids, log_probs) = make(5, 37, 8), targets(5, 4, 37)
        arguments = {"student_hidden": t.student_hidden, "student_weight": t.student_weight, "topk_ids": ids,
                     "topk_log_probs": log_probs}  # fmt: skip
        with pytest.raises(ValueError, match=named):
            fused_topk_kl(**(arguments | wrong))
