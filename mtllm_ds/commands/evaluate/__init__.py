"""`mtllm-ds evaluate`: `model` asks an exported model, on any number of ranks; `retrieval` scores its vectors on parallel text;
`generation` compares a model that writes with its LLM before training; `masked` scores any masked language model on plain text;
`baseline` and `tables` need no model.

mtllm-ds evaluate model --model EXPORT --task ddtp_topics --languages all --output DIR
mtllm-ds evaluate retrieval --model EXPORT --file parallel.jsonl --language deu_Latn
mtllm-ds evaluate generation --model EXPORT --input heldout.jsonl --output DIR
mtllm-ds evaluate masked --model FOLDER --input deu_Latn=FILE khm_Khmr=FILE --output DIR
mtllm-ds evaluate baseline --task lohelp_sample --system tfidf --output FILE
mtllm-ds evaluate tables --predictions FILE ... --output DIR
"""

from __future__ import annotations

from collections.abc import Sequence

from mtllm_ds.command_line import Parser, run_subcommand
from mtllm_ds.commands.evaluate.baseline import add_baseline
from mtllm_ds.commands.evaluate.generation import add_generation
from mtllm_ds.commands.evaluate.masked import add_masked
from mtllm_ds.commands.evaluate.model import add_model
from mtllm_ds.commands.evaluate.retrieval import add_retrieval
from mtllm_ds.commands.evaluate.tables import add_tables


def main(arguments: Sequence[str]) -> int:
    """Run one of the subcommands; without one, `model` is meant."""
    parser = Parser(prog="mtllm-ds evaluate", description="Evaluate models and baselines, and make tables.")
    given = ["model", *arguments] if arguments and arguments[0] == "--model" else arguments
    return run_subcommand(
        parser, (add_model, add_retrieval, add_generation, add_masked, add_baseline, add_tables), given
    )
