"""A dialogue as its readers get it, for a person: prompts side by side, tokens parted, ids at the border of the response, and where
it comes from."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mtllm_ds.data.columns import ENCODER_IDS, LLM_IDS, RESPONSE_START, STUDENT_PROMPT_IDS

_BORDER_TOKENS = 4
Pieces = Callable[[list[int]], Sequence[str]]
"""What each token of some ids reads"""


def dialogue_lines(columns: Mapping[str, Any], row: int, pieces: Mapping[str, Pieces]) -> list[str]:
    """One sample of a block of dialogues; `pieces` by side, of the tokenizers that are at hand."""
    ids = [int(token) for token in columns[LLM_IDS][row]]
    start = int(columns[RESPONSE_START][row])
    prompts = {"teacher": ids[:start]}
    if STUDENT_PROMPT_IDS in columns:
        prompts = {"student": [int(token) for token in columns[STUDENT_PROMPT_IDS][row]], **prompts}
    lines = []
    if len(columns[ENCODER_IDS][row]):
        read = [int(token) for token in columns[ENCODER_IDS][row]]
        lines.append(f"encoder   {_parted(pieces['encoder'], read)}  ({len(read)} tokens)")
    for reader, prompt in prompts.items():
        lines.append(f"{reader:9} {_parted(pieces['llm'], prompt)}  ({len(prompt)} tokens)")
    lines.append(f"response  {_parted(pieces['llm'], ids[start:])}  ({len(ids) - start} tokens)")
    for reader, prompt in prompts.items():
        before, after = prompt[-_BORDER_TOKENS:], ids[start : start + _BORDER_TOKENS]
        lines.append(f"border    {reader}: {before} -> {after} ... {ids[-1]}")
    return lines


def record_lines(record: Mapping[str, Any]) -> list[str]:
    """Where a dialogue comes from: its record, and what each stage of a pipeline made on the way to it (`history`)."""
    history = record.get("history", {})
    stages, link = {}, history
    # A user's own history may be anything.
    if isinstance(history, dict) and isinstance(history.get("made_of"), dict):
        stages, link = history["made_of"], {name: own for name, own in history.items() if name != "made_of"}
    told = (
        {name: record[name] for name in ("id", "place") if name in record} | stages | ({"pair": link} if link else {})
    )
    return [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in told.items()]


def _parted(pieces: Pieces, ids: list[int]) -> str:
    return repr("|".join(pieces(ids)))[1:-1]
