"""`mtllm-ds export RUN OUT`: write the export of a run, a language model that trained with its head as a Hugging Face folder; with
`--merged` its adapted LLM without a head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mtllm_ds.command_line import Parser, natural_int


def main(arguments: Sequence[str]) -> int:
    """Write the export, or with `--merged` the adapted LLM."""
    parser = Parser(
        prog="mtllm-ds export",
        description="Export a run's best checkpoint: connector, adapter, tokenizers, card. A language model that trained with its "
        "head (objective.name=balanced_teachers) becomes a Hugging Face folder with everything.",
    )
    parser.add_argument("run", type=Path, help="folder of the run (its run.output_dir)")
    parser.add_argument("output", type=Path, help="folder to write; an older export there is replaced")
    parser.add_argument("--step", type=natural_int, help="export this checkpoint instead of the best one")
    parser.add_argument(
        "--merged",
        action="store_true",
        help="of a run of model.reader=llm: write the LLM with its LoRA merged, for model.llm.name; whole, if it learnt dialogues, "
        "else without a language-model head: it gives states to pool and generates no text",
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of a Hugging Face folder")
    options = parser.parse_args(arguments)
    if options.merged:
        import torch

        from mtllm_ds.transfer_sets.merged_llm import write_merged

        merged = write_merged(options.run, options.output, getattr(torch, options.dtype))
        print(f"merged the LoRA of {merged.name}, step {merged.step}, into {options.output}")
        return 0
    from mtllm_ds.checkpoint.export import write_export
    from mtllm_ds.checkpoint.model import trained_from_run

    trained = trained_from_run(options.run, options.step)
    if trained.lm_head is None:
        write_export(trained, options.output)
    else:
        import torch

        from mtllm_ds.transfer_sets.language_model import write_language_model

        write_language_model(trained, options.output, getattr(torch, options.dtype))
    # Those of single languages stand in the card.
    figures = ", ".join(f"{name} {value:.4g}" for name, value in trained.metrics.items() if "/" not in name)
    print(f"exported step {trained.step} ({figures or 'not validated'}) to {options.output}")
    return 0
