"""What every backend of fused_linear_kl must get right, judged by float64."""

import math

import pytest
import torch
from kernel_cases import (
    DIVERGENCES,
    LOSS_ERROR,
    Run,
    Tensors,
    check,
    gradients,
    make,
    make_close,
    relative_error,
    truth,
)

ODD_VOCABULARY, EVEN_VOCABULARY = 1003, 8 * 52 + 6


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("kl", [1.2, 0.3, 3e-2, 3e-3, 3e-4])
def test_error_does_not_grow_as_the_sides_meet(run: Run, divergence: str, kl: float) -> None:
    check(run, make_close(12, 512, 64, kl, dtype=run.dtype), divergence=divergence)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("vocabulary", [ODD_VOCABULARY, EVEN_VOCABULARY])
@pytest.mark.parametrize(("width", "teacher_width"), [(24, 40), (33, None)])
def test_odd_sizes(run: Run, divergence: str, vocabulary: int, width: int, teacher_width: int | None) -> None:
    tensors = make(7, vocabulary, width, teacher_width)
    check(run, tensors, divergence=divergence, beta=0.3, temperature=2.0, scale_by_temperature=True)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reductions_and_rows_that_do_not_count(run: Run, reduction: str) -> None:
    valid = torch.arange(37) % 3 != 1
    upstream = torch.linspace(-1, 2, 37).to(run.device) if reduction == "none" else None
    tensors = make(37, ODD_VOCABULARY, 24)
    tensors.student_hidden[1] = math.nan
    tensors.teacher_hidden[4] = math.inf
    loss, (grad,) = check(run, tensors, valid=valid, reduction=reduction, upstream=upstream)
    assert (grad[~valid] == 0).all()
    assert reduction != "none" or (loss[~valid] == 0).all()


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_no_valid_row(run: Run, divergence: str) -> None:
    tensors = make(5, EVEN_VOCABULARY, 24).to(run.dtype, run.device)
    valid = torch.zeros(5, dtype=torch.bool, device=run.device)
    names = ("student_hidden", "student_weight")
    loss, grads = gradients(tensors, backend=run.backend, valid=valid, divergence=divergence, trained=names)
    assert loss == 0
    assert all((grad == 0).all() for grad in grads)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_same_distribution_twice(run: Run, divergence: str) -> None:
    tensors = make(9, EVEN_VOCABULARY, 24).to(run.dtype, run.device)
    tensors.teacher_hidden = tensors.student_hidden
    loss, (grad,) = gradients(tensors, backend=run.backend, divergence=divergence)
    assert abs(loss) < 1e-6
    assert grad.abs().max() < 1e-6


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("logit_std", [12.0, 60.0])
def test_peaked_softmax(run: Run, divergence: str, logit_std: float) -> None:
    """One side's probability of the other side's likeliest token may lie far below what exp can hold in float32.

    The divergence "jsd" saturates there: its true gradient is 1e-16 of the loss.
    """
    check(run, make(8, EVEN_VOCABULARY, 24, 40, logit_std=logit_std), divergence=divergence, floor=1e-5)


@pytest.mark.parametrize("trained", [
    ("student_hidden",), ("student_weight",), ("student_bias",), ("student_hidden", "student_weight"),
    ("student_hidden", "student_bias"), ("student_weight", "student_bias"),
    ("student_hidden", "student_weight", "student_bias"),
])  # fmt: skip
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_every_subset_of_gradients(run: Run, trained: tuple[str, ...], reduction: str) -> None:
    if run.backend == "triton-fused" and "student_bias" in trained:
        pytest.skip("this plan refuses biases")
    bias = {"student_bias": torch.linspace(-1, 1, ODD_VOCABULARY)} if "student_bias" in trained else {}
    upstream = torch.linspace(-1, 2, 9).to(run.device) if reduction == "none" else None
    tensors, valid = make(9, ODD_VOCABULARY, 24, 40), torch.arange(9) != 3
    check(run, tensors, trained=trained, reduction=reduction, upstream=upstream, valid=valid, **bias)


OPTIONS = {
    "bias": {
        "student_bias": torch.linspace(-1, 1, EVEN_VOCABULARY),
        "teacher_bias": torch.linspace(1, -2, EVEN_VOCABULARY),
    },
    "softcap": {"softcap": 3.0},
    "labels": {"labels": torch.arange(11).where(torch.arange(11) % 4 != 0, -100), "label_weight": 0.4},
    "labels_only": {"labels": torch.arange(11), "label_weight": 1.0},
}
OPTIONS["all"] = OPTIONS["bias"] | OPTIONS["softcap"] | OPTIONS["labels"]


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("option", OPTIONS)
def test_options(run: Run, divergence: str, option: str) -> None:
    options = {"divergence": divergence, "temperature": 1.5, **OPTIONS[option]}
    tensors = make(11, EVEN_VOCABULARY, 24, 40)
    if run.backend == "triton-fused":
        with pytest.raises(NotImplementedError, match=r"student_bias|softcap|labels"):
            check(run, tensors, **options)
    else:
        check(run, tensors, trained=("student_hidden", "student_weight"), **options)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_columns_removed_by_minus_infinity(run: Run, divergence: str) -> None:
    """As if the columns were not there at all."""
    if run.backend == "triton-fused":
        pytest.skip("this plan refuses biases")
    kept = torch.arange(EVEN_VOCABULARY) % 5 != 2
    bias = torch.zeros(EVEN_VOCABULARY).masked_fill(~kept, -math.inf)
    tensors = make(11, EVEN_VOCABULARY, 24, 40).to(run.dtype, run.device)
    smaller = Tensors(
        tensors.student_hidden, tensors.student_weight[kept], tensors.teacher_hidden, tensors.teacher_weight[kept]
    )
    options = {"backend": run.backend, "divergence": divergence}
    loss, (grad,) = gradients(tensors, student_bias=bias.to(run.device), teacher_bias=bias.to(run.device), **options)
    true_loss, (true_grad,) = truth(smaller, divergence=divergence)
    assert relative_error(loss, true_loss) <= LOSS_ERROR
    assert relative_error(grad, true_grad) <= 5e-3


def test_a_column_the_student_alone_lacks(run: Run) -> None:
    if run.backend == "triton-fused":
        pytest.skip("this plan refuses biases")
    bias = torch.zeros(EVEN_VOCABULARY, device=run.device)
    bias[17] = -math.inf
    tensors = make(3, EVEN_VOCABULARY, 24).to(run.dtype, run.device)
    options = {"backend": run.backend, "student_bias": bias}
    assert gradients(tensors, divergence="forward_kl", **options)[0] == math.inf
    check(run, tensors, divergence="reverse_kl", student_bias=bias)
    check(run, tensors, divergence="jsd", student_bias=bias)


def test_rows_may_come_in_any_order(run: Run) -> None:
    """Loss and gradient of a row depend on that row alone, to the last bit."""
    tensors = make(37, ODD_VOCABULARY, 24).to(run.dtype, run.device)
    order = torch.randperm(37, generator=torch.Generator().manual_seed(1)).to(run.device)
    permuted = Tensors(
        tensors.student_hidden[order], tensors.student_weight, tensors.teacher_hidden[order], tensors.teacher_weight
    )
    ones = torch.ones(37, device=run.device)
    loss, (grad,) = gradients(tensors, backend=run.backend, reduction="none", upstream=ones)
    loss_permuted, (grad_permuted,) = gradients(permuted, backend=run.backend, reduction="none", upstream=ones)
    assert torch.equal(loss[order], loss_permuted)
    assert torch.equal(grad[order], grad_permuted)


def test_two_runs_agree_to_the_last_bit(run: Run) -> None:
    tensors = make(21, ODD_VOCABULARY, 24, 40).to(run.dtype, run.device)
    names = ("student_hidden", "student_weight")
    loss, grads = gradients(tensors, backend=run.backend, trained=names, divergence="jsd")
    again, grads_again = gradients(tensors, backend=run.backend, trained=names, divergence="jsd")
    assert torch.equal(loss, again)
    assert all(torch.equal(a, b) for a, b in zip(grads, grads_again, strict=True))


def test_views_are_as_good_as_tensors(run: Run) -> None:
    """Transposed, sliced and strided inputs: the same numbers as their contiguous copies."""
    tensors = make(9, EVEN_VOCABULARY, 24, 40).to(run.dtype, run.device)
    wide = torch.zeros(9, 3 * 24, dtype=run.dtype, device=run.device)
    wide[:, 1::3] = tensors.student_hidden
    views = Tensors(
        wide[:, 1::3],
        tensors.student_weight.T.contiguous().T,
        tensors.teacher_hidden.repeat(1, 2)[:, 40:],
        tensors.teacher_weight.repeat_interleave(2, 0)[::2],
    )
    loss, (grad,) = gradients(tensors, backend=run.backend)
    loss_views, (grad_views,) = gradients(views, backend=run.backend)
    torch.testing.assert_close(loss_views, loss, rtol=1e-5, atol=0)
    assert relative_error(grad_views, grad) <= (1e-5 if run.dtype == torch.float32 else 5e-3)
