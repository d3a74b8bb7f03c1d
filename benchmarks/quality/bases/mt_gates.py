"""What the MT model is worth on validation pairs: chrF into English (greedy) and centred retrieval by its encoder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from benchmarks.quality.text.folder_text import read_jsonl
from benchmarks.quality.vectors.mean_states import MeanStates
from mtllm_ds.atomic import write_json
from mtllm_ds.command_line import Parser, quiet_libraries, run_and_exit
from mtllm_ds.evaluation.items.translated import chrf
from mtllm_ds.evaluation.retrieval import score_parallel
from mtllm_ds.languages import ENGLISH
from mtllm_ds.transfer_sets.translation.mt_model import Decoding, MTModel
from mtllm_ds.transfer_sets.translation.translator import Translator


def main() -> int:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--mt", required=True)
    add("--data", type=Path, required=True, help="folder of valid_CODE.jsonl, as claim.data writes it")
    add("--languages", nargs="+", required=True)
    add("--max-length", type=int, default=128)
    add("--cache", type=Path, required=True, help="of translations")
    add("--output", type=Path, required=True, help="JSON file: {code: {chrf, retrieval, n}}")
    add("--device", default="cpu")
    options = parser.parse_args()
    decoding = Decoding(max_source_tokens=options.max_length)
    model = MTModel.from_pretrained(options.mt, decoding=decoding, device=options.device)
    translator = Translator(model, options.cache)
    means = MeanStates(options.mt, options.max_length, options.device)
    found = {}
    for code in options.languages:
        rows = read_jsonl(options.data / f"valid_{code}.jsonl")
        foreign, english = [row["text"] for row in rows], [row["text_en"] for row in rows]
        translations = translator.translate(foreign, code, ENGLISH)
        scores = score_parallel(foreign, english, partial(means, language=code), partial(means, language=ENGLISH))
        found[code] = {
            "chrf": chrf(translations, english),
            "retrieval": scores.forward.accuracy,
            "n": len(rows),
            "example": {"text": foreign[0], "translation": translations[0], "english": english[0]},
        }
        print(f"{code}: chrF {found[code]['chrf']:.1f}, retrieval {found[code]['retrieval']:.3f}, {len(rows)} pairs")
    write_json(options.output, found)
    return 0


if __name__ == "__main__":
    quiet_libraries()
    run_and_exit(main)
