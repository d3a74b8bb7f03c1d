"""Base models of the hub, held at one commit: what is pushed there later changes neither a run nor what it saves."""

from __future__ import annotations

from dataclasses import replace

from mtllm_ds.checkpoint.store import CheckpointState
from mtllm_ds.config.schema import Settings
from mtllm_ds.models.loading import stored_weights
from mtllm_ds.preflight.plan import RunPlan


def as_started(settings: Settings, state: CheckpointState) -> Settings:
    """The settings of a run that goes on: without a revision of their own they mean the commits that it was started with."""
    model, bases = settings.model, state.bases
    for side in model.sides:
        chosen = getattr(model, side)
        if side not in bases:  # another reader than before, which the rules of resuming refuse
            continue
        if chosen.revision is None and chosen.name == bases[side]["name"]:
            model = model.model_copy(update={side: chosen.model_copy(update={"revision": bases[side]["revision"]})})
    return settings.model_copy(update={"model": model})


def held(plan: RunPlan) -> RunPlan:
    """The plan with weights of the hub fetched, hashed, and named by their commit in the settings and in what is saved.

    Of some models the hub holds safetensors only as a conversion beside the main branch, which transformers finds by itself
    but at no commit of that branch: they stay as they are named, and a warning says so.
    """
    model, bases, warnings = plan.settings.model, dict(plan.bases), list(plan.warnings)
    for side in model.sides:
        chosen = getattr(model, side)
        kind, _, commit = str(bases[side]["fingerprint"]).partition(":")
        if kind != "hub":
            continue
        weights = stored_weights(chosen.name, commit)
        if weights is None:
            warnings.append(
                f"model.{side}.name={chosen.name}: commit {commit} holds no safetensors, so the run cannot be held to it, and "
                f"what it saves is refused once the hub moves on; set model.{side}.revision to one that does (refs/pr/N)"
            )
            continue
        model = model.model_copy(update={side: chosen.model_copy(update={"revision": commit})})
        bases[side] = {**bases[side], "revision": commit, "weights": weights}
    settings = plan.settings.model_copy(update={"model": model})
    return replace(plan, settings=settings, bases=bases, warnings=warnings)
