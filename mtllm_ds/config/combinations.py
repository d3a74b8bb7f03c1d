"""Settings that contradict each other or have no effect: each mistake in one line that says what to change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mtllm_ds.config.sections import Section, Sections

_OWNERS = {
    "sequence_weight": "pooled_alignment",
    "token_weight": "pooled_alignment",
    "mask_share": "masked_next_token",
    "mask_token": "masked_next_token",
    "temperature": "simcse",
    "attention_dropout": "simcse",
}
"""Settings that one objective alone reads."""


def mistakes(settings: Sections) -> Iterator[str]:
    """What does not fit together, first things first."""
    yield from _machine(settings)
    yield from _data(settings)
    yield from _connector(settings)
    yield from _reader(settings)
    yield from _objective(settings)


def _machine(settings: Sections) -> Iterator[str]:
    if settings.model.attention.startswith("flash") and settings.training.precision == "fp32":
        yield (
            f"model.attention={settings.model.attention} cannot run in training.precision=fp32: "
            "set training.precision=bf16 or model.attention=sdpa"
        )
    run = settings.run
    if run.seeds is not None and (not run.seeds or len(set(run.seeds)) < len(run.seeds) or min(run.seeds) < 0):
        yield f"run.seeds={list(run.seeds)}: give at least one seed, each once and none negative"
    if run.seeds is not None and run.seed:
        yield f"run.seed={run.seed} has no effect beside run.seeds: remove one of the two"


def _data(settings: Sections) -> Iterator[str]:
    data = settings.data
    if (data.encoder_tokens_per_cell is None) != (data.llm_tokens_per_cell is None):
        yield "data.encoder_tokens_per_cell and data.llm_tokens_per_cell belong together: set both, or neither"
    if data.has_budgets and data.samples_per_cell is not None:
        yield (
            f"data.samples_per_cell={data.samples_per_cell} has no effect beside token budgets: remove one of the two"
        )
    if not data.has_budgets:
        yield from _unread(data, "data", ("queue_size", "encoder_buckets"), "without token budgets")
    if data.on_error == "fail":
        yield from _unread(data, "data", ("max_skipped_share",), "with data.on_error=fail")
    if data.validation is None:
        yield from _unread(data, "data", ("validation_samples",), "without data.validation")


def _unread(section: Section, name: str, fields: Iterable[str], why: str) -> Iterator[str]:
    """Fields of a section that nothing reads, where they are not at their defaults."""
    for field in fields:
        value = getattr(section, field)
        if value != type(section).model_fields[field].default:
            shown = str(value).lower() if isinstance(value, bool) else value
            yield f"{name}.{field}={shown} has no effect {why}: remove it"


def _connector(settings: Sections) -> Iterator[str]:
    connector, model = settings.model.connector, settings.model
    closed_form = connector.init == "least_squares" or connector.match_scale
    where = "model.connector"
    if not closed_form:
        yield from _unread(connector, where, ("init_documents",), f"without {where}.init=least_squares or match_scale")
    if connector.init != "least_squares":
        yield from _unread(connector, where, ("init_ridge",), f"without {where}.init=least_squares")
    if connector.centring_text is None:
        yield from _unread(connector, where, ("centring_documents",), f"without {where}.centring_text")
    if model.reader == "stacked" and not settings.connector_trains:
        yield from _unread(settings.optim, "optim", ("connector_learning_rate",), "on a frozen connector")
    if connector.type == "linear" and connector.hidden_size is not None:
        yield (
            f"model.connector.hidden_size={connector.hidden_size} has no effect with "
            "model.connector.type=linear: remove it or set model.connector.type=mlp"
        )
    if connector.type == "mlp" and closed_form:
        yield (
            "model.connector.init=least_squares and model.connector.match_scale=true have a closed form only for "
            "model.connector.type=linear: set type=linear, or init=default and match_scale=false"
        )
    if model.start is not None and closed_form:
        yield (
            "model.connector.init and model.connector.match_scale have no effect beside model.start, which brings its "
            "connector: set init=default and match_scale=false, or model.start=null"
        )
    if model.start is None and connector.centring == "language" and connector.centring_text is None:
        yield "model.connector.centring=language: name a folder of shards or a JSON file of means in model.connector.centring_text"
    if connector.centring == "none" and connector.centring_text is not None:
        yield (
            f"model.connector.centring_text={connector.centring_text} has no effect with model.connector.centring=none: "
            "set centring=language or remove it"
        )


def _reader(settings: Sections) -> Iterator[str]:
    model, connector = settings.model, settings.model.connector
    if model.start is None and model.merge_start_lora:
        yield "model.merge_start_lora=true has no effect without model.start: name the run or export to start from"
    if model.reader == "stacked":
        return
    yield from _unread(settings.optim, "optim", ("connector_learning_rate",), f"with model.reader={model.reader}")
    if connector != type(connector)():
        yield f"model.connector has no effect with model.reader={model.reader}: leave its settings at their defaults"
    if model.reader == "encoder" and model.liger:
        yield "model.liger=true has no effect with model.reader=encoder: set it to false"
    if settings.objective.name in ("pooled_alignment", "task_distillation"):
        yield (
            f"objective.name={settings.objective.name} trains the stack: set model.reader=stacked, "
            "or objective.name=task_tuning"
        )


def _objective(settings: Sections) -> Iterator[str]:
    objective, targets = settings.objective, settings.data.targets
    if objective.name == "task_distillation":
        if objective.teacher is None:
            yield "objective.name=task_distillation: name the teacher's run or export in objective.teacher"
        if targets is None:
            yield "objective.name=task_distillation: name the teacher's target set in data.targets (prepare.py teacher-targets)"
    else:
        unread = None if objective.name == "pooled_alignment" else targets
        for name, value in (("objective.teacher", objective.teacher), ("data.targets", unread)):
            if value is not None:
                yield f"{name}={value} has no effect with objective.name={objective.name}: remove it"
        yield from _unread(
            objective, "objective", ("match", "start_at_teacher"), f"with objective.name={objective.name}"
        )
    if objective.start_at_teacher and not settings.model.merge_start_lora:
        yield (
            "objective.start_at_teacher=true would replace the LoRA of model.start by the teacher's: "
            "set model.merge_start_lora=true, or remove it"
        )
    if not objective.name.startswith("task") and objective.select_by == "accuracy":
        yield f"objective.select_by=accuracy: objective.name={objective.name} has no labels, set select_by=loss"
    if objective.name in ("masked_next_token", "simcse"):
        yield from _adaptation(settings)
    for name, owner in _OWNERS.items():
        if objective.name != owner:
            yield from _unread(objective, "objective", (name,), f"with objective.name={objective.name}")
    yield from _weights(settings)


def _weights(settings: Sections) -> Iterator[str]:
    objective = settings.objective
    if objective.token_weight and settings.data.targets is not None:
        yield (
            "objective.token_weight needs the teacher's states, and data.targets holds its pooled vectors only: "
            "remove one of the two"
        )
    elif not objective.token_weight + objective.sequence_weight:
        yield "objective.sequence_weight and objective.token_weight are both 0: set one of them"


def _adaptation(settings: Sections) -> Iterator[str]:
    name = settings.objective.name
    if settings.model.reader != "llm":
        yield f"objective.name={name} adapts the LLM alone: set model.reader=llm"
    if not settings.model.llm.bidirectional:
        yield f"objective.name={name} teaches the LLM to look both ways: set model.llm.bidirectional=true"
    if settings.data.has_budgets:
        yield f"objective.name={name} packs no samples: set data.samples_per_cell in place of the token budgets"
    elif name == "simcse" and (settings.data.samples_per_cell or 0) < 2:
        yield "objective.name=simcse compares the texts of a cell: set data.samples_per_cell to 2 or more"
