"""Committed figures are flat: a name and a number each, so that any two runs can be compared by a machine."""

import json
import math
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SUMMARIES = sorted((REPOSITORY / "benchmarks" / "results").rglob("summary.json"))


@pytest.mark.parametrize("path", SUMMARIES, ids=lambda path: "-".join(path.parts[-4:-1]))
def test_a_committed_summary_is_flat_numbers(path):
    figures = json.loads(path.read_text(encoding="utf-8"))
    assert figures
    assert [
        name for name, value in figures.items() if type(value) not in (int, float) or not math.isfinite(value)
    ] == []


def test_there_are_summaries():
    assert len(SUMMARIES) >= 10


def test_whoever_writes_a_summary_writes_figures():
    written = {}
    for path in [*(REPOSITORY / "mtllm_ds").rglob("*.py"), *(REPOSITORY / "benchmarks").rglob("*.py")]:
        for line in path.read_text(encoding="utf-8").splitlines():
            if '"summary.json"' in line and ("write" in line or "dump" in line):
                written[str(path.relative_to(REPOSITORY))] = re.search(r"(\w+)\(", line.strip())[1]
    assert len(written) >= 5
    assert set(written.values()) == {"write_figures"}
