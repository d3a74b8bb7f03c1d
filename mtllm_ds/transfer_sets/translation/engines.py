"""Who translates, by what a user writes: a command, or an MT model."""

from __future__ import annotations

import torch

from mtllm_ds.errors import UserError
from mtllm_ds.transfer_sets.translation.command import PREFIX, TIME_OUT_SECONDS, CommandEngine
from mtllm_ds.transfer_sets.translation.mt_model import GREEDY, Decoding, MTModel
from mtllm_ds.transfer_sets.translation.translator import Engine


def load_engine(
    given: str,
    *,
    option: str = "--translator",
    decoding: Decoding = GREEDY,
    batch_size: int = 64,
    revision: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    time_out_seconds: float = TIME_OUT_SECONDS,
) -> Engine:
    """`command:PROGRAM ARGUMENTS`, or the name of an MT model, which alone the other settings but the last are for.

    Args:
        option: that names it, for messages

    Raises:
        UserError: there is no such command or model, or a command was given a model's settings.
    """
    if given.startswith(PREFIX):
        if revision is not None or decoding != GREEDY:
            raise UserError(
                f"{option}={given}: a command has no revision, beams or longest sentence; leave these options out"
            )
        return CommandEngine(given.removeprefix(PREFIX), time_out_seconds, option)
    return MTModel.from_pretrained(
        given, option=option, decoding=decoding, batch_size=batch_size, revision=revision, device=device, dtype=dtype
    )
