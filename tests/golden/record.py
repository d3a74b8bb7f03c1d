"""Write the golden curves anew, all or those named: `python -m tests.golden.record [NAME ...]`. Only a change of numerics that is
meant needs it.

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
    parser.add_argument("names", nargs="*", choices=[*CASES, []], metavar="NAME")
    options = parser.parse_args()
    golden = json.loads(CURVES.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        material = Material(Path(folder))
        found = {
            f"{name}/{ranks}": curve_of(material, name, ranks) for name in options.names or CASES for ranks in (1, 2)
        }
    close_pools()
    if not options.compare:
        kept = {key: rows for key, rows in golden.items() if key.rpartition("/")[0] in CASES}
        CURVES.write_text(json.dumps(kept | found, indent=1) + "\n", encoding="utf-8")
        return
    for key, rows in found.items():
        numbers = [(value, golden[key][i][name]) for i, row in enumerate(rows) for name, value in row.items()]
        print(f"{key}: {sum(a == b for a, b in numbers)} of {len(numbers)} numbers are the same bits")


if __name__ == "__main__":
    main()
