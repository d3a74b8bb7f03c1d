"""`mtllm-ds evaluate retrieval`: find translations by the vectors of an exported model."""

from __future__ import annotations

import argparse
from pathlib import Path

from mtllm_ds.command_line import Subcommands, add_precision, positive_int
from mtllm_ds.config.shipped import shipped_place


def add_retrieval(commands: Subcommands) -> None:
    """`retrieval` among the subcommands."""
    retrieval = commands.add_parser("retrieval", help="find translations by the vectors of an exported model")
    retrieval.set_defaults(run=run)
    add = retrieval.add_argument
    add("--model", type=Path, required=True, help="folder written by `mtllm-ds export`")
    add("--file", required=True, help="parallel text: JSONL or TSV, plain, .gz, .xz or .zst")
    add("--language", required=True, help="FLORES-200 code of the foreign side")
    add("--text-field", default="text", help="JSON key, column name, or column number from 1 (default %(default)s)")
    add("--english-field", default="text_en", help="the same of the English side (default %(default)s)")
    add("--vectors", choices=("mtllm", "encoder"), default="mtllm", help="of the stack, or of its MT encoder alone")
    add("--limit", type=positive_int, help="only the first so many pairs")
    add("--batch-size", type=positive_int, default=32)
    add_precision(retrieval)
    add("--device", help="such as cpu or cuda:1 (default: the GPU where there is one)")
    add("--output", type=Path, help="folder for summary.json (figures) and settings.json")


def run(options: argparse.Namespace) -> None:
    from mtllm_ds.atomic import write_figures, write_json
    from mtllm_ds.evaluation.retrieval import print_scores, read_parallel, score_parallel

    fields = (options.text_field, options.english_field)
    foreign, english = read_parallel(shipped_place(options.file), options.language, *fields, limit=options.limit)
    from mtllm_ds.cluster.launch import device_alone
    from mtllm_ds.cluster.precision import reading_dtype
    from mtllm_ds.inference import MTLLM  # slow to import: mistakes in the file are told before
    from mtllm_ds.languages import ENGLISH

    device = device_alone(options.device)
    model = MTLLM.from_pretrained(options.model, device=device, dtype=reading_dtype(options.precision, device))
    encode = model.encode if options.vectors == "mtllm" else model.encode_with_encoder
    scores = score_parallel(
        foreign,
        english,
        lambda texts: encode(texts, lang=options.language, batch_size=options.batch_size).numpy(),
        lambda texts: encode(texts, lang=ENGLISH, batch_size=options.batch_size).numpy(),
    )
    print_scores(scores, options.language)
    if options.output:
        write_figures(options.output / "summary.json", scores.flat())
        write_json(options.output / "settings.json", {"language": options.language, "vectors": options.vectors})
