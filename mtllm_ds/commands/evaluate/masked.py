"""`mtllm-ds evaluate masked`: any masked language model on plain text, every token masked once."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mtllm_ds.command_line import Subcommands, add_precision, positive_int
from mtllm_ds.commands.text_inputs import add_text_inputs, named_files, text_inputs
from mtllm_ds.errors import UserError
from mtllm_ds.languages import check_language

LONGEST = 512


def add_masked(commands: Subcommands) -> None:
    """`masked` among the subcommands."""
    masked = commands.add_parser("masked", help="a masked language model on plain text: NLL and MRR by language")
    masked.set_defaults(run=run)
    add = masked.add_argument
    add("--model", required=True, help="folder or hub name that AutoModelForMaskedLM loads")
    add("--revision", help="commit or tag on the hub")
    add("--trust-remote-code", action="store_true", help="run the code that it may bring; from the hub at one commit")
    add_text_inputs(masked)
    add(
        "--training-text", nargs="+", default=[], metavar="CODE=FILE",
        help="what the unigram baseline counts; without it there is none",
    )  # fmt: skip
    add(
        "--low-resource", nargs="+", default=[], metavar="CODE",
        help="languages whose mean is shown apart from that of the others",
    )  # fmt: skip
    add("--passes", type=positive_int, default=7, help="a pass masks one token in so many (default %(default)s)")
    add("--limit", type=positive_int, help="only the first so many texts of each file")
    add("--max-length", type=positive_int, help=f"tokens read at once (default: the model's most, up to {LONGEST})")
    add("--batch-tokens", type=positive_int, default=16_384, help="in a forward (default %(default)s)")
    add_precision(masked, default="fp32", note="; bf16 ties many ranks")
    add("--device", help="such as cpu or cuda:1 (default: the GPU where there is one)")
    add("--output", type=Path, required=True, metavar="DIR", help="for tables.json, summary.json and lines.parquet")


def run(options: argparse.Namespace) -> None:
    from mtllm_ds.data.writing.output import check_output
    from mtllm_ds.evaluation.masked.evaluation import count_tokens, evaluate_masked, read_texts, told_by

    low_resource = [check_language(code) for code in options.low_resource]
    training = named_files(options, "training-text")
    check_output(options.output)
    texts = read_texts(text_inputs(options), options.limit)
    absent = [code for code in low_resource if code not in texts.languages]
    if absent:
        raise UserError(
            f"--low-resource={absent[0]}: no text of it is scored; leave it out or give --input {absent[0]}=FILE"
        )
    from rich.console import Console

    from mtllm_ds.cluster.launch import device_alone
    from mtllm_ds.cluster.precision import reading_dtype
    from mtllm_ds.data.writing.display import CountDisplay
    from mtllm_ds.evaluation.masked.model import MaskedLM
    from mtllm_ds.evaluation.masked.report import print_masked, systems_of, write_masked

    device = device_alone(options.device)
    dtype = reading_dtype(options.precision, device)
    model = MaskedLM.load(options.model, options.revision, dtype, device, trust_remote_code=options.trust_remote_code)
    max_length = options.max_length or min(LONGEST, model.max_length)
    if max_length > model.max_length:
        raise UserError(f"--max-length={max_length}: the model reads {model.max_length} tokens at most; lower it")
    texts = told_by(texts, model)
    with CountDisplay("training text", "bytes of training text") as display:
        counts = count_tokens(model, training, display.advance) if training else None
    with CountDisplay("masked tokens", "masked tokens") as display:
        sums = evaluate_masked(
            model, texts, num_passes=options.passes, max_length=max_length, tokens_per_batch=options.batch_tokens,
            counts=counts, progress=display.advance,
        )  # fmt: skip
    systems = systems_of(sums, texts, low_resource)
    settings = {
        "model": options.model, "passes": options.passes, "max_length": max_length, "dtype": str(dtype).removeprefix("torch."),
        "low_resource": low_resource, "limit": options.limit,
    }  # fmt: skip
    write_masked(options.output, sums, texts, systems, settings)
    print_masked(
        systems, texts.unknown_shares(sums["model"].num_tokens), Console(width=None if sys.stdout.isatty() else 140)
    )
