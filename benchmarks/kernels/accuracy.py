"""Error of the loss and of dH against float64, at divergences from far to near.

    python -m benchmarks.kernels.accuracy [--device cpu|cuda] [--output FOLDER]

Both sides share a head; the teacher's hidden states are the student's plus noise, as much as makes the mean forward KL
the wanted one. Inputs are rounded to bfloat16 first, then the truth is computed from the rounded values.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from mtllm_kernels import fused_linear_kl
from torch import Tensor

from benchmarks.kernels import rehearsal
from benchmarks.kernels.rehearsal import low_precision, rehearsing
from benchmarks.kernels.results import Results
from benchmarks.kernels.variants import Inputs, Variant, gradient, left_out, our_variants, peer_makers

TOY_SIZE = (4, 300, 32)
KLS = (1.2, 0.3, 3e-2, 3e-3, 3e-4)
DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")


def close_inputs(num_rows: int, vocabulary: int, width: int, kl: float, device: str, dtype: torch.dtype) -> Inputs:
    """Logits of standard deviation 2; noise by bisection on the float32 KL."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    weight = (normal(vocabulary, width) * 2 * width**-0.5).to(dtype)
    student, noise = normal(num_rows, width), normal(num_rows, width)
    low, high = 0.0, 4.0
    for _ in range(16):
        middle = (low + high) / 2
        sides = (
            student.to(dtype).float(),
            weight.float(),
            (student + middle * noise).to(dtype).float(),
            weight.float(),
        )
        low, high = (middle, high) if fused_linear_kl(*sides, backend="chunked") < kl else (low, middle)
    return Inputs(student.to(dtype), (student + high * noise).to(dtype), weight)


def truth(x: Inputs) -> tuple[Tensor, Tensor]:
    hidden = x.student_hidden.double().requires_grad_()
    weight = x.weight.double()
    loss = fused_linear_kl(
        hidden, weight, x.teacher_hidden.double(), weight, divergence=x.divergence, backend="reference"
    )
    return loss.detach(), torch.autograd.grad(loss, hidden)[0]


def errors(variant: Variant, x: Inputs, true: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Of the loss relatively, of dH in the relative Frobenius norm."""
    (loss, dh), (true_loss, true_dh) = gradient(variant, x), true
    return {
        "loss_error": abs(loss.double() - true_loss).item() / true_loss.item(),
        "dh_error": ((dh.double() - true_dh).norm() / true_dh.norm()).item(),
    }


def measure(size: tuple[int, int, int], device: str, dtype: torch.dtype, results: Results) -> None:
    """Ours first, over all divergences and distances; then one peer after the other."""
    pairs = [(kl, close_inputs(*size, kl, device, dtype)) for kl in KLS]
    cases = [(kl, d, replace(x, divergence=d)) for kl, x in pairs for d in DIVERGENCES]
    truths = [truth(x) for *_, x in cases]
    makers: dict[str, Callable[[], Variant]] = {n: lambda v=v: v for n, v in our_variants(device).items()}  # type: ignore[misc]
    makers |= {n: m for n, m in peer_makers(device).items() if not n.endswith(("(other loss)", "chunked compiled"))}
    for name, make in makers.items():
        try:
            variant = make()
            for (kl, divergence, x), true in zip(cases, truths, strict=True):
                row = {"variant": name, "divergence": divergence, "kl": kl}
                row |= dict(zip("NVD", size, strict=True)) | {"dtype": str(dtype).removeprefix("torch.")}
                found = errors(variant, x, true)
                results.add(row | found, {f"{key}/{name}/{divergence}/{kl:g}": v for key, v in found.items()})
        except Exception as error:  # whatever a peer does, the others are measured
            left_out(name, size, error)


def table(rows: list[dict]) -> str:
    """dH error, percent: variants down, divergences at each KL across."""
    lines = [f"{'dH error, %':28}" + "".join(f"{kl:>24}" for kl in KLS)]
    for divergence in DIVERGENCES:
        for name in dict.fromkeys(r["variant"] for r in rows):
            cells = [r for r in rows if r["variant"] == name and r["divergence"] == divergence]
            values = "".join(f"{100 * c['dh_error']:>16.3f} ({c['loss_error']:.0e})" for c in cells)
            lines.append(f"{divergence + ' ' + name:28}" + values)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default=rehearsal.device())
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--width", type=int, default=256)
    arguments = parser.parse_args()
    size = TOY_SIZE if rehearsing() else (arguments.rows, arguments.vocabulary, arguments.width)
    results = Results("accuracy", arguments.output)
    measure(size, arguments.device, low_precision(), results)
    print(table(results.rows))


if __name__ == "__main__":
    main()
