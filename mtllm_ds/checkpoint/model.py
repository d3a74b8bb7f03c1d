"""What a run or an export holds of a model, in one shape: settings, weights by the reader's own names, head and task."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mtllm_ds.checkpoint.adapters import one_adapter
from mtllm_ds.checkpoint.retention import folder_to_use
from mtllm_ds.checkpoint.store import CheckpointState, load_kept, load_trainable, read_state
from mtllm_ds.config.load import parse_saved
from mtllm_ds.config.sections import ModelSettings
from mtllm_ds.data.shards.manifest import ChatEntry, TaskEntry
from mtllm_ds.data.shards.targets import TeacherIdentity
from mtllm_ds.errors import UserError
from mtllm_ds.weight_names import HEAD, LM_HEAD, is_addition, is_head, is_lm_head, is_of_encoder, own_name, part

LAYOUT = "replace"
"""Of models that nobody asked where the encoder's states stand."""


@dataclass(frozen=True)
class Trained:
    """A trained model without its base models. Only base models of `model.sides` are needed to run it."""

    place: Path
    """Where it was read."""
    model: ModelSettings
    """Base models where they were when it was trained; the rank of its one adapter."""
    bases: dict[str, dict[str, Any]]
    """By side: name, revision and fingerprint of the base models, and of the hub's a hash of their weights."""
    weights: dict[str, torch.Tensor]
    """fp32 connector, LoRA, centring, and weights of base models that trained, under the model's own names."""
    head: dict[str, torch.Tensor] | None
    """fp32 `weight` and, where it has one, `bias` of the task head."""
    task: TaskEntry | None
    """What the head answers."""
    lm_head: dict[str, torch.Tensor] | None
    """fp32 tensors of the head of a language model that trained with it, but for a matrix tied to the input embeddings; None where
    none trained."""
    chat: ChatEntry | None
    """How the dialogues that it was trained on were put into words, where it was."""
    layout: str
    """Of a stack that goes on with responses: where the encoder's states stand (`objective.layout`)."""
    objective: str
    """Name of the objective it was trained by."""
    step: int
    metrics: dict[str, float]

    @property
    def trained_side(self) -> str:
        """The base model that was trained."""
        return self.model.sides[-1]

    @property
    def has_trained_encoder(self) -> bool:
        """Whether its weights hold some of the encoder's own."""
        return any(is_of_encoder(name) and not is_addition(name) for name in self.weights)

    @property
    def reading_side(self) -> str:
        """The tokenizer whose ids it reads."""
        return self.model.sides[0]

    def as_teacher(self, tokenizer_fingerprint: str) -> TeacherIdentity:
        """Who it is as the teacher of a target set; the fingerprint is that of the tokenizer whose ids it reads."""
        return TeacherIdentity(name=self.name, revision=self.fingerprint, tokenizer_fingerprint=tokenizer_fingerprint)

    @property
    def name(self) -> str:
        """Name of the trained base model, without its folder."""
        return Path(str(self.bases[self.trained_side]["name"])).name

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over weights, head, labels and pooling: the same for a run and its export."""
        digest = hashlib.sha256(repr(self.task and asdict(self.task)).encode())
        if self.model.pooling != "mean":  # nothing of means: what is known of older models stays true
            digest.update(f"pooling {self.model.pooling}".encode())
        head = {f"{HEAD}{name}": tensor for name, tensor in (self.head or {}).items()}
        lm_head = {f"{LM_HEAD}{name}": tensor for name, tensor in (self.lm_head or {}).items()}
        for name, tensor in sorted({**self.weights, **head, **lm_head}.items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return f"sha256:{digest.hexdigest()}"


def trained_from_run(run: Path, step: int | None = None) -> Trained:
    """A run's best checkpoint (or that of `step`); `UserError` where there is none or it is damaged."""
    root = run / "checkpoints"
    folder = folder_to_use(root) if step is None else root / f"step_{step:08d}"
    if folder is None or not folder.is_dir():
        raise UserError(
            f"run {run}: no checkpoint{'' if step is None else f' of step {step}'} in {root}; name a run that has saved one"
        )
    state = read_state(folder)
    settings = parse_saved(state.settings, where=f"checkpoint {folder}")
    tensors = {own_name(name): tensor for name, tensor in {**load_kept(folder), **load_trainable(folder)}.items()}
    head = part(tensors, HEAD)
    weights = {name: tensor for name, tensor in tensors.items() if not (is_head(name) or is_lm_head(name))}
    weights, lora = one_adapter(weights, settings.model.lora)
    return Trained(
        place=run,
        model=_with_bases(settings.model, state).model_copy(update={"lora": lora}),
        bases=state.bases,
        weights=weights,
        head=head or None,
        task=task_entry(state.task),
        chat=chat_entry(state.chat),
        layout=getattr(settings.objective, "layout", LAYOUT),
        lm_head=part(tensors, LM_HEAD) if settings.objective.trains_lm_head else None,
        objective=settings.objective.name,
        step=state.step,
        metrics=state.metrics,
    )


def task_entry(content: Mapping[str, Any] | None) -> TaskEntry | None:
    """A task as JSON holds it."""
    return None if content is None else TaskEntry(content["name"], content["type"], tuple(content["labels"]))


def chat_entry(content: Mapping[str, Any] | None) -> ChatEntry | None:
    """What JSON holds of how dialogues are put into words."""
    return None if content is None else ChatEntry(**content)


def _with_bases(model: ModelSettings, state: CheckpointState) -> ModelSettings:
    """The settings with the base models' places and commits as the checkpoint remembers them."""
    found = {side: {key: state.bases[side][key] for key in ("name", "revision")} for side in model.given}
    return model.model_copy(update={side: model.given[side].model_copy(update=place) for side, place in found.items()})
