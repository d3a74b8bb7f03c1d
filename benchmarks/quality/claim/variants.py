"""Variants of the method (`variants.yaml`), and which one is run with all seeds on all languages: the best on copy-masked text of
the development languages, seed 0.

python -m benchmarks.quality.claim.variants --folder runs/quality/cpu/minilm --languages deu_Latn jpn_Jpan --output choice.json
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.quality.claim.verdict import mean_accuracy
from mtllm_ds.atomic import write_json
from mtllm_ds.command_line import Parser, run_and_exit
from mtllm_ds.evaluation.answers.predictions import read_predictions


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What differs from the plain method."""

    what: str
    base: str = "plain"
    """The variant that differs from it in nothing but what is told"""
    stage1: Sequence[str] | None = ()
    """Overrides of stage 1; None: there is no stage 1. Without any, and with the plain steps and text, it is the plain one."""
    stage2: Sequence[str] = ()
    """Overrides of stage 2."""
    stage1_share: float = 1.0
    """Of the budget's steps of stage 1."""
    stage1_shards: str = "stage1"
    """Text of stage 1: English, or `parallel`."""

    @property
    def has_own_stage1(self) -> bool:
        return bool(self.stage1) or self.stage1_share != 1.0 or self.stage1_shards != "stage1"


PLAIN = "plain"
PARALLEL = "parallel"
"""Shards of English text and of as many translations, whose English originals the LLM reads."""
VARIANTS = {
    name: Variant(**values)
    for name, values in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")).items()
}


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of a backbone's steps")
    parser.add_argument("--languages", nargs="+", required=True, help="for development")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    found = {}
    for path in sorted(options.folder.glob("variants/*/stage2/variant_*/predictions.parquet")):
        masked = read_predictions([path]).where(setting="copy_masked")
        found[path.parent.name.removeprefix("variant_")] = mean_accuracy(masked, options.languages)
    # Of equals the plain method, else the first by name.
    chosen = min(found, key=lambda name: (-found[name], name != PLAIN, name))
    write_json(options.output, {"chosen": chosen, "copy_masked_accuracy": found})
    print(f"chosen: {chosen}, {found[chosen]:.3f}")
    return 0


if __name__ == "__main__":
    run_and_exit(main)
