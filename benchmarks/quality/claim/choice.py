"""Which variant is run with all seeds on all languages: the best on copy-masked text of the development languages, seed 0.

python -m benchmarks.quality.claim.choice --folder runs/quality/cpu/minilm --languages deu_Latn jpn_Jpan --output choice.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.quality.claim.collect import FILE, mean_accuracy
from benchmarks.quality.claim.variants import PLAIN
from mtllm_ds.atomic import write_json
from mtllm_ds.command_line import Parser, run_and_exit
from mtllm_ds.evaluation.answers.predictions import read_predictions


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of a backbone's steps")
    parser.add_argument("--languages", nargs="+", required=True, help="for development")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    found = {}
    for path in sorted(options.folder.glob(f"variants/*/stage2/variant_*/{FILE}")):
        masked = read_predictions([path]).where(setting="copy_masked")
        found[path.parent.name.removeprefix("variant_")] = mean_accuracy(masked, options.languages)
    # Of equals the plain method, else the first by name.
    chosen = min(found, key=lambda name: (-found[name], name != PLAIN, name))
    write_json(options.output, {"chosen": chosen, "copy_masked_accuracy": found})
    print(f"chosen: {chosen}, {found[chosen]:.3f}")
    return 0


if __name__ == "__main__":
    run_and_exit(main)
