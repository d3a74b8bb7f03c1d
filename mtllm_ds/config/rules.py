"""Settings that contradict each other or have no effect: each mistake in one line that says what to change."""

from __future__ import annotations

from collections.abc import Iterator

from mtllm_ds.config.failures import mistakes_of_failures
from mtllm_ds.config.objectives import ObjectiveSettings
from mtllm_ds.config.section import unread
from mtllm_ds.config.sections import CommonSections


def mistakes(settings: CommonSections, objective: ObjectiveSettings, connector_trains: bool) -> Iterator[str]:
    """What does not fit together, first things first."""
    yield from _machine(settings)
    yield from mistakes_of_failures(settings.failures)
    yield from _data(settings)
    yield from _connector(settings, connector_trains)
    yield from _encoder(settings)
    yield from _reader(settings)
    yield from _objective(settings, objective)


def _machine(settings: CommonSections) -> Iterator[str]:
    if settings.model.attention.startswith("flash") and settings.training.precision == "fp32":
        yield (
            f"model.attention={settings.model.attention}: cannot run in training.precision=fp32; "
            "set training.precision=bf16 or model.attention=sdpa"
        )
    run = settings.run
    if (step := settings.training.flops_profiler_step) is not None and step > run.max_steps:
        yield f"training.flops_profiler_step={step}: has no effect with run.max_steps={run.max_steps}; lower it, or remove it"
    if run.seeds is not None and (not run.seeds or len(set(run.seeds)) < len(run.seeds)):
        yield f"run.seeds={list(run.seeds)}: not a list of seeds; give at least one seed, each once"
    if run.seeds is not None and run.seed:
        yield f"run.seed={run.seed}: has no effect beside run.seeds; remove one of the two"
    if run.keep_every is not None and run.keep_every % run.save_every:
        yield f"run.keep_every={run.keep_every}: no multiple of run.save_every={run.save_every}; set it to one"


def _data(settings: CommonSections) -> Iterator[str]:
    data = settings.data
    budgets = {"encoder": data.encoder_tokens_per_cell, "llm": data.llm_tokens_per_cell}
    for side, budget in budgets.items():
        is_read = side in settings.model.given
        if data.has_budgets and budget is None and is_read:
            yield f"data.{side}_tokens_per_cell=null: the other side has a budget, and model.{side} is read too; set it"
        if budget is not None and not is_read:
            yield f"data.{side}_tokens_per_cell={budget}: has no effect without model.{side}; remove it"
    if data.has_budgets and data.samples_per_cell is not None:
        yield (
            f"data.samples_per_cell={data.samples_per_cell}: has no effect beside token budgets; remove one of the two"
        )
    if not data.has_budgets:
        yield from unread(data, "data", ("queue_size", "encoder_buckets"), "without token budgets")
    if data.on_error == "fail":
        yield from unread(data, "data", ("max_skipped_share",), "with data.on_error=fail")
    if data.validation is None:
        yield from unread(data, "data", ("validation_samples",), "without data.validation")
        yield from unread(settings.run, "run", ("validate_at_start",), "without data.validation")


def _connector(settings: CommonSections, connector_trains: bool) -> Iterator[str]:
    connector, model = settings.model.connector, settings.model
    closed_form = connector.init == "least_squares" or connector.match_scale
    where = "model.connector"
    if not closed_form:
        yield from unread(connector, where, ("init_documents",), f"without {where}.init=least_squares or match_scale")
    if connector.init != "least_squares":
        yield from unread(connector, where, ("init_ridge",), f"without {where}.init=least_squares")
    if connector.centring_text is None:
        yield from unread(connector, where, ("centring_documents",), f"without {where}.centring_text")
    if model.reader == "stacked" and not connector_trains:
        yield from unread(settings.optim, "optim", ("connector_learning_rate",), "on a frozen connector")
    if connector.type == "linear" and connector.hidden_size is not None:
        yield (
            f"model.connector.hidden_size={connector.hidden_size}: has no effect with "
            "model.connector.type=linear; remove it or set model.connector.type=mlp"
        )
    if connector.type == "mlp" and closed_form:
        yield (
            "model.connector.type=mlp: init=least_squares and match_scale=true have a closed form only for a linear one; "
            "set type=linear, or init=default and match_scale=false"
        )
    if model.start is not None and closed_form:
        yield (
            f"model.start={model.start}: brings its connector, so that model.connector.init and match_scale have no effect; "
            "set init=default and match_scale=false, or model.start=null"
        )
    if model.start is None and connector.centring == "language" and connector.centring_text is None:
        yield (
            "model.connector.centring=language: needs means by language; name a folder of shards or a JSON file of means in "
            "model.connector.centring_text"
        )
    if connector.centring == "language" and connector.layers != "last":
        yield (
            f"model.connector.layers={_shown(connector.layers)}: changes what means by language are of while it trains; set it to "
            "last, or model.connector.centring=none"
        )
    if connector.centring == "none" and connector.centring_text is not None:
        yield (
            f"model.connector.centring_text={connector.centring_text}: has no effect with model.connector.centring=none; "
            "set centring=language or remove it"
        )


def _encoder(settings: CommonSections) -> Iterator[str]:
    model = settings.model
    count = 0 if model.encoder is None else model.encoder.num_trainable_layers
    if not count:
        why = "without model.encoder.num_trainable_layers"
        yield from unread(settings.optim, "optim", ("encoder_learning_rate",), why)
        return
    where = f"model.encoder.num_trainable_layers={count}"
    if model.reader == "encoder":
        yield f"{where}: has no effect with model.reader=encoder; remove it, and name in model.trainable what trains"
    elif model.reader != "stacked":
        yield f"{where}: has no effect with model.reader={model.reader}; remove it"
    if model.connector.centring == "language":
        yield f"{where}: changes what means by language are of while it trains; set it to 0, or model.connector.centring=none"


def _shown(value: str | tuple[object, ...]) -> str | list[object]:
    """A name or a list as recipes write it."""
    return value if isinstance(value, str) else list(value)


def _reader(settings: CommonSections) -> Iterator[str]:
    model, connector = settings.model, settings.model.connector
    for side in model.sides:
        if side not in model.given:
            yield f"model.{side}.name is missing: model.reader={model.reader} needs it; set it"
    yield from _trainable(settings)
    yield from _quantization(settings)
    yield from _from_scratch(settings)
    if model.start is None and model.merge_start_lora:
        yield "model.merge_start_lora=true: has no effect without model.start; name the run or export to start from"
    if model.reader == "stacked":
        return
    yield from unread(settings.optim, "optim", ("connector_learning_rate",), f"with model.reader={model.reader}")
    if connector != type(connector)():
        yield f"model.connector: has no effect with model.reader={model.reader}; leave its settings at their defaults"
    if model.reader == "encoder" and model.liger:
        yield "model.liger=true: has no effect with model.reader=encoder; set it to false"


def _from_scratch(settings: CommonSections) -> Iterator[str]:
    model = settings.model
    if model.llm is None or not model.llm.from_scratch:
        if model.llm is not None and model.llm.config:
            yield f"model.llm.config={model.llm.config}: has no effect without model.llm.from_scratch=true; remove it"
        return
    if model.reader != "llm":
        yield f"model.llm.from_scratch=true: model.reader={model.reader} needs a trained LLM; set it to false"
    if model.trainable != "all":
        yield "model.llm.from_scratch=true: what is not trained would stay random; set model.trainable=all"
    if model.start is not None:
        yield f"model.llm.from_scratch=true: has no effect beside model.start={model.start}; remove one of the two"


def _quantization(settings: CommonSections) -> Iterator[str]:
    model = settings.model
    if model.llm is None or model.llm.quantization is None:
        return
    where = f"model.llm.quantization={model.llm.quantization}"
    if "llm" not in model.sides:
        yield f"{where}: has no effect with model.reader={model.reader}; remove it"
    elif model.trainable != "lora":
        yield f"{where}: weights in 8 bits do not train; set model.trainable=lora, or quantization to null"
    elif settings.training.compile and not settings.training.activation_checkpointing:
        yield (
            f"training.compile={settings.training.compile}: would keep every layer's dequantised weights for the backward, which "
            f"{where} saves; set training.activation_checkpointing=true, or compile to false"
        )


def _trainable(settings: CommonSections) -> Iterator[str]:
    model = settings.model
    if model.trainable == "lora":
        return
    shown = _shown(model.trainable)
    if not model.trainable:
        yield "model.trainable=[]: nothing would train; name modules, or set lora or all"
    if model.lora != type(model.lora)():
        yield f"model.lora: has no effect with model.trainable={shown}; leave its settings at their defaults"
    if model.merge_start_lora:
        yield f"model.merge_start_lora=true: has no effect with model.trainable={shown}; remove it"


def _objective(settings: CommonSections, objective: ObjectiveSettings) -> Iterator[str]:
    name, reader, targets = objective.name, settings.model.reader, settings.data.targets
    if reader not in objective.students:
        yield f"model.reader={reader}: objective.name={name} does not train it; set model.reader={' or '.join(objective.students)}"
    if targets is not None and "cached" not in objective.teachers:
        yield f"data.targets={targets}: has no effect with objective.name={name}; remove it"
    if targets is None and objective.teachers == ("cached",):
        yield (
            f"data.targets=null: objective.name={name} needs the teacher's target set; name it (mtllm-ds prepare teacher-targets)"
        )
    if targets is None and reader == "encoder" and objective.teachers == ("frozen_self",):
        yield f"model.reader=encoder: the teacher of objective.name={name} is the student's own LLM; set it to stacked or llm"
    if settings.data.has_budgets and not objective.packs:
        yield f"objective.name={name}: packs no samples; set data.samples_per_cell in place of the token budgets"
    if objective.selected_by not in objective.figures:
        yield (
            f"objective.select_by={objective.select_by}: no figure of objective.name={name}; "
            f"it has {', '.join(objective.figures)}"
        )
    yield from objective.mistakes(settings)
    if settings.model.trainable != "lora" and targets is None and objective.teachers == ("frozen_self", "cached"):
        yield (
            f"model.trainable={settings.model.trainable}: the teacher of objective.name={name} is the language model as it was; "
            "cache what it says (prepare.py teacher-targets) and name it in data.targets, or set model.trainable=lora"
        )
