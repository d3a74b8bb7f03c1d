"""fused_linear_kl on inputs that break kernels: NaN, infinities, extreme settings, float16's range. Judged by float64."""

import dataclasses
import math

import pytest
import torch
from kernel_cases import (
    DIVERGENCES,
    GRADIENT_ERROR,
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
from mtllm_kernels.linear_kl.function import linear_kl
from mtllm_kernels.linear_kl.problem import Problem

VOCABULARY = 8 * 33 + 6


def without_options(run: Run) -> None:
    if run.backend == "triton-fused":
        pytest.skip("this plan refuses biases and labels")


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("side", ["student_hidden", "teacher_hidden"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_stays_in_its_row_and_is_seen(run: Run, divergence: str, side: str, value: float) -> None:
    tensors = make(5, VOCABULARY, 24, 40)
    getattr(tensors, side)[2, 3] = value
    tensors, others = tensors.to(run.dtype, run.device), [0, 1, 3, 4]
    options = {"divergence": divergence, "reduction": "none"}
    ones = torch.ones(5, device=run.device)
    loss, (grad,) = gradients(tensors, upstream=ones, backend=run.backend, **options)
    assert loss[2].isnan()
    assert grad[2].isnan().all()
    some = Tensors(
        tensors.student_hidden[others], tensors.student_weight, tensors.teacher_hidden[others], tensors.teacher_weight
    )
    true_loss, (true_grad,) = truth(some, upstream=ones[:4], **options)
    assert relative_error(loss[others], true_loss) <= LOSS_ERROR
    assert relative_error(grad[others], true_grad) <= GRADIENT_ERROR[run.dtype]


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("where", ["student_weight", "teacher_weight", "student_bias"])
def test_nan_in_a_head_is_seen_in_every_row(run: Run, divergence: str, where: str) -> None:
    tensors, options = make(3, VOCABULARY, 24, 40), {}
    if where == "student_bias":
        without_options(run)
        options["student_bias"] = torch.zeros(VOCABULARY, device=run.device).index_fill(
            0, torch.tensor(7, device=run.device), math.nan
        )
    else:
        getattr(tensors, where)[7, 1] = math.nan
    tensors, ones = tensors.to(run.dtype, run.device), torch.ones(3, device=run.device)
    loss, (grad,) = gradients(
        tensors, upstream=ones, backend=run.backend, divergence=divergence, reduction="none", **options
    )
    assert loss.isnan().all()
    assert grad.isnan().all()


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize(("temperature", "scaled"), [(0.05, False), (0.2, False), (20.0, True)])
def test_gradients_beyond_one(run: Run, divergence: str, temperature: float, scaled: bool) -> None:
    """q grows as 1 / T, or as T, and for reverse_kl with the divergence itself: more than a fixed scale of float16 holds."""
    options = {"divergence": divergence, "temperature": temperature, "scale_by_temperature": scaled}
    check(run, make(8, VOCABULARY, 24, 40, logit_std=0.5), trained=("student_hidden", "student_weight"), **options)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_large_loss_scale_reaches_small_gradients(run: Run, divergence: str) -> None:
    """The mean over 8192 tokens is below float16's subnormals until the loss scale comes in."""
    tensors = make_close(12, VOCABULARY, 24, 3e-3, dtype=run.dtype).to(run.dtype, run.device)
    hidden, weight = tensors.student_hidden.requires_grad_(), tensors.student_weight.requires_grad_()
    problem = Problem(
        student_hidden=hidden, student_weight=weight, teacher_hidden=tensors.teacher_hidden, teacher_weight=None,
        row_weight=torch.full((12,), 1 / 8192, device=run.device), divergence=divergence,
    )  # fmt: skip
    loss = linear_kl(problem, per_row=False, backend=run.backend)
    grads = torch.autograd.grad(loss, (hidden, weight), torch.tensor(65536.0, device=run.device))
    names = ("student_hidden", "student_weight")
    true_loss, true_grads = truth(tensors, device=run.device, divergence=divergence, trained=names, reduction="sum")
    assert relative_error(8192 * loss, true_loss) <= LOSS_ERROR
    for grad, true in zip(grads, true_grads, strict=True):
        assert relative_error(grad / 8, true) <= GRADIENT_ERROR[run.dtype]


@pytest.mark.parametrize("logit_std", [2.0, 5.0])
def test_reverse_kl_of_hundreds(run: Run, logit_std: float) -> None:
    check(run, make(8, VOCABULARY, 24, 40, logit_std=logit_std), divergence="reverse_kl", temperature=0.1)


@pytest.mark.parametrize("beta", [1e-9, 1e-4, 1 - 1e-4, 1 - 1e-9])
@pytest.mark.parametrize("logit_std", [2.0, 12.0])
def test_beta_near_its_limits(run: Run, beta: float, logit_std: float) -> None:
    """Loss and gradient vanish with the smaller share; float32 holds that of the loss to 1e-8."""
    tensors = make(8, VOCABULARY, 24, 40, logit_std=logit_std).to(run.dtype, run.device)
    options = {"divergence": "jsd", "beta": beta, "upstream": torch.tensor(1 / min(beta, 1 - beta), device=run.device)}
    loss, (grad,) = gradients(tensors, backend=run.backend, **options)
    true_loss, (true_grad,) = truth(tensors, device=run.device, **options)
    assert abs(loss.double() - true_loss) <= LOSS_ERROR * true_loss + 1e-8
    assert relative_error(grad, true_grad) <= GRADIENT_ERROR[run.dtype]


@pytest.mark.parametrize("beta", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("logit_std", [7.0, 9.0])
def test_saturated_jsd(run: Run, beta: float, logit_std: float) -> None:
    """The sides have next to nothing in common; what is left of the gradient is to be relatively right."""
    check(run, make(16, 2000, 64, 64, logit_std=logit_std), divergence="jsd", beta=beta)


@pytest.mark.parametrize("kl", [3e-2, 3e-3, 3e-4])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("size", [3.0, 6.0, 9.0])
def test_one_outlier_token(run: Run, divergence: str, kl: float, size: float) -> None:
    """The sides agree but for one token of small probability, whose logits are far apart."""
    tensors = make_close(8, VOCABULARY, 24, kl)
    for hidden in (tensors.student_hidden, tensors.teacher_hidden):
        hidden[:, 0] = 1.0
    weight = tensors.student_weight
    weight[:, 0] = 0.0
    teacher_weight = weight.clone()
    weight[5], teacher_weight[5] = 0.0, 0.0
    weight[5, 0], teacher_weight[5, 0] = -1.0, -1.0 - size
    check(run, dataclasses.replace(tensors, teacher_weight=teacher_weight), divergence=divergence)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("offset", [1e4, 1e6])
def test_offsets_of_a_bias(run: Run, divergence: str, offset: float) -> None:
    without_options(run)
    bias = torch.linspace(-1, 1, VOCABULARY)
    options = {
        "student_bias": bias + offset,
        "teacher_bias": bias - offset,
        "labels": torch.arange(8),
        "label_weight": 0.5,
    }
    check(
        run, make(8, VOCABULARY, 24, 40), divergence=divergence, trained=("student_hidden", "student_bias"), **options
    )


@pytest.mark.parametrize(("divergence", "lacking"), [("forward_kl", "student_bias"), ("reverse_kl", "teacher_bias")])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 10.0])
@pytest.mark.parametrize("logit", [0.0, -30.0])
def test_a_column_that_one_side_lacks_is_infinite_however_unlikely(
    run: Run, divergence: str, lacking: str, temperature: float, logit: float
) -> None:
    without_options(run)
    biases = {name: torch.zeros(VOCABULARY, device=run.device) for name in ("student_bias", "teacher_bias")}
    for name, bias in biases.items():
        bias[7] = -math.inf if name == lacking else logit
    tensors = make(3, VOCABULARY, 24, 40).to(run.dtype, run.device)
    options = {"divergence": divergence, "temperature": temperature, "reduction": "none", **biases}
    ones = torch.ones(3, device=run.device)
    assert (gradients(tensors, backend=run.backend, upstream=ones, **options)[0] == math.inf).all()
    labels = torch.tensor([0, 1, 2])
    check(run, tensors, **(options | {"reduction": "mean", "labels": labels, "label_weight": 1.0}))


def test_labels_of_rows_that_are_not_there(run: Run) -> None:
    without_options(run)
    options = {"labels": torch.tensor([0, -1, 2, VOCABULARY]), "label_weight": 0.5}
    check(run, make(4, VOCABULARY, 24), valid=torch.tensor([True, False, True, False]), **options)


@pytest.mark.parametrize("label", [-1, -99, VOCABULARY, 2**40])
def test_labels_outside_of_the_vocabulary(run: Run, label: int) -> None:
    """An error where it costs nothing, NaN of that row where it would cost a synchronisation."""
    without_options(run)
    tensors = make(3, VOCABULARY, 24).to(run.dtype, run.device)
    options = {"labels": torch.tensor([0, label, 2], device=run.device), "label_weight": 0.5, "reduction": "none"}
    options |= {"backend": run.backend, "upstream": torch.ones(3, device=run.device)}
    if run.device == "cpu":
        with pytest.raises(ValueError, match=r"labels must lie in .* row 1 of 3"):
            gradients(tensors, **options)
    else:
        loss, (grad,) = gradients(tensors, **options)
        assert loss.isnan().tolist() == grad.isnan().any(-1).tolist() == [False, True, False]
