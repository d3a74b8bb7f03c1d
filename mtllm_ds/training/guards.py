"""No step that any rank could not take soundly goes unnoticed: all ranks stop together, and one line says why."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist

from mtllm_ds.cluster.agree import lowest_rank_where
from mtllm_ds.errors import PeerFailedError, UnsoundStepError


def require_sound_step(step: int, loss: float, grad_norm: float, applied: bool, device: torch.device) -> None:
    """Stop every rank if any rank's step was not finite or not applied; the lowest such rank says so.

    `loss` is this rank's own summed loss of the step; DeepSpeed skips an update with a non-finite gradient norm
    without a word, which `applied` tells.
    """
    sound = math.isfinite(loss) and math.isfinite(grad_norm) and applied
    culprit = lowest_rank_where(not sound, device)
    if culprit is None:
        return
    if dist.is_initialized() and dist.get_rank() != culprit:
        raise PeerFailedError(UnsoundStepError.exit_status)
    seen = f"summed loss {loss:g}, gradient norm {grad_norm:g}, update {'applied' if applied else 'skipped'}"
    raise UnsoundStepError(
        f"step {step}: rank {culprit} could not take it soundly ({seen}), nothing was saved since the last checkpoint; "
        "lower optim.learning_rate or look at this step's data, then go on with --resume"
    )
