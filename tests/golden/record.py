"""Write the golden curves anew: `python -m tests.golden.record`. Only a change of numerics that is meant needs it.

With `--compare` nothing is written: how many numbers are the very same bits as the committed ones is printed, for refactors.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import tests.conftest  # noqa: F401 - the suite's environment
from tests.distributed.ranks import close_pools
from tests.golden.cases import CASES, Material
from tests.golden.curves import CURVES, curve_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compare", action="store_true")
    compare = parser.parse_args().compare
    with tempfile.TemporaryDirectory() as folder:
        material = Material(Path(folder))
        found = {f"{name}/{ranks}": curve_of(material, name, ranks) for name in CASES for ranks in (1, 2)}
    close_pools()
    if not compare:
        CURVES.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return
    golden = json.loads(CURVES.read_text(encoding="utf-8"))
    for key, rows in found.items():
        numbers = [(value, golden[key][i][name]) for i, row in enumerate(rows) for name, value in row.items()]
        print(f"{key}: {sum(a == b for a, b in numbers)} of {len(numbers)} numbers are the same bits")


if __name__ == "__main__":
    main()
