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


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0, 10.0])
def test_all_tokens_kept_at_any_temperature(run: Run, backend: str, temperature: float) -> None:
    """Rounding may leave the teacher's tail a mass of 1e-7; there is no token that it could lie on."""
    t = make(16, 16, 24)
    ids, log_probs = targets(16, 16, 16)
    check(
        run,
        backend,
        t.student_hidden,
        t.student_weight,
        ids,
        log_probs + 1e-6 * torch.randn(16, 16),
        temperature=temperature,
    )


def test_empty_slots_leave_their_tokens_in_the_tail(run: Run, backend: str) -> None:
    """Eight slots of which three are empty are five slots, whatever the ids in the empty ones."""
    t = make(6, VOCABULARY, 24).to(run.dtype, run.device)
    ids, log_probs = (x.to(run.device) for x in targets(6, 8))
    five = solved(t.student_hidden, t.student_weight, ids[:, :5], log_probs[:, :5], backend=backend)
    for strange in (ids[:, 5:], ids[:, :3], torch.full_like(ids[:, 5:], -1), torch.full_like(ids[:, 5:], VOCABULARY)):
        eight = (
            torch.cat((ids[:, :5], strange), 1),
            log_probs.index_fill(1, torch.arange(5, 8, device=run.device), -math.inf),
        )
        for one, other in zip(solved(t.student_hidden, t.student_weight, *eight, backend=backend), five, strict=True):
            assert relative_error(one, other) <= 1e-6


def test_a_row_of_empty_slots_costs_nothing(run: Run, backend: str) -> None:
    t = make(3, VOCABULARY, 24).to(run.dtype, run.device)
    ids, log_probs = (x.to(run.device) for x in targets(3, 8))
    log_probs[1] = -math.inf
    options = {"backend": backend, "reduction": "none", "upstream": torch.ones(3, device=run.device)}
    loss, grad, _ = solved(t.student_hidden, t.student_weight, ids, log_probs, **options)
    assert abs(loss[1]) < 1e-6
    assert grad[1].abs().max() < 1e-6


def test_rows_that_are_not_there_may_hold_anything(run: Run, backend: str) -> None:
    t, valid = make(5, VOCABULARY, 24), torch.tensor([True, False, True, False, False])
    ids, log_probs = targets(5, 8)
    ids[1], ids[3], ids[4] = -1, VOCABULARY, 7
    log_probs[3], log_probs[4] = math.nan, 5.0
    t.student_hidden[4] = math.inf
    clean = ids.masked_fill(~valid[:, None], 0), log_probs.masked_fill(~valid[:, None], -math.inf)
    options = {"valid": valid.to(run.device), "backend": backend}
    hidden, weight = t.student_hidden.to(run.device, run.dtype), t.student_weight.to(run.device, run.dtype)
    got = solved(hidden, weight, ids.to(run.device), log_probs.to(run.device), **options)
    finite = hidden.masked_fill(~valid.to(run.device)[:, None], 0.0)
    for one, other in zip(got, solved(finite, weight, *(x.to(run.device) for x in clean), **options), strict=True):
        assert torch.equal(one, other)


WRONG = {
    "must lie in": lambda ids, log_probs: (ids.index_fill(1, torch.tensor(2), -1), log_probs),
    r"must lie in \[0, 1003\)": lambda ids, log_probs: (ids.index_fill(1, torch.tensor(2), VOCABULARY), log_probs),
    "twice": lambda ids, log_probs: (torch.cat((ids[:, :7], ids[:, :1]), 1), log_probs),
    "no log-probabilities": lambda ids, log_probs: (ids, log_probs.exp()),
}


@pytest.mark.parametrize("named", WRONG)
def test_wrong_targets(run: Run, backend: str, named: str) -> None:
    """An error where it costs nothing, NaN of that row where it would cost a synchronisation."""
    t, (ids, log_probs) = make(4, VOCABULARY, 24).to(run.dtype, run.device), targets(4, 8)
    wrong = WRONG[named](ids, log_probs)
    ids[2], log_probs[2] = wrong[0][2], wrong[1][2]
    arguments = (t.student_hidden, t.student_weight, ids.to(run.device), log_probs.to(run.device))
    options = {"backend": backend, "reduction": "none", "upstream": torch.ones(4, device=run.device)}
    if run.device == "cpu":
        with pytest.raises(ValueError, match=named + ".*row 2 of 4"):
            solved(*arguments, **options)
    else:
        loss, grad, _ = solved(*arguments, **options)
        assert loss.isnan().tolist() == grad.isnan().any(-1).tolist() == [False, False, True, False]


@pytest.mark.parametrize("side", ["student_hidden", "topk_log_probs"])
def test_nan_stays_in_its_row_and_is_seen(run: Run, backend: str, side: str) -> None:
    t, (ids, log_probs) = make(3, VOCABULARY, 24), targets(3, 8)
    (t.student_hidden if side == "student_hidden" else log_probs)[1, 2] = math.nan
    t = t.to(run.dtype, run.device)
    options = {"backend": backend, "reduction": "none", "upstream": torch.ones(3, device=run.device)}
    loss, grad, _ = solved(t.student_hidden, t.student_weight, ids.to(run.device), log_probs.to(run.device), **options)
    assert loss.isnan().tolist() == grad.isnan().all(-1).tolist() == [False, True, False]


@pytest.mark.parametrize("temperature", [0.05, 20.0])
def test_gradients_beyond_one(run: Run, backend: str, temperature: float) -> None:
    t = make(6, VOCABULARY, 24, logit_std=0.3)
    check(run, backend, t.student_hidden, t.student_weight, *targets(6, 8), temperature=temperature)


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
        ("temperature", {"temperature": math.inf}),
        ("student_hidden", {"student_hidden": torch.tensor(1.0)}),
        ("vocabulary is empty", {"student_weight": torch.zeros(0, 8)}),
        ("no columns", {"topk_ids": torch.zeros(5, 0, dtype=torch.int64), "topk_log_probs": torch.zeros(5, 0)}),
        ("backend", {"backend": "triton-fused"}),
    ])  # fmt: skip
    def test_what_does_not_fit_is_named(self, named: str, wrong: dict) -> None:
        t, (ids, log_probs) = make(5, 37, 8), targets(5, 4, 37)
        arguments = {"student_hidden": t.student_hidden, "student_weight": t.student_weight, "topk_ids": ids,
                     "topk_log_probs": log_probs}  # fmt: skip
        with pytest.raises(ValueError, match=named):
            fused_topk_kl(**(arguments | wrong))
