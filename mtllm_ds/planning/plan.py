"""The plan of a run on machines that are not there: memory, traffic and time, and what other settings would change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from math import ceil
from operator import getitem
from typing import Any

import torch

from mtllm_ds.config.deepspeed import resolve_deepspeed, zero_stage
from mtllm_ds.config.load import parse_settings
from mtllm_ds.config.schema import Settings
from mtllm_ds.data.stream.collate import Batch
from mtllm_ds.data.stream.schedule import cells_in_forward
from mtllm_ds.errors import UserError
from mtllm_ds.models.loading import llm_config
from mtllm_ds.objectives.base import Objective, StepWeights
from mtllm_ds.planning.hardware import Machine
from mtllm_ds.planning.paper import Text, batch_on_paper, objective_on_paper, samples_per_cell
from mtllm_ds.planning.rehearsal import rehearse
from mtllm_ds.planning.roofline import StepTime, time_of_step
from mtllm_ds.planning.trace import Trace
from mtllm_ds.planning.zero import Kept, Traffic, ZeroSettings, gathers_of, kept_by_rank, traffic_of_step
from mtllm_ds.planning.zero3 import GatherRules, Gathers
from mtllm_ds.preflight.paired import check_pairing
from mtllm_ds.preflight.whole import Whole, check_objective_gathers, check_whole, choose_whole, only_under_stage_3

SCALING = 8, 4096
"""GPUs of the picture, at least and at most"""


@dataclass(frozen=True)
class Plan:
    """One layout of a run."""

    machine: Machine
    zero: ZeroSettings
    trace: Trace
    whole: Whole
    """Of frozen weights under ZeRO-3"""
    cells_in_forward: int
    micro_batches: int
    samples_per_step: int
    """Over all ranks"""
    kept: Kept
    traffic: list[Traffic]
    time: StepTime

    @property
    def memory(self) -> dict[str, int]:
        """Bytes of one GPU, by part."""
        kept, trace, zero = self.kept, self.trace, self.zero
        return {
            "weights": 0 if zero.parameters_on_cpu else kept.weights,
            "gradients": kept.gradients - (kept.masters if zero.optimizer_on_cpu else 0),
            "optimizer": 0 if zero.optimizer_on_cpu else kept.optimizer,
            "activations": trace.peak_bytes,
            "head scratch": trace.head_bytes,
            "gathered weights": kept.gathers,
        }

    @property
    def memory_bytes(self) -> int:
        """All of it."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether a GPU holds that, and the headroom."""
        return self.memory_bytes <= self.machine.gpu.memory_bytes * (1 - self.machine.memory_headroom)

    @property
    def sent_bytes(self) -> int:
        """What a rank sends in a step."""
        return sum(one.sent_bytes for one in self.traffic)

    @property
    def samples_per_second(self) -> float:
        return self.samples_per_step / self.time.step


@dataclass
class Planner:
    """Plans of one recipe; a forward of each size is rehearsed once."""

    settings: Settings
    text: Text
    _traces: dict[tuple[int, bool], Trace] = field(default_factory=dict)
    _gathers: dict[tuple[int, bool, GatherRules, int, tuple[str, ...]], Gathers] = field(default_factory=dict)
    """The number of ranks does not enter"""
    warnings: list[str] = field(default_factory=list)

    def plan(self, machine: Machine) -> Plan:
        """The run as its recipe has it.

        Raises:
            UserError: more ranks than `data.lanes`, or a DeepSpeed file that does not fit, or that a run would refuse beside
                other settings.
        """
        data = self.settings.data
        if machine.num_ranks > data.lanes:
            raise UserError(
                f"data.lanes={data.lanes}: fewer than the {machine.num_ranks} GPUs; raise it or plan for fewer nodes"
            )
        cells = cells_in_forward(data.lanes, data.cells_per_forward, machine.num_ranks)
        micro_batches = ceil(ceil(data.lanes / machine.num_ranks) / data.cells_per_forward)
        samples = data.lanes * samples_per_cell(self.settings, self.text)
        ds_config = self._ds_config(machine, {})
        check_whole(self.settings, ds_config)
        check_objective_gathers(self.settings, ds_config)
        llm = self.settings.model.llm
        check_pairing(self.settings, llm_config(llm) if llm is not None else None, zero_stage(ds_config))
        return self._layout(machine, ds_config, cells, micro_batches, samples)

    def variants(self, own: Plan) -> Iterator[tuple[str, Plan]]:
        """What else the same recipe could do, each with what it changes."""
        machine, lanes = own.machine, self.settings.data.lanes
        for name, change in self._zero_variants(own).items():
            ds_config = self._ds_config(machine, change)
            yield name, self._layout(machine, ds_config, own.cells_in_forward, own.micro_batches, own.samples_per_step)
        for factor, name in ((2, "micro-batch x 2"), (0.5, "micro-batch / 2")):
            cells = int(own.cells_in_forward * factor)
            forwards = ceil(ceil(lanes / machine.num_ranks) / cells) if cells else 0
            if 0 < cells <= ceil(lanes / machine.num_ranks) and forwards != own.micro_batches:
                ds_config = self._ds_config(machine, {})
                yield name, self._layout(machine, ds_config, cells, forwards, own.samples_per_step)
        recomputes = self.settings.training.activation_checkpointing
        if self._with("training", activation_checkpointing=not recomputes) is not None:
            ds_config = self._ds_config(machine, {})
            yield (
                "activations kept" if recomputes else "activations recomputed",
                self._layout(
                    machine, ds_config, own.cells_in_forward, own.micro_batches, own.samples_per_step, not recomputes
                ),
            )
        yield from self._in_int8(own)
        more = replace(machine, num_nodes=2 * machine.num_nodes)
        if more.num_ranks <= lanes:
            yield f"{more.num_nodes} nodes, same batch", self.plan(more)
        scale = own.samples_per_step * more.num_ranks // machine.num_ranks
        ds_config = self._ds_config(more, {})
        yield (
            f"{more.num_nodes} nodes, batch x 2",
            self._layout(more, ds_config, own.cells_in_forward, own.micro_batches, scale),
        )

    def _in_int8(self, own: Plan) -> Iterator[tuple[str, Plan]]:
        """With the language model's layers in 8 bits, where a run could have that."""
        llm = self.settings.model.llm
        if (
            llm is None
            or llm.quantization is not None
            or (settings := self._with("model", "llm", quantization="int8")) is None
        ):
            return
        planner = Planner(settings, self.text)
        try:
            ds_config = planner._ds_config(own.machine, {})
            plan = planner._layout(
                own.machine, ds_config, own.cells_in_forward, own.micro_batches, own.samples_per_step
            )
        except (
            UserError
        ):  # a family whose layers keep matrices elsewhere, or a DeepSpeed file that reads them as numbers
            return
        yield "LLM's layers in int8", plan

    def _with(self, *section: str, **changes: Any) -> Settings | None:
        """The recipe with other values in one section; None where a run would refuse them."""
        values = self.settings.model_dump(mode="json")
        reduce(getitem, section, values).update(changes)
        try:
            return parse_settings(values, "")
        except UserError:
            return None

    def scaling(self, own: Plan) -> dict[str, list[Plan]]:
        """From 8 to 4,096 GPUs (1, 2, 4 ... whole nodes), each GPU with the work that it has in this plan, so that the batch grows
        with them; as it is, and with weights held otherwise on the GPUs."""
        kinds: dict[str, Mapping[str, Any]] = {"as it is": {}, **self._zero_variants(own)}
        machines = [replace(own.machine, num_nodes=2**power) for power in range(13)]
        shown = [one for one in machines if SCALING[0] <= one.num_ranks <= SCALING[1]] or [own.machine]
        return {
            name: [self._scaled(own, machine, change) for machine in shown]
            for name, change in kinds.items()
            if "offload_optimizer" not in change
        }

    def _scaled(self, own: Plan, machine: Machine, change: Mapping[str, Any]) -> Plan:
        samples = own.samples_per_step * machine.num_ranks // own.machine.num_ranks
        return self._layout(machine, self._ds_config(machine, change), own.cells_in_forward, own.micro_batches, samples)

    def _zero_variants(self, own: Plan) -> dict[str, Mapping[str, Any]]:
        zero, per_node = own.zero, own.machine.gpus_per_node
        cpu = {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
        found: dict[str, Mapping[str, Any]] = {}
        if zero.stage == 3:
            found["ZeRO-2"] = {"stage": 2, "zero_hpz_partition_size": 1, "offload_param": {"device": "none"}}
        else:
            found["ZeRO-3"] = {"stage": 3}
        if zero.num_copying_ranks == 1 and 1 < per_node < own.machine.num_ranks:
            found[f"ZeRO-3, hpZ of {per_node}"] = {"stage": 3, "zero_hpz_partition_size": per_node}
        if not (zero.parameters_on_cpu and zero.optimizer_on_cpu):
            found["ZeRO-3, offload to the CPU"] = {"stage": 3, "zero_hpz_partition_size": 1, **cpu}
        return found

    def _ds_config(self, machine: Machine, change: Mapping[str, Any]) -> dict[str, Any]:
        data = self.settings.data
        # Batch sizes are DeepSpeed's affair and nothing here depends on them.
        ds_config = resolve_deepspeed(
            self.settings, world_size=machine.num_ranks, micro_batch_size=data.cells_per_forward, micro_batches_per_step=1
        )  # fmt: skip
        ds_config["zero_optimization"] |= change
        return ds_config

    def _layout(
        self, machine: Machine, ds_config: dict[str, Any], cells: int, micro_batches: int, samples: int,
        recomputes: bool | None = None,
    ) -> Plan:  # fmt: skip
        if recomputes is None:
            recomputes = self.settings.training.activation_checkpointing
        zero, trace = ZeroSettings.of(ds_config), self._trace(cells, recomputes)
        whole = Whole({})
        if zero.stage == 3:
            frozen = [(weight.part, weight.numel) for weight in trace.weights if not weight.trains]
            whole = choose_whole(self.settings, ds_config, frozen, machine.gpu.memory_bytes)
        trace = trace.keeping(whole.holds)
        key = cells, recomputes, zero.rules, micro_batches if zero.stage == 3 else 0, tuple(whole.bytes_by_part)
        if key not in self._gathers:
            self._gathers[key] = gathers_of(trace, zero, micro_batches)
        gathers = self._gathers[key]
        kept = kept_by_rank(trace, zero, gathers, machine.num_ranks)
        traffic = traffic_of_step(trace, zero, gathers, micro_batches, machine.num_ranks)
        time = time_of_step(trace, zero, traffic, kept, micro_batches, machine)
        return Plan(machine, zero, trace, whole, cells, micro_batches, samples, kept, traffic, time)

    def _trace(self, cells: int, recomputes: bool) -> Trace:
        if (cells, recomputes) not in self._traces:
            training = self.settings.training.model_copy(update={"activation_checkpointing": recomputes})
            settings = self.settings.model_copy(update={"training": training})
            objective = objective_on_paper(settings, self.text)
            batch = batch_on_paper(settings, self.text, cells, objective.student.hidden_size)
            self.warnings = list(_left_out(settings, objective, batch))
            self._traces[cells, recomputes] = rehearse(objective, batch, settings.optim)
        return self._traces[cells, recomputes]


class _RunsFirstError(Exception):
    """The objective runs its model before a step's first forward."""


def _left_out(settings: Settings, objective: Objective, batch: Batch) -> Iterator[str]:
    """What of a run is not in its plan."""

    def refuse(*_: Any) -> Any:
        raise _RunsFirstError

    objective.count(batch)
    try:
        objective.prepare([batch], StepWeights(refuse, refuse, torch.device("cpu")))
    except _RunsFirstError:
        if (
            not settings.objective.asks_teacher_ahead
        ):  # a forward that nothing was prepared for asks it, which is counted
            yield "what the objective runs before a step's first forward (rollouts, negatives over a step) is not counted"
    if odd := only_under_stage_3(settings):
        yield f"ZeRO-2 is planned without {' and '.join(odd)}, which a run would refuse there"
    if settings.objective.bank is not None:
        yield "the teachers of the languages are not counted: neither their memory nor their forwards"
    if settings.model.merge_start_lora:
        rank = settings.model.lora.rank
        yield f"the frozen LoRA of model.start is counted with the rank of the one that trains, model.lora.rank={rank}"
    if settings.model.liger:
        yield "model.liger=true: counted as transformers' own kernels, which keep more activations"
