"""What a run takes over from earlier ones, checked before any weight is loaded: its start, its teacher, its task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from mtllm_ds.checkpoint.trained import Trained, read_trained
from mtllm_ds.config.schema import Settings
from mtllm_ds.config.sections import ModelSettings
from mtllm_ds.data.shards.manifest import Manifest, TaskEntry
from mtllm_ds.data.text.tokenization import TextTokenizer
from mtllm_ds.errors import UserError
from mtllm_ds.models.loading import is_same_model
from mtllm_ds.models.text_models import looks_both_ways

Bases = dict[str, dict[str, str | None]]


def read_start(settings: Settings, bases: Bases) -> Trained | None:
    """The model that the run starts from, if any; `UserError` where it is not one of the same shape and base models."""
    model = settings.model
    if model.start is None:
        return None
    start = read_trained(model.start, "model.start")
    where = f"model.start={model.start}"
    if start.model.reader != model.reader:
        raise UserError(f"{where}: it is a model with reader={start.model.reader}; set model.reader to that")
    for side in model.sides:
        theirs = start.bases[side]
        if not _is_same(bases[side], theirs, f"{where}: its {side}"):
            place, keys = theirs["name"], "name"
            if theirs["revision"] is not None:
                place, keys = f"{place} at {theirs['revision']}", "name and .revision"
            raise UserError(f"{where}: it was trained on another {side} ({place}); set model.{side}.{keys} to that")
    direction = "llm" in model.sides and start.model.given_llm.bidirectional
    if "llm" in model.sides and direction != model.given_llm.bidirectional:
        raise UserError(f"{where}: it has bidirectional={str(direction).lower()}; set model.llm.bidirectional to that")
    if start.model.pooling != model.pooling:
        raise UserError(f"{where}: its vectors are pooled by {start.model.pooling}; set model.pooling to that")
    if model.reader == "stacked":
        for name in ("type", "hidden_size", "layers"):
            found = getattr(start.model.connector, name)
            if found != getattr(model.connector, name):
                shown = list(found) if isinstance(found, tuple) else found
                raise UserError(f"{where}: its connector has {name}={shown}; set model.connector.{name} to that")
    if start.model.trainable != model.trainable:
        trained = start.model.trainable
        shown = trained if isinstance(trained, str) else list(trained)
        raise UserError(f"{where}: of it model.trainable={shown} was trained; set model.trainable to that")
    for name in ("rank", "alpha"):
        theirs = getattr(start.model.lora, name)
        if model.trainable == "lora" and not model.merge_start_lora and theirs != getattr(model.lora, name):
            raise UserError(
                f"{where}: its LoRA has {name}={theirs}; set model.lora.{name} to that, or model.merge_start_lora=true"
            )
    wants_means = model.connector.centring == "language" and model.connector.centring_text is None
    if wants_means and "centring.means" not in start.weights:
        raise UserError(f"{where}: it has no means by language; name their text in model.connector.centring_text")
    return start


def read_teacher(settings: Settings, bases: Bases) -> Trained | None:
    """The teacher of a task distillation; `UserError` where it has no head, or no LoRA that the student could start with."""
    place = settings.objective.teacher_run
    if place is None:
        return None
    teacher = read_trained(place, "objective.teacher")
    if teacher.head is None or teacher.task is None:
        raise UserError(f"objective.teacher={place}: it has no head; name a run of objective.name=task_tuning")
    if teacher.model.pooling != settings.model.pooling:
        raise UserError(
            f"objective.teacher={place}: its vectors are pooled by {teacher.model.pooling}; set model.pooling to that"
        )
    if settings.objective.starts_at_teacher:
        _require_same_adapter(teacher, settings, bases)
    return teacher


def _require_same_adapter(teacher: Trained, settings: Settings, bases: Bases) -> None:
    """The student can start with the teacher's LoRA: it adapts the same LLM in the same shape."""
    where = f"objective.start_at_teacher=true: the teacher {settings.objective.teacher_run}"
    if teacher.trained_side != "llm" or not _is_same(bases["llm"], teacher.bases["llm"], f"{where}: its LLM"):
        name = teacher.bases[teacher.trained_side]["name"]
        raise UserError(f"{where} adapts another model ({name}); set start_at_teacher=false")
    if teacher.model.trainable != "lora":
        raise UserError(f"{where} has no LoRA, its own weights were trained; set start_at_teacher=false")
    for name in ("rank", "alpha"):
        theirs = getattr(teacher.model.lora, name)
        if theirs != getattr(settings.model.lora, name):
            raise UserError(f"{where} has a LoRA with {name}={theirs}; set model.lora.{name} to that")


def _is_same(found: Mapping[str, str | None], theirs: Mapping[str, Any], whose: str) -> bool:
    """Whether a base model of this run is that of another one; `UserError` where that cannot be told."""
    is_same = is_same_model(str(found["name"]), str(found["fingerprint"]), theirs)
    if is_same is None:
        raise UserError(
            f"{whose} ({theirs['name']}) cannot be compared with {found['name']}, as no hash of a hub model's weights is known "
            "here; name the same in both"
        )
    return is_same


def is_missing(place: str | None) -> bool:
    """Whether a run or export that was named is no longer there."""
    return place is not None and not Path(place).exists()


def teacher_gone_warning(settings: Settings) -> list[str]:
    """Said where a run goes on without its teacher."""
    return [
        f"objective.teacher={settings.objective.teacher_run}: gone since the run began; it goes on with the head that its "
        "checkpoint keeps, and takes the target set as it is"
    ]


def task_of(settings: Settings, manifests: list[Manifest], known: TaskEntry | None) -> TaskEntry | None:
    """The task of a run's shards, None where the objective has none; `UserError` where it is another than the one `known` from the
    teacher, or from the run that is resumed."""
    if not settings.objective.answers_a_task:
        return None
    expected = known or manifests[0].task
    if expected is None:
        raise UserError(
            f"data.train={manifests[0].storage.root}: its shards belong to no task; make them with mtllm-ds prepare task"
        )
    for name, manifest in zip(("data.train", "data.validation"), manifests, strict=False):
        found = manifest.task
        # Where no label is needed, shards of plain text serve, unless the task asks for choices.
        unlabelled = "label" not in settings.objective.columns and expected.type != "multiple_choice"
        if found is None and unlabelled and known is not None:
            continue
        if found is None or (found.type, found.labels) != (expected.type, expected.labels):
            raise UserError(
                f"{name}={manifest.storage.root}: {_named(found)}, expected {_named(expected)} "
                f"as {'the teacher or the run before has it' if known else 'the training shards have it'}; name other shards"
            )
    chosen = settings.objective.selected_by
    if chosen in ("accuracy", "macro_f1") and len(manifests) > 1 and manifests[1].task is None:
        raise UserError(
            f"objective.select_by={chosen}: data.validation has no labels; make it with mtllm-ds prepare task"
        )
    return expected


def check_centring(settings: Settings, encoder: TextTokenizer) -> None:
    """Centring needs tags and, where it names one, a place that exists."""
    connector = settings.model.connector
    if connector.centring == "none":
        return
    if not encoder.language_codes:
        raise UserError(
            f"model.connector.centring=language: {settings.model.given_encoder.name} has no language tags; set centring=none"
        )
    if connector.centring_text is not None and not Path(connector.centring_text).exists():
        raise UserError(
            f"model.connector.centring_text={connector.centring_text}: neither a folder of shards nor a JSON file; "
            "name one of the two"
        )


def warnings_of(settings: Settings, llm_config: PretrainedConfig | None) -> list[str]:
    """What is allowed but seldom meant, one line each."""
    model = settings.model
    found = []
    looks_one_way = llm_config is not None and "llm" in model.sides and not looks_both_ways(model.given_llm, llm_config)
    adapts = settings.objective.teaches_direction
    if looks_one_way and model.given_llm.bidirectional and not adapts:
        found.append(
            f"model.llm.bidirectional=true: {model.given_llm.name} is a causal LLM that was never adapted to it "
            "(its config.json says no is_causal=false); adapt it first (llm2vec_adapt.yaml), or set bidirectional=false"
        )
    untrained = not settings.connector_trains and model.start is None and model.connector.init == "default"
    if model.reader == "stacked" and untrained:
        found.append(
            "model.start=null with a frozen connector: the LLM reads through a random projection that never learns; "
            "name a stage-1 run in model.start, or set model.connector.trainable=true"
        )
    return [
        *found,
        *_seldom_pooled(model, llm_config, looks_one_way),
        *_slow_random_start(settings),
        *_of_8_bits(settings),
    ]


def _seldom_pooled(model: ModelSettings, llm_config: PretrainedConfig | None, base_looks_one_way: bool) -> list[str]:
    """Said where vectors lean on the last tokens of a model whose first have read as much."""
    base_looks_both_ways = llm_config is not None and not base_looks_one_way
    both_ways = model.reader == "encoder" or model.given_llm.bidirectional or base_looks_both_ways
    if model.pooling == "mean" or not both_ways:
        return []
    return [
        f"model.pooling={model.pooling}: is meant for causal LLMs, and this model looks both ways, so that a text's last tokens "
        "have read no more than its first; set it to mean"
        + (", or model.llm.bidirectional=false" if base_looks_one_way else "")
    ]


def _of_8_bits(settings: Settings) -> list[str]:
    """Said where 8-bit weights meet a teacher that has none, or responses that the student writes."""
    model = settings.model
    if "llm" not in model.sides or model.given_llm.quantization is None:
        return []
    found, where = [], f"model.llm.quantization={model.given_llm.quantization}"
    if settings.data.targets is not None:
        found.append(
            f"{where}: data.targets={settings.data.targets} were written by a teacher whose weights are not in 8 bits, so that the "
            "student starts with what rounding costs; leave out data.targets to let both read the same weights"
        )
    if getattr(settings.objective, "rollouts", None) is not None:
        found.append(
            f"{where}: responses are written token by token, and each token dequantises every weight anew, which makes them "
            "several times slower; set it to null where the weights fit"
        )
    return found


def _slow_random_start(settings: Settings) -> list[str]:
    """Said of a random connector that trains at less than the LLM's rate, at which short runs explain less than a constant."""
    model, rate = settings.model, settings.optim.connector_learning_rate
    is_random = model.reader == "stacked" and model.start is None and model.connector.init == "default"
    if not is_random or rate is None or rate >= settings.optim.learning_rate:
        return []
    wants_scale = model.connector.type == "linear" and not model.connector.match_scale
    return [
        f"optim.connector_learning_rate={rate}: below optim.learning_rate={settings.optim.learning_rate}, as a least-squares start "
        "wants it; a random connector has everything to learn, and moves little in hundreds of steps: remove it"
        + (", and set model.connector.match_scale=true" if wants_scale else "")
    ]


def _named(task: TaskEntry | None) -> str:
    return "no task" if task is None else f"the {task.type} '{task.name}' ({', '.join(task.labels)})"
