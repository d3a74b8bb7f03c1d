"""Write `assets/`: the tiny MT model, the tiny Llama and the text sample, each with a card of measured figures.

    python -m benchmarks.quality.bases.write_assets --data FOLDER --text
    python -m benchmarks.quality.bases.write_assets --data FOLDER --mt runs/bases/mt --llama runs/bases/llama

What is measured is what ships: models are saved in bf16, loaded again, and scored on the test items of each language.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaForCausalLM, M2M100ForConditionalGeneration

from benchmarks.quality.bases import cards
from benchmarks.quality.bases.mt_probe import centred_retrieval, mean_states
from benchmarks.quality.bases.timed_training import TRAINING
from benchmarks.quality.bases.train_llama import topic_accuracy
from benchmarks.quality.text.assets_text import write_text
from benchmarks.quality.text.folder_text import LANGUAGES, read_jsonl
from mtllm_ds.atomic import new_folder, write_json
from mtllm_ds.atomic import write_text as write_file
from mtllm_ds.command_line import Parser, run_and_exit
from mtllm_ds.evaluation.items.translated import chrf
from mtllm_ds.languages import ENGLISH
from mtllm_ds.transfer_sets.translation.mt_model import MTModel
from mtllm_ds.transfer_sets.translation.translator import Translator


def save_bf16(model, tokenizer, folder: Path) -> None:
    """Save weights in bf16 and the tokenizer; dropout off."""
    model.config.update({name: 0.0 for name in ("dropout", "attention_dropout") if hasattr(model.config, name)})
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = True
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def score_mt(folder: Path, data: Path, translates: bool, cache: Path | None) -> dict[str, dict[str, float | None]]:
    """A language: chrF of greedy translation into English, and centred retrieval of the English original, on test items.

    chrF is None for a model whose decoder was not trained (`translates` is false).
    """
    model = M2M100ForConditionalGeneration.from_pretrained(folder, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    translator = Translator(MTModel.from_pretrained(str(folder)), cache)
    scores = {}
    for code in LANGUAGES:
        items = read_jsonl(data / f"test_{code}.jsonl")
        texts, originals = [item["text"] for item in items], [item["text_en"] for item in items]
        foreign, english = mean_states(model, tokenizer, texts, code), mean_states(model, tokenizer, originals, ENGLISH)
        scores[code] = {
            "chrf": chrf(translator.translate(texts, code, ENGLISH), originals) if translates else None,
            "retrieval": centred_retrieval(foreign, english, foreign.mean(0), english.mean(0)),
            "offset": float(((foreign - english) ** 2).sum(1).mean() / english.var(0).sum()),
            "n": len(items),
        }
    return scores


def write_mt(source: Path, data: Path, folder: Path, cache: Path | None) -> None:
    model = M2M100ForConditionalGeneration.from_pretrained(source, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(source)
    with new_folder(folder) as fresh:
        save_bf16(model, tokenizer, fresh)
        runs = json.loads((source / TRAINING).read_text())["runs"]
        translates = any(run["what"] != "ranking" for run in runs)
        figures = {"runs": runs, "languages": score_mt(fresh, data, translates, cache)}
        write_json(fresh / "figures.json", figures)
        write_file(fresh / "README.md", cards.mt_card(figures, model))


def write_llama(source: Path, data: Path, folder: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(source, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(source)
    with new_folder(folder) as fresh:
        save_bf16(model, tokenizer, fresh)
        shipped = LlamaForCausalLM.from_pretrained(fresh, dtype="float32")
        figures = {
            "training": json.loads((source / TRAINING).read_text()),
            "topic_accuracy": topic_accuracy(shipped, tokenizer, data),
        }
        write_json(fresh / "figures.json", figures)
        write_file(fresh / "README.md", cards.llama_card(figures, model))


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the help text")
    parser.add_argument("--out", type=Path, default=Path("assets"))
    parser.add_argument("--mt", type=Path, help="a finished model of train_mt")
    parser.add_argument("--llama", type=Path, help="the finished folder of train_llama")
    parser.add_argument("--cache", type=Path, help="folder of translations, as a quality run keeps them")
    parser.add_argument("--text", action="store_true", help="write the text sample")
    args = parser.parse_args()
    if args.text:
        with new_folder(args.out / "text") as fresh:
            rows = write_text(args.data, fresh)
            write_file(fresh / "README.md", cards.text_card(rows))
            shutil.copy(Path(__file__).with_name("MPL-2.0.txt"), fresh / "LICENSE")
    if args.mt:
        write_mt(args.mt, args.data, args.out / "mt", args.cache)
    if args.llama:
        write_llama(args.llama, args.data, args.out / "llm")
    return 0


if __name__ == "__main__":
    run_and_exit(main)
