"""What is compared: ways to get the loss and the gradient of the hidden states, from the same tensors.

Each peer is called as its own documentation says, with its own defaults, at the divergence it offers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from mtllm_kernels import fused_linear_kl
from mtllm_kernels.common.backend import interpreting
from torch import Tensor

from benchmarks.kernels.rehearsal import rehearsing

LIGER_BETA = {"forward_kl": 0.0, "reverse_kl": 1.0, "jsd": 0.5}  # its limits are the two KLs
OURS = "ours"


@dataclass
class Inputs:
    """hidden (N, D) of both sides and one frozen head (V, D) that they share."""

    student_hidden: Tensor
    teacher_hidden: Tensor
    weight: Tensor
    divergence: str = "forward_kl"


Variant = Callable[[Inputs], Tensor]  # -> the scalar loss, mean over rows, differentiable


def ours(backend: str) -> Variant:
    def loss(x: Inputs) -> Tensor:
        return fused_linear_kl(
            x.student_hidden, x.weight, x.teacher_hidden, x.weight, divergence=x.divergence, backend=backend
        )

    return loss


def compiled_eager() -> Variant:
    loss = torch.compile(lambda s, w, t, d: fused_linear_kl(s, w, t, w, divergence=d, backend="reference"))
    return lambda x: loss(x.student_hidden, x.weight, x.teacher_hidden, x.divergence)


def liger_chunked(compiled: bool) -> Variant:
    """Its pure PyTorch loss; it always forms the head's gradient. `compiled` is its default, useless for one call."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    def loss(x: Inputs) -> Tensor:
        function = LigerFusedLinearJSDLoss(
            weight_hard_loss=0.0, weight_soft_loss=1.0, beta=LIGER_BETA[x.divergence], compiled=compiled
        )
        labels = torch.zeros(len(x.student_hidden), dtype=torch.int64, device=x.weight.device)
        return function(x.student_hidden, x.weight, x.teacher_hidden, x.weight, labels)

    return loss


def liger_fused() -> Variant:
    """Its Triton kernel, which calls the divergences by the same betas."""
    from liger_kernel.transformers.functional import liger_fused_linear_jsd

    def loss(x: Inputs) -> Tensor:
        return liger_fused_linear_jsd(
            x.student_hidden, x.weight, x.teacher_hidden, x.weight, jsd_beta=LIGER_BETA[x.divergence]
        )

    return loss


def cut_cross_entropy() -> Variant:
    """Another loss (labels, no teacher): two products fewer in the forward. For orientation only."""
    from cut_cross_entropy import linear_cross_entropy

    def loss(x: Inputs) -> Tensor:
        labels = torch.arange(len(x.student_hidden), device=x.weight.device) % len(x.weight)
        return linear_cross_entropy(x.student_hidden, x.weight, labels)

    return loss


def our_variants(device: str) -> dict[str, Variant]:
    """Ours, as far as they run on a device."""
    triton = device == "cuda" or interpreting()
    backends = ("triton-split", "triton-fused", "chunked") if triton else ("chunked",)
    return {f"{OURS} {backend}": ours(backend) for backend in backends}


def peer_makers(device: str) -> dict[str, Callable[[], Variant]]:
    """By name, what makes each of the others, those that have to be compiled last. Making one may raise anything."""
    peers: dict[str, Callable[[], Variant]] = {
        "eager": lambda: ours("reference"),
        "liger chunked": lambda: liger_chunked(compiled=False),
    }
    if device == "cuda" or rehearsing():
        peers["liger fused_linear_jsd"] = liger_fused
        peers["cut-cross-entropy (other loss)"] = cut_cross_entropy
        peers["compiled eager"] = compiled_eager
        peers["liger chunked compiled"] = lambda: liger_chunked(compiled=True)
    return peers


def left_out(name: str, where: object, error: Exception) -> None:
    """Tells that something did not run here."""
    print(f"left out: {name} at {where}: {type(error).__name__}: {str(error)[:200]}", flush=True)


def gradient(variant: Variant, x: Inputs) -> tuple[Tensor, Tensor]:
    """Loss and dH by one forward and one backward."""
    leaf = Inputs(x.student_hidden.detach().requires_grad_(), x.teacher_hidden, x.weight, x.divergence)
    loss = variant(leaf)
    (dh,) = torch.autograd.grad(loss, leaf.student_hidden)
    return loss.detach(), dh


class Products:
    """The floor: the three products alone, one after the other, in the inputs' dtype, into buffers of their own.

    A GPU's buffers for all N rows would not fit: there the products are made in chunks of rows, as large as ours.
    """

    def __init__(self, x: Inputs, rows_per_chunk: int | None = None) -> None:
        num_rows, width = x.student_hidden.shape
        self.x, self.rows = x, rows_per_chunk or num_rows
        padded = -(-len(x.weight) // 64) * 64
        self.logits = x.weight.new_empty(self.rows, padded)[:, : len(x.weight)]
        self.q = x.weight.new_empty(self.rows, padded)[:, : len(x.weight)].normal_()
        self.dh = x.weight.new_empty(self.rows, width)

    def __call__(self) -> None:
        for start in range(0, len(self.x.student_hidden), self.rows):
            student, teacher = (h[start : start + self.rows] for h in (self.x.student_hidden, self.x.teacher_hidden))
            num_rows = len(student)
            for hidden in (student, teacher):
                torch.mm(hidden, self.x.weight.T, out=self.logits[:num_rows])
            torch.mm(self.q[:num_rows], self.x.weight, out=self.dh[:num_rows])
