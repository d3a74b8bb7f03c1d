"""Base models and teachers of the hub, held at one commit: what is pushed there later changes neither a run nor what it saves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mtllm_ds.checkpoint.store import CheckpointState
from mtllm_ds.config.objective import TeacherModel
from mtllm_ds.config.schema import Settings
from mtllm_ds.config.sections import EncoderSettings, LLMSettings
from mtllm_ds.models.loading import stored_weights
from mtllm_ds.preflight.plan import RunPlan


def as_started(settings: Settings, state: CheckpointState) -> Settings:
    """The settings of a run that goes on: without a revision of their own they mean the commits that it was started with."""
    bases = state.bases  # those of another reader or of another teacher are refused by the rules of resuming
    return _at_commits(
        settings,
        {
            name: bases[name]["revision"]
            for name, chosen in _models(settings).items()
            if name in bases and chosen.revision is None and chosen.name == bases[name]["name"]
        },
    )


def held(plan: RunPlan) -> RunPlan:
    """The plan with weights of the hub fetched, hashed, and named by their commit in the settings and in what is saved.

    Of some models the hub holds safetensors only as a conversion beside the main branch, which transformers finds by itself
    but at no commit of that branch: they stay as they are named, and a warning says so.
    """
    bases, warnings = dict(plan.bases), list(plan.warnings)
    commits: dict[str, str | None] = {}
    for name, chosen in _models(plan.settings).items():
        kind, _, commit = str(bases[name]["fingerprint"]).partition(":")
        if kind != "hub":
            continue
        weights = stored_weights(chosen.name, commit)
        if weights is None:
            key = f"objective.{name}" if isinstance(chosen, TeacherModel) else f"model.{name}"
            warnings.append(
                f"{key}.name={chosen.name}: commit {commit} holds no safetensors, so the run cannot be held to it, and "
                f"what it saves is refused once the hub moves on; set {key}.revision to one that does (refs/pr/N)"
            )
            continue
        commits[name] = commit
        bases[name] = {**bases[name], "revision": commit, "weights": weights}
    return replace(plan, settings=_at_commits(plan.settings, commits), bases=bases, warnings=warnings)


def _models(settings: Settings) -> dict[str, EncoderSettings | LLMSettings | TeacherModel]:
    """What a run takes weights from, by its name among the bases that a checkpoint remembers."""
    model, bank = settings.model, settings.objective.bank
    teachers = {} if bank is None else {f"teacher_of.{language}": one for language, one in bank.models.items()}
    return {**{side: getattr(model, side) for side in model.sides}, **teachers}


def _at_commits(settings: Settings, commits: Mapping[str, str | None]) -> Settings:
    """The settings with these models at these revisions."""
    chosen = {
        name: one.model_copy(update={"revision": commits[name]}) if name in commits else one
        for name, one in _models(settings).items()
    }
    model = settings.model.model_copy(update={side: chosen[side] for side in settings.model.sides})
    objective, bank = settings.objective, settings.objective.bank
    if bank is not None:
        teachers = {language: chosen[f"teacher_of.{language}"] for language in bank.models}
        objective = objective.model_copy(update={"teacher_of": teachers})
    return settings.model_copy(update={"model": model, "objective": objective})
