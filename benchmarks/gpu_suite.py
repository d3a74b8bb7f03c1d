"""Everything that needs a GPU, in parts of at most nine minutes; see GPU.md for the order of commands.

    python3 -m benchmarks.gpu_suite [--part 1 2 3 4 5 6 7] [--output FOLDER] [--wheels FOLDER]
    make gpu-suite [PY=python3] [WHEELS=folder]
    REHEARSE=1 python3 -m benchmarks.gpu_suite      the same at toy size on a CPU, Triton in its interpreter

Runs from the repository's root under the machine's own torch >= 2.10, triton >= 3.5; needs neither make, git nor network. A
stage that fails or outlasts its time is told in the table, and the rest goes on; the exit status is 1 if any did. After every
stage the folder is packed into one archive beside it, <folder>.tar.gz.
"""

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.kernels import rehearsal
from benchmarks.kernels.rehearsal import rehearsing
from benchmarks.kernels.results import folder

ROOT = Path(__file__).parent.parent
SITE = ROOT / "build/gpu-site"
PARTS, PART_SECONDS = range(1, 8), 9 * 60
REHEARSAL_SLOWNESS = 8  # an interpreter, on a machine with few cores


@dataclass(frozen=True)
class Stage:
    """A command (after the interpreter), the seconds it may take, and whether it runs Triton (in a rehearsal, interpreted)."""

    name: str
    part: int
    command: tuple[str, ...]
    limit_seconds: int
    runs_kernels: bool = True


def stages(output: Path) -> list[Stage]:
    """In the order in which they matter, should time run out."""

    def benchmark(module: str, *more: str) -> tuple[str, ...]:
        return ("-W", "ignore", "-m", f"benchmarks.kernels.{module}", "--output", str(output), *more)

    def training(size: str) -> tuple[str, ...]:
        return ("-W", "ignore", "-m", "benchmarks.training.speed", "--size", size, "--results", str(output))

    accuracy = ("--rows", "512", "--vocabulary", "128256", "--width", "1024")
    return [
        Stage("tests", 1, tests(), 380, runs_kernels=False),
        Stage("tiles", 1, benchmark("tiles"), 120),
        Stage("speed", 2, benchmark("speed", "--seconds", "460"), 500),
        Stage("accuracy", 3, benchmark("accuracy", *accuracy), 200),
        Stage("counters", 3, benchmark("counters"), 280),
        Stage("step", 4, benchmark("step"), 300),
        *(
            Stage(f"training_{size}", part, training(f"gpu_{size}"), 530, runs_kernels=False)
            for part, size in zip((5, 6, 7), ("even", "options", "pages"), strict=True)
        ),
    ]


def tests() -> tuple[str, ...]:
    """The kernels' tests, on as many workers as compile side by side; a rehearsal runs those that need no GPU."""
    some = "not gpu" if rehearsing() else "gpu"
    workers = ("-n", "2" if rehearsing() else "8") if importlib.util.find_spec("xdist") else ()
    return ("-m", "pytest", "tests/kernels", "-m", some, "--confcutdir", "tests/kernels", "-q", "--tb=short", "-rf",
            "--durations", "10", *workers)  # fmt: skip


def environment(stage: Stage) -> dict[str, str]:
    """Paths, and an allocator that does not fragment, so that a peer near the limit does not disturb another's time."""
    paths = [str(SITE), str(ROOT / "kernels"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    more = {"PYTHONPATH": os.pathsep.join(paths), "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    if rehearsing():
        more |= rehearsal.environment()
        if not stage.runs_kernels:
            more.pop("TRITON_INTERPRET")
    return os.environ | more


def run(stage: Stage, output: Path) -> tuple[str, float]:
    """What became of it and its seconds; its output goes to <name>.log."""
    start, limit = time.monotonic(), stage.limit_seconds * (REHEARSAL_SLOWNESS if rehearsing() else 1)
    with open(output / f"{stage.name}.log", "w") as log:
        # A session of its own: what it started ends with it.
        process = subprocess.Popen([sys.executable, *stage.command], stdout=log, stderr=subprocess.STDOUT, cwd=ROOT,
                                   env=environment(stage), start_new_session=True)  # fmt: skip
        try:
            status = process.wait(limit)
            outcome = "passed" if status == 0 else f"failed, status {status}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            outcome = f"stopped after {limit} s"
    return outcome, time.monotonic() - start


def pack(output: Path) -> Path:
    """All results in one archive beside their folder."""
    archive = output.with_name(output.name + ".tar.gz")
    with tarfile.open(archive.with_suffix(".tmp"), "w:gz") as tar:
        tar.add(output, arcname=output.name)
    return archive.with_suffix(".tmp").rename(archive)


def install(wheels: Path) -> None:
    """What this machine's Python lacks, without touching it."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--upgrade"]
    subprocess.run([*command, "--target", str(SITE), *map(str, sorted(wheels.glob("*.whl")))], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--part", type=int, nargs="+", choices=PARTS, help="of at most nine minutes; all without")
    parser.add_argument("--only", nargs="+", help="names of stages")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to use beside the machine's own packages")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() and not rehearsing():
        print("gpu-suite needs a CUDA device; this machine has none (REHEARSE=1 rehearses on the CPU)", file=sys.stderr)
        return 2
    if arguments.wheels:
        install(arguments.wheels)
    output = folder((arguments.output or folder()).absolute())
    outcomes = {}
    for stage in stages(output):
        if (arguments.only and stage.name not in arguments.only) or (
            arguments.part and stage.part not in arguments.part
        ):
            continue
        print(f"== {stage.name}", flush=True)
        outcomes[stage.name] = run(stage, output)
        print("\n".join((output / f"{stage.name}.log").read_text().splitlines()[-60:]), flush=True)
        pack(output)
    name = "a rehearsal" if rehearsing() else torch.cuda.get_device_name()
    print(f"\n{name}, torch {torch.__version__}; results in {output} and {output.name}.tar.gz")
    print(f"{'stage':12}{'seconds':>10}  outcome")
    for name, (outcome, seconds) in outcomes.items():
        print(f"{name:12}{seconds:>10.0f}  {outcome}")
    print(f"{'all':12}{sum(seconds for _, seconds in outcomes.values()):>10.0f}")
    return int(any(outcome != "passed" for outcome, _ in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
