"""`mtllm-ds prepare`: `tokenizer` trains one on text, `premiums` measures bytes; `shards` turns raw text into a data set for
training, `task` the labelled items of a task, `dialogues` prompts and responses, which `sdrrl` makes of a chat model's own answers;
`merge` makes one of what several machines prepared; `teacher-targets` adds what a teacher makes of each sample; `verify`, `stats`
and `show` look at one.

mtllm-ds prepare tokenizer --input deu_Latn=FILE khm_Khmr=FILE --vocab-size 32000 --output DIR
mtllm-ds prepare shards --input FILE --language eng_Latn --encoder PATH --llm PATH --output DIR
mtllm-ds prepare dialogues --input FILE --encoder PATH --llm PATH --output DIR
mtllm-ds prepare sdrrl --llm PATH --instructions FILE --translator CODE=command:'PROGRAM ...' --output DIR
mtllm-ds prepare merge DIR
mtllm-ds prepare task --task ddtp_topics --split train --encoder PATH --llm PATH --output DIR
deepspeed --module mtllm_ds prepare teacher-targets --teacher RUN --data DIR --name teacher
"""

from __future__ import annotations

from collections.abc import Sequence

from mtllm_ds.command_line import Parser, run_subcommand
from mtllm_ds.commands.prepare.dialogues import add_dialogues
from mtllm_ds.commands.prepare.inspection import add_inspections
from mtllm_ds.commands.prepare.merge import add_merge
from mtllm_ds.commands.prepare.premiums import add_premiums
from mtllm_ds.commands.prepare.sdrrl import add_sdrrl
from mtllm_ds.commands.prepare.shards import add_shards
from mtllm_ds.commands.prepare.task import add_task
from mtllm_ds.commands.prepare.teacher_targets import add_teacher_targets
from mtllm_ds.commands.prepare.tokenizer import add_tokenizer


def main(arguments: Sequence[str]) -> int:
    """Run one of the subcommands."""
    parser = Parser(prog="mtllm-ds prepare", description="Prepare data for training.")
    commands = (
        add_tokenizer, add_premiums, add_shards, add_task, add_dialogues, add_sdrrl, add_merge, add_teacher_targets,
        add_inspections,
    )  # fmt: skip
    return run_subcommand(parser, commands, arguments)
