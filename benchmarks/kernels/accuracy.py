"""Error of the loss and of dH against float64, at divergences from far to near.

    python -m benchmarks.kernels.accuracy [--device cpu|cuda] [--output FOLDER]

Both sides share a head; the teacher's hidden states are the student's plus noise, as much as makes the mean forward KL
the wanted one. Inputs are rounded to bfloat16 first, then the truth is computed from the rounded values.
"""

import argparse
from pathlib import Path

import torch
from mtllm_kernels import fused_linear_kl
from torch import Tensor

from benchmarks.kernels.results import save
from benchmarks.kernels.variants import Inputs, gradient, variants

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


def measure(num_rows: int, vocabulary: int, width: int, device: str, dtype: torch.dtype = torch.bfloat16) -> list[dict]:
    rows = []
    candidates = {n: v for n, v in variants(device).items() if not n.endswith(("(other loss)", "chunked compiled"))}
    for kl in KLS:
        x = close_inputs(num_rows, vocabulary, width, kl, device, dtype)
        for divergence in DIVERGENCES:
            x.divergence = divergence
            true_loss, true_dh = truth(x)
            for name, variant in candidates.items():
                loss, dh = gradient(variant, x)
                rows.append({
                    "variant": name, "divergence": divergence, "kl": kl, "N": num_rows, "V": vocabulary, "D": width,
                    "dtype": str(dtype).removeprefix("torch."),
                    "loss_error": abs(loss.double() - true_loss).item() / true_loss.item(),
                    "dh_error": ((dh.double() - true_dh).norm() / true_dh.norm()).item(),
                })  # fmt: skip
    return rows


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
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--width", type=int, default=256)
    arguments = parser.parse_args()
    rows = measure(arguments.rows, arguments.vocabulary, arguments.width, arguments.device)
    print(table(rows))
    summary = {f"dh_error/{r['variant']}/{r['divergence']}/{r['kl']:g}": r["dh_error"] for r in rows}
    summary |= {f"loss_error/{r['variant']}/{r['divergence']}/{r['kl']:g}": r["loss_error"] for r in rows}
    save("accuracy", rows, summary, arguments.output)


if __name__ == "__main__":
    main()
