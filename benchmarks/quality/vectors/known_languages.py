"""Does an encoder know a language? Retrieval of English originals on validation pairs by the encoder alone, copied names left out.

python -m benchmarks.quality.vectors.known_languages --encoder runs/public/e5-small --data FOLDER --languages deu_Latn gaz_Latn
    --output gates.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.quality.text.folder_text import read_jsonl
from benchmarks.quality.vectors.borrowed_head import encoder_retrieval
from benchmarks.quality.vectors.mean_states import MeanStates
from mtllm_ds.atomic import write_json
from mtllm_ds.cluster.precision import reading_dtype
from mtllm_ds.command_line import Parser, add_precision, quiet_libraries, run_and_exit


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--encoder", required=True)
    add("--data", type=Path, required=True, help="folder of valid_CODE.jsonl, as claim.data writes it")
    add("--languages", nargs="+", required=True)
    add("--max-length", type=int, default=128)
    add("--cache", type=Path, help="folder of the encoder's means")
    add("--output", type=Path, required=True, help="JSON file: {code: {retrieval, n}}")
    add("--device", default="cpu")
    add_precision(parser, "fp32")
    options = parser.parse_args()
    dtype = reading_dtype(options.precision, torch.device(options.device))
    means = MeanStates(options.encoder, options.max_length, options.device, dtype=dtype, cache=options.cache)
    found = {}
    for code in options.languages:
        rows = read_jsonl(options.data / f"valid_{code}.jsonl")
        texts, originals = [row["text"] for row in rows], [row["text_en"] for row in rows]
        retrieval = encoder_retrieval(means, texts, originals, code) if rows else 0.0
        found[code] = {"retrieval": retrieval, "n": len(rows)}
        print(f"{code}: finds {retrieval:.3f} of {len(rows)} originals")
    write_json(options.output, found)
    return 0


if __name__ == "__main__":
    quiet_libraries()
    run_and_exit(main)
