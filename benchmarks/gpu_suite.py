"""Everything that needs a GPU, in under nine minutes: tests, accuracy, speed, tiles. One folder, one table last.

    make gpu-suite [PY=python3] [WHEELS=folder]

Runs under the machine's own torch >= 2.10, triton >= 3.5 and needs no network. A stage that fails or outlasts its time is
told in the table, and the rest goes on; the exit status is 1 if any did.
"""

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.kernels.results import folder


@dataclass(frozen=True)
class Stage:
    """A command (after the interpreter) and the seconds it may take."""

    name: str
    command: tuple[str, ...]
    limit_seconds: int


def stages(output: Path) -> list[Stage]:
    def benchmark(module: str, *more: str) -> tuple[str, ...]:
        return ("-m", f"benchmarks.kernels.{module}", "--output", str(output), *more)

    tests = ("-m", "pytest", "tests/kernels", "-m", "gpu", "--confcutdir", "tests/kernels", "-q", "--durations", "10",
             "--maxfail", "20")  # fmt: skip
    accuracy = ("--device", "cuda", "--rows", "512", "--vocabulary", "128256", "--width", "1024")
    return [
        Stage("tests", tests, 180),
        Stage("speed", benchmark("speed", "--device", "cuda"), 200),
        Stage("accuracy", benchmark("accuracy", *accuracy), 95),
        Stage("tiles", benchmark("tiles"), 60),
    ]


def run(stage: Stage, output: Path) -> tuple[str, float]:
    """What became of it and its seconds; its output goes to <name>.log and to the screen."""
    start = time.monotonic()
    with open(output / f"{stage.name}.log", "w") as log:
        try:
            done = subprocess.run([sys.executable, *stage.command], stdout=log, stderr=subprocess.STDOUT,
                                  timeout=stage.limit_seconds)  # fmt: skip
            outcome = "passed" if done.returncode == 0 else f"failed, status {done.returncode}"
        except subprocess.TimeoutExpired:
            outcome = f"stopped after {stage.limit_seconds} s"
    return outcome, time.monotonic() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--only", nargs="+", help="names of stages")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu-suite needs a CUDA device; this machine has none", file=sys.stderr)
        return 2
    output = folder(arguments.output)
    outcomes = {}
    for stage in stages(output):
        if arguments.only and stage.name not in arguments.only:
            continue
        print(f"== {stage.name}", flush=True)
        outcomes[stage.name] = run(stage, output)
        print("\n".join((output / f"{stage.name}.log").read_text().splitlines()[-60:]), flush=True)
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}; results in {output}")
    print(f"{'stage':12}{'seconds':>10}  outcome")
    for name, (outcome, seconds) in outcomes.items():
        print(f"{name:12}{seconds:>10.0f}  {outcome}")
    print(f"{'all':12}{sum(seconds for _, seconds in outcomes.values()):>10.0f}")
    return int(any(outcome != "passed" for outcome, _ in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
