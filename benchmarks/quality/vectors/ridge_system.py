"""The ridge as a system of the table: fitted on English text, it answers the test items of every language.

Two systems: `ridge`, and `ridge_centred`, whose foreign means have the language's own mean replaced by that of English (as the
variant `centring` of the stack).
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.quality.text.folder_text import read_jsonl
from benchmarks.quality.vectors.mean_states import MeanStates
from benchmarks.quality.vectors.ridge import RidgeBaseline, fvu
from mtllm_ds import MTLLM
from mtllm_ds.atomic import write_figures
from mtllm_ds.checkpoint.export import read_export
from mtllm_ds.cluster.precision import reading_dtype
from mtllm_ds.command_line import Parser, add_precision, quiet_libraries, run_and_exit
from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.answers.predictions import concatenate, predictions_of, write_predictions
from mtllm_ds.evaluation.items.items import load_items
from mtllm_ds.evaluation.items.masking import SETTINGS, in_setting
from mtllm_ds.evaluation.items.tasks import load_task
from mtllm_ds.languages import ENGLISH


def main() -> int:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--mt", required=True)
    add("--teacher", type=Path, required=True, help="export of the tuned LLM")
    add("--data", type=Path, required=True, help="folder that claim.data writes")
    add("--texts", type=int, required=True, help="stage-1 texts beside the task's training items")
    add("--max-length", type=int, default=128)
    add("--seed", type=int, required=True)
    add("--output", type=Path, required=True)
    add("--device", default="cpu")
    add_precision(parser, "fp32")
    add("--cache", type=Path, help="folder of the encoder's means: runs of other seeds find them there")
    options = parser.parse_args()
    task = load_task(str(options.data / "task" / "task.yaml"))
    if task.type != "classification":
        raise UserError(f"task {task.name}: the ridge reads one text an item, not {task.type}; leave this system out")
    dtype = reading_dtype(options.precision, torch.device(options.device))
    teacher = MTLLM.from_pretrained(options.teacher, device=options.device, dtype=dtype)
    head = read_export(options.teacher).trained().head
    if head is None:
        raise UserError(f"{options.teacher}: an export without a head; name that of the tuned LLM")
    weight, bias = head["weight"].double().numpy(), head["bias"].double().numpy()
    means = MeanStates(options.mt, options.max_length, options.device, dtype=dtype, cache=options.cache)

    def read_english(name: str, split: str) -> list[str]:
        texts = [row["text"] for row in read_jsonl(options.data / f"stage1_{name}.jsonl")]
        step = max(1, len(texts) // options.texts)
        return texts[::step] + [row["text"] for row in read_jsonl(options.data / "task" / f"{split}_{ENGLISH}.jsonl")]

    train, valid = read_english("train", "train"), read_english("valid", "valid")
    sides = {
        name: (means(texts, ENGLISH), vectors(teacher, texts)) for name, texts in (("train", train), ("valid", valid))
    }
    baseline = RidgeBaseline.fit(*sides["train"], *sides["valid"], lambda x: x @ weight.T + bias, task.labels)
    shift = {
        code: mean_of(means, options.data, ENGLISH) - mean_of(means, options.data, code) for code in task.languages
    }
    parts, seconds, count = [], 0.0, 0
    for code in task.languages:
        plain = load_items(task, "test", code)
        for setting in SETTINGS if code != ENGLISH else ("plain",):
            items = in_setting(plain, setting)
            began = time.perf_counter()
            states = means([item.segments[0] for item in items], task.tag_of(code))
            answers, scores = baseline(states)
            seconds, count = seconds + time.perf_counter() - began, count + len(items)
            centred, centred_scores = baseline(states + shift[code])
            for system, found, sure in (("ridge", answers, scores), ("ridge_centred", centred, centred_scores)):
                parts.append(
                    predictions_of(task.facts, items, found, language=code, system=system, seed=options.seed,
                                   setting=setting, scores=sure)
                )  # fmt: skip
    write_predictions(options.output / "predictions.parquet", concatenate(parts))
    figures = {
        "seconds_per_item/ridge": seconds / count,
        "fvu": fvu(baseline.ridge(sides["valid"][0]), sides["valid"][1]),
    }
    write_figures(options.output / "summary.json", figures)
    return 0


def vectors(teacher: MTLLM, texts: list[str]) -> np.ndarray:
    """The teacher's pooled vectors of English text, float64."""
    return teacher.encode(texts, lang=ENGLISH, batch_size=64).double().numpy()


def mean_of(means: MeanStates, data: Path, code: str) -> np.ndarray:
    """Mean over the monolingual training text of a language."""
    return means([row["text"] for row in read_jsonl(data / f"monolingual_{code}.jsonl")], code).mean(0)


if __name__ == "__main__":
    quiet_libraries()
    run_and_exit(main)
