"""Problems for the kernels' tests, and the float64 truth they are judged by.

Every case runs wherever a backend runs: chunked on the CPU, Triton in its interpreter, and both on a GPU.
"""

import os
from dataclasses import dataclass

import torch
from mtllm_kernels import fused_linear_kl
from torch import Tensor

DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")
# Error allowed in the gradient, relative Frobenius: float32 logits near p_s = p_t; for the others the bound we promise.
GRADIENT_ERROR = {torch.float64: 1e-11, torch.float32: 2e-4, torch.bfloat16: 5e-3, torch.float16: 5e-3}
LOSS_ERROR = 1e-3


@dataclass(frozen=True)
class Run:
    """One backend, on one device, in one dtype."""

    backend: str
    dtype: torch.dtype
    device: str = "cpu"

    def __str__(self) -> str:
        return f"{self.device}-{self.backend}-{str(self.dtype).removeprefix('torch.')}"


def interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def runs() -> list[Run]:
    """What this process can run: the interpreter has a process of its own, and multiplies bfloat16 wrongly."""
    if interpreting():
        return [Run(b, d) for b in ("triton-split", "triton-fused") for d in (torch.float32, torch.float16)]
    return [Run("chunked", d) for d in (torch.float32, torch.bfloat16, torch.float16)]


def gpu_runs() -> list[Run]:
    backends = ("chunked", "triton-split", "triton-fused")
    return [Run(b, d, "cuda") for b in backends for d in (torch.float32, torch.bfloat16, torch.float16)]


@dataclass
class Tensors:
    """hidden (N, D), weight (V, D) of both sides."""

    student_hidden: Tensor
    student_weight: Tensor
    teacher_hidden: Tensor
    teacher_weight: Tensor

    def to(self, dtype: torch.dtype, device: str = "cpu") -> "Tensors":
        shared = self.teacher_weight is self.student_weight
        moved = [t.to(device, dtype) for t in (self.student_hidden, self.student_weight, self.teacher_hidden)]
        return Tensors(*moved, moved[1] if shared else self.teacher_weight.to(device, dtype))

    def arguments(self) -> tuple[Tensor, ...]:
        return self.student_hidden, self.student_weight, self.teacher_hidden, self.teacher_weight


def make(num_rows: int, vocabulary: int, width: int, teacher_width: int | None = None, *, seed: int = 0,
         dtype: torch.dtype = torch.float32, logit_std: float = 2.0) -> Tensors:  # fmt: skip
    """Independent student and teacher, with logits of the given standard deviation; teacher_width None: a shared head."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, std: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=generator) * std).to(dtype)

    student_weight = normal(vocabulary, width, std=logit_std * width**-0.5)
    student_hidden = normal(num_rows, width)
    if teacher_width is None:
        return Tensors(student_hidden, student_weight, normal(num_rows, width), student_weight)
    teacher_weight = normal(vocabulary, teacher_width, std=logit_std * teacher_width**-0.5)
    return Tensors(student_hidden, student_weight, normal(num_rows, teacher_width), teacher_weight)


def make_close(num_rows: int, vocabulary: int, width: int, kl: float, *, seed: int = 0,
               dtype: torch.dtype = torch.float32, logit_std: float = 2.0) -> Tensors:  # fmt: skip
    """A shared head and a teacher whose hidden states differ by the noise that makes the mean forward KL about `kl`."""
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.randn(vocabulary, width, generator=generator) * logit_std * width**-0.5).to(dtype)
    student = torch.randn(num_rows, width, generator=generator)
    noise = torch.randn(num_rows, width, generator=generator)
    low, high = 0.0, 4.0
    for _ in range(30):
        middle = (low + high) / 2
        args = (student.double(), weight.double(), (student + middle * noise).double(), weight.double())
        low, high = (middle, high) if fused_linear_kl(*args, backend="chunked") < kl else (low, middle)
    return Tensors(student.to(dtype), weight, (student + high * noise).to(dtype), weight)


def gradients(tensors: Tensors, *, upstream: Tensor | None = None, trained: tuple[str, ...] = ("student_hidden",),
              **options) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """Loss and the gradients of the `trained` tensors (names of Tensors or "student_bias")."""
    shared = tensors.teacher_weight is tensors.student_weight
    leaf = Tensors(*tensors.arguments())
    for name in trained:
        if name == "student_bias":
            options[name] = options[name].detach().clone().requires_grad_()
        else:
            setattr(leaf, name, getattr(leaf, name).detach().clone().requires_grad_())
    if shared:
        leaf.teacher_weight = leaf.student_weight
    loss = fused_linear_kl(*leaf.arguments(), **options)
    wanted = [options[n] if n == "student_bias" else getattr(leaf, n) for n in trained]
    return loss.detach(), list(torch.autograd.grad(loss, wanted, grad_outputs=upstream))


def truth(
    tensors: Tensors, *, upstream: Tensor | None = None, device: str = "cpu", **options
) -> tuple[Tensor, list[Tensor]]:
    """The same in float64 by automatic differentiation, from the very values the tensors hold."""
    for name in ("student_bias", "teacher_bias", "valid", "labels"):
        if options.get(name) is not None:
            options[name] = options[name].to(device).double() if "bias" in name else options[name].to(device)
    upstream = None if upstream is None else upstream.to(device).double()
    return gradients(tensors.to(torch.float64, device), upstream=upstream, **(options | {"backend": "reference"}))


def relative_error(value: Tensor, true: Tensor) -> float:
    """Frobenius norm of the difference over that of the truth; 0 if both are zero."""
    value, true = value.detach().cpu().double(), true.detach().cpu().double()
    difference = (value - true).norm().item()
    return difference / true.norm().item() if difference else 0.0


def check(run: Run, tensors: Tensors, *, floor: float = 0.0, **options) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients of the run, having asserted that they are as close to the truth as they must be.

    `floor`: an error of a gradient's norm that is allowed whatever that norm, for gradients that all but vanish.
    """
    tensors = tensors.to(run.dtype, run.device)
    options = {k: v.to(run.device) if isinstance(v, Tensor) else v for k, v in options.items()}
    loss, grads = gradients(tensors, backend=run.backend, **options)
    true_loss, true_grads = truth(tensors, **options)
    assert relative_error(loss, true_loss) <= LOSS_ERROR
    for grad, true in zip(grads, true_grads, strict=True):
        assert grad.isfinite().all()
        assert relative_error(grad, true) <= GRADIENT_ERROR[run.dtype] + floor / max(true.norm().item(), 1e-30)
    return loss, grads
