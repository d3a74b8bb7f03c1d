"""Whether the teacher goes through the LLM's layers beside the student, decided before any weight is loaded."""

from __future__ import annotations

from transformers import PretrainedConfig

from mtllm_ds.config.schema import Settings
from mtllm_ds.errors import UserError
from mtllm_ds.models.pairing import Pairing, pairing_of
from mtllm_ds.models.text_models import text_model_class


def check_pairing(settings: Settings, config: PretrainedConfig | None, zero_stage: int) -> Pairing | None:
    """What `model.paired_sweep` comes to; None where there are no two passes, or it is false.

    Raises:
        UserError: it is true, and cannot hold.
    """
    wanted = settings.model.paired_sweep
    found = _pairing(settings, config, zero_stage) if wanted else None
    if wanted is True and (found is None or found.failure):
        why = found.failure if found else "the teacher of this run is not the LLM itself, run beside the student"
        raise UserError(f"model.paired_sweep=true: {why}; set it to auto")
    return found


def pairing_line(pairing: Pairing | None) -> tuple[str, ...]:
    """What to print of it."""
    if pairing is None:
        return ()
    if pairing.failure:
        return (f"teacher     a pass of its own: {pairing.failure}",)
    return ("teacher     the LLM itself, layer by layer beside the student (model.paired_sweep)",)


def _pairing(settings: Settings, config: PretrainedConfig | None, zero_stage: int) -> Pairing | None:
    if settings.teacher_kind != "frozen_self" or config is None:
        return None
    if zero_stage < 3:
        return Pairing(failure=f"ZeRO stage {zero_stage} leaves weights whole, so that there is nothing to gather")
    if settings.objective.asks_teacher_ahead:
        return Pairing(
            failure="objective.contrastive_weight wants its vectors of a whole step before the first forward"
        )
    llm, text = settings.model.given_llm, config.get_text_config()
    found = pairing_of(text_model_class(text, llm), text, llm.bidirectional)
    if not found.failure:
        return found
    return Pairing(failure=f"the layers of this {text.model_type} model cannot be run side by side ({found.failure})")
