"""No step that any rank could not take soundly goes unnoticed: all ranks stop together, and one line says why."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import nn

from mtllm_ds.cluster.agree import lowest_rank_where, lowest_ranks_where, own_rank
from mtllm_ds.config.failures import FailureSettings
from mtllm_ds.errors import PeerFailedError, UnsoundStepError
from mtllm_ds.training.history import History


@dataclass(frozen=True, kw_only=True)
class StepFacts:
    """What one rank knows of a step that it has taken."""

    loss: float
    """Its own summed loss."""
    grad_norm: float
    """Of all ranks together."""
    largest_weight: float
    """Of its share of the fp32 weights, after the update."""
    applied: bool
    """False where DeepSpeed skipped the update, as it does without a word when the gradient norm is not finite."""


def require_sound_step(
    step: int,
    facts: StepFacts,
    device: torch.device,
    has_bad_gradient: Callable[[], bool] = lambda: False,
    *,
    may_be_left_out: bool = False,
) -> str | None:
    """Stop every rank if any rank's step was not finite or not applied; the lowest rank where it began says so.

    The gradient norm is the same on all ranks: where all losses were finite, `has_bad_gradient` says whether this rank's own
    gradient is to blame. It is called by all ranks or by none.

    Returns:
        None for a sound step; with `may_be_left_out`, on all ranks a line about a step whose update no rank made.

    Raises:
        UnsoundStepError: on the rank that speaks.
        PeerFailedError: on the others.
    """
    has_norm, has_weights = math.isfinite(facts.grad_norm), math.isfinite(facts.largest_weight)
    unsound = not (has_norm and has_weights and facts.applied)
    bad_loss, bad_step, bad_norm, updated = lowest_ranks_where(
        [not math.isfinite(facts.loss), unsound, not has_norm, facts.applied or not has_weights], device
    )
    culprit = bad_step if bad_loss is None else bad_loss
    if culprit is None:
        return None
    if may_be_left_out and updated is None:
        where = "a gradient was" if bad_loss is None else f"rank {bad_loss}'s loss was"
        return f"step {step}: {where} not finite, the update of all ranks was left out"
    if bad_loss is None and bad_norm is not None:
        own = lowest_rank_where(has_bad_gradient(), device)
        culprit = culprit if own is None else own
    update = "skipped" if not facts.applied else "applied"
    if not has_weights:
        update = f"applied and left a largest weight of {facts.largest_weight:g}"
    _stop(
        culprit,
        f"step {step}: rank {culprit} could not take it soundly (its summed loss {facts.loss:g}, gradient norm of all ranks "
        f"{facts.grad_norm:g}, update {update}), nothing was saved since the last checkpoint; "
        "lower optim.learning_rate or look at this step's data, then go on with --resume",
    )


def require_no_spike(step: int, loss: float, history: History, failures: FailureSettings) -> None:
    """Stop every rank at a spike of the loss that the settings let no run go beyond; all ranks bring the same."""
    if failures.on_loss_spike == "stop":
        _stop(
            0,
            f"step {step}: the loss of {loss:.4g} is a spike, nothing was saved since the last checkpoint; lower "
            "optim.learning_rate or look at this step's data, then go on with --resume and failures.on_loss_spike=roll_back",
        )
    if failures.on_loss_spike == "roll_back" and history.num_roll_backs >= failures.max_roll_backs:
        _stop(
            0,
            f"step {step}: the loss of {loss:.4g} is a spike after {history.num_roll_backs} rolls back; lower optim.learning_rate, "
            "or raise failures.max_roll_backs, then go on with --resume",
        )


def require_way_back(step: int, loss: float, has_checkpoint: bool) -> None:
    """Stop every rank at a spike of the loss before the first checkpoint; all ranks bring the same."""
    if not has_checkpoint:
        _stop(
            0,
            f"step {step}: the loss of {loss:.4g} is a spike, and there is no checkpoint yet for failures.on_loss_spike=roll_back; "
            "lower optim.learning_rate or run.save_every, then start again",
        )


def require_sound_figures(step: int, figures: Mapping[str, float]) -> None:
    """Stop every rank after a validation whose loss is not finite; all ranks bring the same figures."""
    loss = figures["eval_loss"]
    if not math.isfinite(loss):
        _stop(
            0,
            f"step {step}: the validation loss is {loss:g}, nothing was saved since the last checkpoint; lower optim.learning_rate "
            "or look at the validation data, then go on with --resume",
        )


@contextmanager
def watched_gradients(parameters: Iterable[nn.Parameter], device: torch.device) -> Iterator[torch.Tensor]:
    """A flag, (1,) bool, that rises when a gradient that this rank brings is not finite; looked at before ranks are summed up."""
    seen = torch.zeros(1, dtype=torch.bool, device=device)

    def look(gradient: torch.Tensor) -> None:
        seen.logical_or_(~torch.isfinite(gradient).all())

    handles = [parameter.register_hook(look) for parameter in parameters if parameter.requires_grad]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _stop(culprit: int, message: str) -> NoReturn:
    if own_rank() != culprit:
        raise PeerFailedError(UnsoundStepError.exit_status)
    raise UnsoundStepError(message)
