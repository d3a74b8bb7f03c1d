"""Everything about a run that can be checked without loading a weight: files, shards, tags, arithmetic, DeepSpeed."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from transformers import PretrainedConfig

from mtllm_ds.checkpoint.model import Trained, task_entry
from mtllm_ds.checkpoint.store import CheckpointState
from mtllm_ds.cluster.agree import is_main_rank
from mtllm_ds.cluster.deepspeed_settings import check_deepspeed
from mtllm_ds.config.data import DataSettings
from mtllm_ds.config.deepspeed import resolve_deepspeed, zero_stage
from mtllm_ds.config.names import lasting_name
from mtllm_ds.config.schema import Settings
from mtllm_ds.data.columns import check_columns, column_named
from mtllm_ds.data.shards.dialogue_view import dialogue_lines
from mtllm_ds.data.shards.joined import first_blocks, parts_of
from mtllm_ds.data.shards.manifest import Manifest, TaskEntry
from mtllm_ds.data.shards.targets import BlockTargets
from mtllm_ds.data.stream.block_cache import lost_shards, readable_blocks
from mtllm_ds.data.stream.order import Order
from mtllm_ds.data.stream.schedule import cells_in_forward
from mtllm_ds.data.text.tokenization import TextTokenizer, TokenizerSpec, load_text_tokenizer
from mtllm_ds.errors import UserError
from mtllm_ds.models.checks import (
    check_llm,
    pooling_line,
    quantization_line,
    require_room,
    room_warning,
    unprobed_warning,
)
from mtllm_ds.models.encoders import check_encoder
from mtllm_ds.models.loading import base_fingerprint, llm_config
from mtllm_ds.models.pairing import Pairing
from mtllm_ds.models.probe import Probe
from mtllm_ds.preflight.bank import check_bank
from mtllm_ds.preflight.data_sets import late_phases, load_data_sets, share_lines, short_queue
from mtllm_ds.preflight.dropout import split_forwards
from mtllm_ds.preflight.output_folder import check_output_folder
from mtllm_ds.preflight.paired import check_pairing, pairing_line
from mtllm_ds.preflight.start import (
    Bases,
    check_centring,
    is_missing,
    read_start,
    read_teacher,
    task_of,
    teacher_gone_warning,
    warnings_of,
)
from mtllm_ds.preflight.targets import open_targets
from mtllm_ds.preflight.whole import check_objective_gathers, check_whole

_SIDES = {"encoder": "encoder", "llm": "LLM"}


@dataclass(frozen=True)
class RunPlan:
    """A run that has passed every check that needs no weights."""

    settings: Settings
    world_size: int
    train: Manifest
    validation: Manifest | None
    tokenizers: dict[str, TextTokenizer]
    bases: Bases
    micro_batch_size: int
    micro_batches_per_step: int
    ds_config: dict[str, Any]
    start: Trained | None = None
    """The model whose connector and LoRA the run starts from."""
    teacher: Trained | None = None
    task: TaskEntry | None = None
    train_targets: list[BlockTargets] = field(default_factory=list)
    """The teacher's cached vectors beside the training set's blocks; none where it has none."""
    validation_targets: list[BlockTargets] = field(default_factory=list)
    llm_probe: Probe | None = None
    """Which way the LLM looks, as measured; None without one."""
    pairing: Pairing | None = None
    """How the teacher goes beside the student; None where there is no such teacher, or `model.paired_sweep` is false."""
    resumed: CheckpointState | None = None
    """Where the run goes on; None starts it."""
    shares: list[str] = field(default_factory=list)
    """How data sets and languages are mixed, in lines to print."""
    teachers: tuple[str, ...] = ()
    """A line for each teacher of a language."""
    dialogue: tuple[str, ...] = ()
    """The first dialogue as student and teacher read it, in lines to print; none where the shards hold none."""
    warnings: list[str] = field(default_factory=list)
    """What is allowed but seldom meant, one line each."""

    @property
    def teacher_head(self) -> dict[str, Any] | None:
        """fp32 weights of the teacher's head."""
        return self.teacher.head if self.teacher is not None else None


def check_run(
    settings: Settings, world_size: int, *, read_all_shards: bool = False, resumed: CheckpointState | None = None
) -> RunPlan:
    """Check a run and work out its arithmetic; `UserError` names the first thing that does not hold.

    `read_all_shards` also compares every byte of the shards with the manifest's hashes. A run that is `resumed` needs neither its
    start nor its teacher any more: the checkpoint keeps what it took from them.
    """
    data = settings.data
    check_output_folder(settings.run.output_dir)
    if world_size > data.lanes:
        raise UserError(f"data.lanes={data.lanes}: fewer than the {world_size} ranks; raise it or use fewer ranks")
    micro_batches = ceil(ceil(data.lanes / world_size) / data.cells_per_forward)
    micro_batch_size = data.cells_per_forward * data.num_samples_per_cell
    ds_config = resolve_deepspeed(
        settings, world_size=world_size, micro_batch_size=micro_batch_size, micro_batches_per_step=micro_batches
    )
    check_deepspeed(ds_config, world_size, settings.training.deepspeed)
    check_whole(settings, ds_config)
    check_objective_gathers(settings, ds_config)
    model = settings.model
    if model.encoder is not None:
        check_encoder(model.encoder, model.connector)
    llm, config, llm_probe = model.llm, None, None
    if llm is not None:
        config = llm_config(llm)
        longest = settings.objective.longest_row(model)
        llm_probe = check_llm(model, config, packed=data.has_budgets, longest_row=longest)
    pairing = check_pairing(settings, config, zero_stage(ds_config))
    manifests = load_data_sets(data)
    for manifest in manifests:
        _check_sides(manifest, model.given)
    tokenizers = load_tokenizers(settings, {side: entry.family for side, entry in manifests[0].tokenizers.items()})
    if "encoder" in tokenizers:
        check_centring(settings, tokenizers["encoder"])
    lost = [line for manifest in manifests for line in _check_data(manifest, tokenizers, data, read_all_shards)]
    may_not_fit = _check_room(settings, config, manifests) if llm_probe is not None and not llm_probe.failure else []
    bank = check_bank(settings, manifests)
    bases = {**_bases(settings, tokenizers), **bank.bases}
    is_gone = resumed is not None and is_missing(settings.objective.teacher_run)
    teacher = None if is_gone else read_teacher(settings, bases)
    known_task = teacher.task if teacher is not None else task_entry(resumed.task) if resumed is not None else None
    task = task_of(settings, manifests, known_task)
    for manifest in manifests:
        _check_columns(manifest, settings)
    targets = [open_targets(settings, manifest, teacher, tokenizers) for manifest in manifests]
    order = Order(manifests[0], data, settings.run.seed)
    late = late_phases(order, settings.run.max_steps)
    if late and resumed is None:  # a run that goes on may be shortened, but its phases are fixed
        raise UserError(f"{late[0]}; remove it, or lower from_step or data.mixing.cycle_draws")
    return RunPlan(
        settings=settings,
        world_size=world_size,
        train=manifests[0],
        validation=manifests[1] if len(manifests) > 1 else None,
        tokenizers=tokenizers,
        bases=bases,
        micro_batch_size=micro_batch_size,
        micro_batches_per_step=micro_batches,
        ds_config=ds_config,
        start=read_start(settings, bases) if resumed is None else None,
        teacher=teacher,
        task=task,
        train_targets=targets[0],
        validation_targets=targets[1] if len(targets) > 1 else [],
        llm_probe=llm_probe,
        pairing=pairing,
        teachers=bank.lines,
        dialogue=_dialogue_audit(manifests[0], tokenizers, data),
        resumed=resumed,
        shares=share_lines(order, manifests[0], settings),
        warnings=[
            *lost,
            *unprobed_warning(settings.model, llm_probe),
            *warnings_of(settings, config),
            *may_not_fit,
            *split_forwards(settings, world_size),
            *short_queue(order),
            *late,
            *(teacher_gone_warning(settings) if is_gone else ()),
        ],
    )


def describe_plan(plan: RunPlan) -> str:
    """The plan in words, the resolved DeepSpeed settings last."""
    settings, train = plan.settings, plan.train
    data = settings.data
    tokens = {side: int(getattr(train, f"{side}_lengths").sum()) for side in train.tokenizers}
    lines = [
        f"train       {train.storage.root}: {train.num_samples:,} samples of {', '.join(train.languages)}; "
        f"{' and '.join(f'{count:,} {_SIDES[side]}' for side, count in tokens.items())} tokens in {len(train.shards)} shards",
        *plan.shares,
        f"validation  {f'{data.validation}: {plan.validation.num_samples:,} samples' if plan.validation else 'none'}",
        *(
            f"{side:11} {plan.bases[side]['name']} (template {tokenizer.template}), "
            f"{plan.bases[side]['fingerprint'] or 'weights not needed'}"
            for side, tokenizer in plan.tokenizers.items()
        ),
        *plan.teachers,
        *([f"LLM probe   {plan.llm_probe}"] if plan.llm_probe else []),
        *quantization_line(settings.model),
        *pooling_line(settings.model),
        *pairing_line(plan.pairing),
        *_batch_lines(plan),
        *([f"resumes     after step {plan.resumed.step:,}"] if plan.resumed else []),
        f"ZeRO        stage {zero_stage(plan.ds_config)}, every 'auto' of {settings.training.deepspeed} resolved:",
        json.dumps(plan.ds_config, indent=2),
        *plan.dialogue,
        *(f"warning     {line}" for line in plan.warnings),
        "all checks passed; nothing was trained",
    ]
    return "\n".join(lines)


def _dialogue_audit(train: Manifest, tokenizers: Mapping[str, TextTokenizer], data: DataSettings) -> tuple[str, ...]:
    """Two readers that were given different templates learn nothing of each other, and no loss tells: it is shown."""
    if train.chat is None:
        return ()
    pieces = {side: tokenizer.pieces for side, tokenizer in tokenizers.items()}
    block = next(readable_blocks(train, range(train.num_blocks), data.on_error, data.max_skipped_share))
    return ("dialogue", *(f"  {line}" for line in dialogue_lines(block, 0, pieces)))


def _batch_lines(plan: RunPlan) -> list[str]:
    data, train, steps = plan.settings.data, plan.train, plan.settings.run.max_steps
    cells = cells_in_forward(data.lanes, data.cells_per_forward, plan.world_size)
    forwards = f"on {plan.world_size} ranks {plan.micro_batches_per_step} forwards of {cells} cells each"
    if data.has_budgets:
        side = "llm" if data.llm_tokens_per_cell is not None else "encoder"
        per_cell = getattr(data, f"{side}_tokens_per_cell")
        budget = data.lanes * per_cell
        epochs = steps * budget / int(getattr(train, f"{side}_lengths").sum())
        return [
            f"batch       up to {budget:,} {_SIDES[side]} tokens per step = {data.lanes} lanes x {per_cell}, packed; {forwards}",
            f"steps       {steps:,}, at most {epochs:.2f} epochs of the training set",
        ]
    batch = data.lanes * data.num_samples_per_cell
    return [
        f"batch       {batch} samples per step = {data.lanes} lanes x {data.num_samples_per_cell}; {forwards}",
        f"steps       {steps:,}, {steps * batch / train.num_samples:.2f} epochs of the training set",
    ]


def load_tokenizers(settings: Settings, families: Mapping[str, str]) -> dict[str, TextTokenizer]:
    """The tokenizers of the base models that are named, in the families of the shards."""
    return {
        side: load_text_tokenizer(
            TokenizerSpec(
                name=chosen.name,
                revision=chosen.revision,
                side=side,
                family=families[side],
                max_length=chosen.max_length,
                trust_remote_code=chosen.trust_remote_code,
            )
        )
        for side, chosen in settings.model.given.items()
    }


def _check_data(
    manifest: Manifest, tokenizers: dict[str, TextTokenizer], data: DataSettings, read_all: bool
) -> list[str]:
    """Refuse what does not fit; a line for each shard that is not whole, where that may be."""
    folder, lost = manifest.storage.root, []
    if not is_main_rank():  # once per run: of a remote data set that asks for the size of every shard
        manifest.trust_shards()
    elif data.on_error == "skip":
        lost = lost_shards(manifest, data.max_skipped_share)
    else:
        manifest.check_shards()
    for side, tokenizer in tokenizers.items():
        manifest.check_tokenizer(tokenizer)
        for language in manifest.languages:
            tokenizer.check_tag(language)
        longest = int(getattr(manifest, f"{side}_lengths").max(initial=0))
        if longest > tokenizer.spec.max_length:
            raise UserError(
                f"model.{side}.max_length={tokenizer.spec.max_length}: {folder} holds a sample of {longest} tokens; "
                "raise the setting or prepare the shards with a smaller --max-length"
            )
    if not manifest.num_samples:
        raise UserError(f"data set {folder}: holds no sample; prepare it from a file with text")
    if read_all:
        from mtllm_ds.data.shards.tar_shards import verify_shards

        verify_shards(manifest)
    return lost


def _check_room(settings: Settings, config: PretrainedConfig | None, manifests: Sequence[Manifest]) -> list[str]:
    """Refuse samples that the LLM has no positions for; a warning where only training puts its rows together."""
    assert config is not None
    model, objective = settings.model, settings.objective
    read = ("encoder", "llm") if model.reader == "stacked" else ("llm",)
    longest = max(int(getattr(one, f"{side}_lengths").max(initial=0)) for one in manifests for side in read)
    require_room(model.given_llm, config, longest)
    return room_warning(model.given_llm, config, objective.longest_row(model)) if objective.joins_rows else []


def _check_sides(manifest: Manifest, named: Collection[str]) -> None:
    """The shards hold the ids of every base model that is named."""
    for side in set(named) - manifest.tokenizers.keys():
        raise UserError(
            f"model.{side}: data set {manifest.storage.root} holds no ids of an {_SIDES[side]}; prepare it with --{side}, "
            f"or leave model.{side} out"
        )


def _check_columns(manifest: Manifest, settings: Settings) -> None:
    """Every sample brings what the objective reads, and nothing else: the columns of one block are those of all."""
    objective, data = settings.objective, settings.data
    parts = [part for part, _ in parts_of(manifest)]
    first = first_blocks(parts).tolist()
    written = {}
    for part, start, end in zip(parts, first, first[1:], strict=False):
        readable = readable_blocks(manifest, range(start, end), data.on_error, data.max_skipped_share)
        written[part.storage.root] = sorted(next(readable))
        check_columns(
            written[part.storage.root],
            objective.columns_of(settings.model.reader),
            where=f"data set {part.storage.root}",
            reader=f"objective.name={objective.name}",
            may_read=objective.optional_columns,
            left_aside=settings.data.ignored_columns,
        )
    (first, columns), *others = written.items()
    for root, own in others:
        if differing := sorted(name for name in {*own} ^ {*columns} if not column_named(name).for_people):
            raise UserError(
                f"data.train: of {root} and {first} only one has the column '{differing[0]}'; prepare both with it, or both without"
            )


def _bases(settings: Settings, tokenizers: Mapping[str, TextTokenizer]) -> Bases:
    return {
        side: {
            "name": lasting_name(chosen.name),
            "revision": chosen.revision,
            # The weights of a side that the reader does without need not be there.
            "fingerprint": base_fingerprint(chosen) if side in settings.model.sides else None,
            "tokenizer_family": tokenizers[side].family,
        }
        for side, chosen in settings.model.given.items()
    }
