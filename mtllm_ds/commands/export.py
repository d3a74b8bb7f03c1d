"""`mtllm-ds export RUN OUT`: write the export of a run; with `--merged` its adapted LLM as a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mtllm_ds.command_line import Parser, natural_int


def main(arguments: Sequence[str]) -> int:
    """Write the export, or with `--merged` the adapted LLM."""
    parser = Parser(
        prog="mtllm-ds export", description="Export a run's best checkpoint: connector, adapter, tokenizers, card."
    )
    parser.add_argument("run", type=Path, help="folder of the run (its run.output_dir)")
    parser.add_argument("output", type=Path, help="folder to write; an older export there is replaced")
    parser.add_argument("--step", type=natural_int, help="export this checkpoint instead of the best one")
    parser.add_argument(
        "--merged",
        action="store_true",
        help="of a run of model.reader=llm: write the LLM with its LoRA merged, for model.llm.name; "
        "without a language-model head: it gives states to pool and generates no text",
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of --merged weights")
    options = parser.parse_args(arguments)
    if options.merged:
        import torch

        from mtllm_ds.transfer_sets.merged_llm import write_merged

        merged = write_merged(options.run, options.output, getattr(torch, options.dtype))
        print(f"merged the LoRA of {merged.name}, step {merged.step}, into {options.output}")
        return 0
    from mtllm_ds.checkpoint.export import export_run

    state = export_run(options.run, options.output, options.step)
    figures = ", ".join(f"{name} {value:.4g}" for name, value in state.metrics.items())
    print(f"exported step {state.step} ({figures or 'not validated'}) to {options.output}")
    return 0
