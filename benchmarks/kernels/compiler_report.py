"""What Triton's compiler makes of the kernels, on a machine without a GPU: registers, spills, shared memory, stages.

python -m benchmarks.kernels.compiler_report [--output FOLDER]
"""

import argparse
import csv
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import triton
from mtllm_kernels.linear_kl import device, device_fused, device_split
from mtllm_kernels.topk_kl import device as topk_device
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.kernels.provenance import provenance
from mtllm_ds.atomic import write_figures, write_json

CHIPS = {80: "A100", 90: "H100, H200", 100: "B200"}
SHARED_LIMIT_BYTES = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")


@dataclass(frozen=True)
class Build:
    """One kernel in one configuration: argument types by name, constants, warps and stages."""

    name: str
    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, object]
    num_warps: int
    num_stages: int
    uses_tensor_cores: bool = False


@dataclass(frozen=True)
class Figures:
    """The compiler's figures for one build on one chip."""

    kernel: str
    target: str
    warps: int
    stages: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    wgmma: int
    mma: int
    narrow_stores: int  # stores of 16 bits a thread: four and more times as many as there need be
    narrow_loads: int


def products_build(dtype: str, tile: device.Tile, *, descriptors: bool, divergence: str = "forward_kl") -> Build:
    """products_kernel for bf16, fp16 or fp32 hidden states."""
    blocks = [(tile.rows, tile.inner), (tile.columns, tile.inner)] * 2
    names = ("student_hidden", "student_weight", "teacher_hidden", "teacher_weight")
    operands = dict.fromkeys(names, f"*{dtype}")
    if descriptors:
        operands = {n: f"tensordesc<{dtype}[{b[0]}, {b[1]}]>" for n, b in zip(names, blocks, strict=True)}
    packed = dtype != "fp32"
    scratch = ("*bf16", "*fp16") if packed else ("*fp32", "*fp32")
    integers = ("num_rows", "vocabulary", "student_width", "teacher_width", "ld_student_hidden", "ld_student_weight",
                "ld_teacher_hidden", "ld_teacher_weight", "ld_scratch", "num_parts")  # fmt: skip
    types = operands | {"row_weight": "*fp32", "exponentials": scratch[0], "deltas": scratch[1], "statistics": "*fp32"}
    types |= dict.fromkeys(integers, "i32") | {"inverse_temperature": "fp32"}
    constants = {"BM": tile.rows, "BV": tile.columns, "BK": tile.inner, "DESCRIPTORS": descriptors,
                 "KEEPS_STUDENT": divergence == "reverse_kl", "PACKED": packed,
                 "PRECISION": "tf32" if packed else "ieee", "INTERPRETED": False}  # fmt: skip
    how = "descriptors" if descriptors else "pointers"
    name = f"products {dtype} {tile.rows}x{tile.columns}x{tile.inner} {how}" + (
        " reverse" if divergence == "reverse_kl" else ""
    )
    return Build(name, device_fused.products_kernel, types, constants, tile.num_warps, tile.num_stages, packed)


def combine_build() -> Build:
    types = {"statistics": "*fp32", "row_weight": "*fp32", "means": "*fp32", "num_rows": "i32", "num_parts": "i32"}
    return Build("combine", device_fused.combine_kernel, types, {"KEEPS_STUDENT": False, "BLOCK": 1024}, 4, 3)


def _suffix(dtype: str) -> str:
    """float16 alone has units of the rows."""
    return " fp16" if dtype == "fp16" else ""


def gradient_build(divergence: str, dtype: str = "bf16") -> Build:
    pointers = ("statistics", "row_weight", "means", "losses", "measured", "units")
    types = {"exponentials": "*bf16", "deltas": "*fp16", "gradient": f"*{dtype}"} | dict.fromkeys(pointers, "*fp32")
    types |= dict.fromkeys(("num_rows", "ld_scratch", "num_parts"), "i32")
    types |= dict.fromkeys(("beta", "rest", "loss_scale", "gradient_scale"), "fp32")
    width = device.LOW_PRECISION_TILE.columns // device_fused.PARTS.value
    constants = {"KIND": divergence, "MEASURES": True, "WANTS_GRADIENT": True, "HAS_UNIT": dtype == "fp16", "WIDTH": width,
                 "BLOCK_PARTS": device.GRADIENT_BLOCK_COLUMNS // width}  # fmt: skip
    return Build(f"gradient {divergence}{_suffix(dtype)}", device_fused.gradient_kernel, types, constants, 4, 3)


def split_build(divergence: str, *, options: bool, dtype: str = "bf16") -> Build:
    types = {"student": "*fp32", "teacher": "*fp32", "student_bias": "*bf16", "teacher_bias": "*bf16", "labels": "*i64",
             "row_weight": "*fp32", "losses": "*fp32", "gradient": f"*{dtype}", "units": "*fp32"}  # fmt: skip
    types |= dict.fromkeys(("vocabulary", "ld_logits", "ld_gradient"), "i32")
    floats = ("inverse_temperature", "beta", "rest", "softcap", "divergence_scale", "label_weight")
    types |= dict.fromkeys(floats, "fp32")
    flags = ("HAS_STUDENT_BIAS", "HAS_TEACHER_BIAS", "HAS_CAP", "HAS_LABELS")
    block, num_warps = device_split.WITH_OPTIONS if options else device_split.PLAIN
    constants = dict.fromkeys(flags, options) | {
        "KIND": divergence,
        "WANTS_GRADIENT": True,
        "HAS_UNIT": dtype == "fp16",
        "BLOCK": block,
    }
    name = f"split {divergence}" + (" all options" if options else "") + _suffix(dtype)
    return Build(name, device_split.split_kernel, types, constants, num_warps, 3)


def topk_builds() -> list[Build]:
    lse = {"logits": "*fp32", "lse": "*fp32", "vocabulary": "i32", "ld_logits": "i32", "inverse_temperature": "fp32"}
    gradient = {"logits": "*fp32", "lse": "*fp32", "scale": "*fp32", "gradient": "*bf16"}
    gradient |= dict.fromkeys(("vocabulary", "ld_logits", "ld_gradient"), "i32") | {"inverse_temperature": "fp32"}
    block, warps = {"BLOCK": topk_device.BLOCK}, topk_device.NUM_WARPS
    return [
        Build("topk tail lse", topk_device.tail_lse_kernel, lse, block, warps, 3),
        Build("topk tail gradient", topk_device.tail_gradient_kernel, gradient, block, warps, 3),
    ]


def builds(capability: int) -> list[Build]:
    """Every kernel in the configurations that run on a chip."""
    tile, descriptors = device.LOW_PRECISION_TILE, capability >= 90
    return [
        products_build("bf16", tile, descriptors=descriptors),
        products_build("bf16", tile, descriptors=descriptors, divergence="reverse_kl"),
        products_build("bf16", tile, descriptors=False),  # rows that are not aligned to 16 bytes
        products_build("fp16", tile, descriptors=descriptors),
        products_build("fp32", device.FLOAT32_TILE, descriptors=descriptors),
        combine_build(),
        *(gradient_build(d) for d in DIVERGENCES),
        *(split_build(d, options=False) for d in DIVERGENCES),
        *(split_build(d, options=True) for d in DIVERGENCES),
        gradient_build("reverse_kl", "fp16"),
        gradient_build("jsd", "fp16"),
        split_build("reverse_kl", options=False, dtype="fp16"),
        split_build("jsd", options=True, dtype="fp16"),
        *topk_builds(),
    ]


def compile_for(build: Build, capability: int) -> Figures:
    """Compiles ahead of time and reads the figures off the machine code. Needs no driver."""
    arguments = build.kernel.arg_names
    signature = {n: "constexpr" if n in build.constants else build.types[n] for n in arguments}
    aligned = [i for i, n in enumerate(arguments) if _divisible(n, signature[n])]
    source = ASTSource(build.kernel, signature, constexprs=build.constants,
                       attrs={(i,): [["tt.divisibility", 16]] for i in aligned})  # fmt: skip
    options = {"num_warps": build.num_warps, "num_stages": build.num_stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    registers, spilled = _resources(compiled.asm["cubin"])
    ptx = compiled.asm["ptx"]
    return Figures(
        kernel=build.name,
        target=f"sm_{capability}",
        warps=build.num_warps,
        stages=build.num_stages,
        registers=registers,
        spilled_bytes=spilled,
        shared_bytes=compiled.metadata.shared,
        wgmma=ptx.count("wgmma.mma_async"),
        mma=len(re.findall(r"\bmma\.sync|tcgen05\.mma", ptx)),
        narrow_stores=len(re.findall(r"st\.global(?:\.\w+)*\.[bu]16 ", ptx)),
        narrow_loads=len(re.findall(r"ld\.global(?:\.\w+)*\.[bu]16 ", ptx)),
    )


def _divisible(name: str, kind: str) -> bool:
    """What the launcher would find divisible by 16 at ordinary sizes."""
    if kind.startswith("*"):
        return name != "row_weight"
    return kind == "i32" and (name.startswith("ld_") or name.endswith("_width"))


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers a thread and spilled bytes a thread (stack and local memory)."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+).*?LOCAL:(\d+)", text.stdout + text.stderr)
    assert found, text.stdout + text.stderr
    registers, stack, local = map(int, found.groups())
    return registers, stack + local


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/compiler/kernels"))
    parser.add_argument("--targets", type=int, nargs="+", default=list(CHIPS))
    arguments = parser.parse_args()
    rows = []
    heading = tuple(field.name for field in fields(Figures))
    print(f"{heading[0]:42}" + "".join(f"{h:>14}" for h in heading[1:]), flush=True)
    for capability in arguments.targets:
        for build in {b.name: b for b in builds(capability)}.values():
            figures = asdict(compile_for(build, capability))
            rows.append(figures)
            print(f"{figures['kernel']:42}" + "".join(f"{figures[h]:>14}" for h in heading[1:]), flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    with open(arguments.output / "report.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, heading)
        writer.writeheader()
        writer.writerows(rows)
    kept = ("registers", "spilled_bytes", "shared_bytes", "wgmma")
    summary = {f"{row['target']}/{row['kernel']}/{key}": row[key] for row in rows for key in kept}
    write_figures(arguments.output / "summary.json", summary)
    write_json(arguments.output / "provenance.json", provenance("compiler"))


if __name__ == "__main__":
    main()
