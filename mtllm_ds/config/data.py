"""The section `data`: which shards a run reads, and all that decides the order in which it reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mtllm_ds.config.section import FIXED, Section

Share = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


class MixingRule(Section):
    rule: Literal["proportional", "temperature", "balanced", "unimax", "explicit"] = "proportional"
    """Share of the samples a language gets: by its samples; by samples to the power 1/temperature; equal shares of a
    sub-sample; equal shares, but no language above `max_epochs` within `budget_samples` (Chung et al., 2023, arXiv 2304.09151);
    or by `weights`."""
    temperature: float | None = Field(default=None, gt=0)
    samples_per_language: int | None = Field(default=None, gt=0)
    """`balanced`: samples per language; the smallest language's where null."""
    max_epochs: float | None = Field(default=None, gt=0)
    """`unimax`: most passes over a language."""
    budget_samples: int | None = Field(default=None, gt=0)
    """`unimax`: samples of the whole run."""
    weights: dict[str, Share] = Field(default={})
    """`explicit`: language code to weight; a language not named is not drawn."""

    @model_validator(mode="after")
    def _fits_the_rule(self) -> MixingRule:
        needs = {"temperature": ("temperature",), "unimax": ("max_epochs", "budget_samples"), "explicit": ("weights",)}
        own = needs.get(self.rule, ())
        optional = ("samples_per_language",) if self.rule == "balanced" else ()
        for name in ("temperature", "samples_per_language", "max_epochs", "budget_samples", "weights"):
            value = getattr(self, name)
            if not value and name in own:
                raise ValueError(f"rule={self.rule}: needs {name}; set it")
            if value and name not in (*own, *optional):
                raise ValueError(f"{name}: has no effect with rule={self.rule}; remove it")
        return self


class MixingPhase(MixingRule):
    from_step: int = Field(gt=0, lt=2**31)
    """Step from which on the phase holds: from the first cycle of draws that begins then. Under token budgets a step counts as the
    samples that fit it on average."""


class MixingSettings(MixingRule):
    phases: tuple[MixingPhase, ...] = ()
    """Other rules from later steps on, such as falling exponents (mmBERT, Marone et al., 2025, arXiv 2509.06888): `[{from_step:
    6000, rule: temperature, temperature: 2.0}]`. Epochs go on."""
    byte_premiums: dict[str, Positive] = Field(default={})
    """Language code to how many bytes it takes to say what English says in one (Arnett et al., 2024, arXiv 2403.00686), or the
    name of a JSON file with that table. `temperature`, `balanced` and `explicit` then count and share bytes divided by it instead
    of samples."""
    cycle_draws: int = Field(default=256, gt=0, le=2**22)
    """Draws (stretches of samples as long as a block; of 32 under token budgets) after which the shares are exact again."""

    @field_validator("byte_premiums", mode="before")
    @classmethod
    def _read_table(cls, value: Any) -> Any:
        """The table itself goes into the settings, so that a run whose file has changed since is refused on resume."""
        if not isinstance(value, str):
            return value
        try:
            table = json.loads(Path(value).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"expected a JSON file of language code to premium ({error})") from error
        if not isinstance(table, dict):
            raise ValueError("expected a JSON object of language code to premium")
        return table

    @model_validator(mode="after")
    def _fits_together(self) -> MixingSettings:
        rules = [self.rule, *(phase.rule for phase in self.phases)]
        if self.phases and "balanced" in rules:
            raise ValueError(
                "phases: rule=balanced reads a sub-sample, which cannot change on the way; use temperature"
            )
        steps = [phase.from_step for phase in self.phases]
        if steps != sorted(set(steps)):
            raise ValueError(f"phases: begin at steps {steps}; put them in order, each at a step of its own")
        own = set(MixingRule.model_fields)
        mixes = [one.model_dump(include=own) for one in (self, *self.phases)]
        for phase, before, after in zip(self.phases, mixes, mixes[1:], strict=False):
            if before == after:
                raise ValueError(
                    f"phases: that of from_step={phase.from_step} has no effect, it mixes as what comes before; remove it"
                )
        if self.byte_premiums and "unimax" in rules:
            raise ValueError("byte_premiums: has no effect with rule=unimax, whose budget is in samples; remove it")
        if self.byte_premiums and set(rules) == {"proportional"}:
            raise ValueError("byte_premiums: has no effect with rule=proportional; remove it")
        if self.byte_premiums and self.samples_per_language:
            raise ValueError(
                "samples_per_language: has no effect beside byte_premiums, which balances bytes; remove it"
            )
        return self


class OrderSettings(Section):
    """What decides the order of samples, and how they come in forwards."""

    lanes: int = Field(default=64, gt=0, le=2**16, json_schema_extra=FIXED)
    """Independent sequences of draws, at least as many as ranks; fixes the order of the data."""
    samples_per_cell: int | None = Field(default=None, gt=0, le=2**20, json_schema_extra=FIXED)
    """Samples of one language that a lane emits per step: the global batch is lanes x samples_per_cell. 4 where no token budget is
    set."""
    encoder_tokens_per_cell: int | None = Field(default=None, gt=0, le=2**24, json_schema_extra=FIXED)
    """Token budget of a cell on the encoder's side, in place of `samples_per_cell`; as many samples of one language as fit are then
    packed."""
    llm_tokens_per_cell: int | None = Field(default=None, gt=0, le=2**24, json_schema_extra=FIXED)
    """Token budget of a cell on the LLM's side."""
    queue_size: int = Field(default=128, gt=0, le=2**14, json_schema_extra=FIXED)
    """With token budgets: samples of its language that are looked through to fill a cell; at most so many come into one."""
    encoder_buckets: int = Field(default=6, gt=0, le=2**10)
    """With token budgets: padded encoder inputs per forward; speed only, but for how dropout falls with `reader: encoder`."""
    mixing: MixingSettings = Field(default=MixingSettings(), json_schema_extra=FIXED)
    cells_per_forward: int = Field(default=1, gt=0, le=2**16)
    """Whole cells in one forward: speed and memory. The loss is the same, but dropout is drawn once per forward: its draws repeat
    on any number of ranks up to `lanes` / `cells_per_forward`, and change with this setting."""

    @property
    def has_budgets(self) -> bool:
        return self.llm_tokens_per_cell is not None or self.encoder_tokens_per_cell is not None

    @property
    def num_samples_per_cell(self) -> int:
        """Samples of a cell of fixed count; with token budgets 1, the least that a cell holds."""
        return 1 if self.has_budgets else self.samples_per_cell or 4


class RemoteSettings(Section):
    """How shards behind a URL are read."""

    cache_folder: str = "~/.cache/mtllm_ds/ranges"
    """Keeps ranges that were read and checked, shared by all processes of a machine."""
    cache_bytes: int = Field(default=16 << 30, ge=0)
    """Beyond this, what was not used for longest is dropped; 0 keeps nothing."""
    attempts: int = Field(default=8, gt=0)
    """Of each read before the run stops: a server that refuses at once is waited for a minute."""
    first_wait_seconds: float = Field(default=0.5, ge=0)
    """Doubled after every attempt, and varied by half, so that many processes do not come back at once."""
    timeout_seconds: float = Field(default=60.0, gt=0)
    """Longest silence: until a connection stands, or between two bytes of an answer."""


class WeightedSet(Section):
    path: str
    """Folder or URL of prepared shards."""
    weight: float = Field(default=1.0, gt=0)
    """Share of the samples that it gives, relative to the other sets."""


class DataSettings(OrderSettings):
    train: str | tuple[WeightedSet, ...]
    """Folder or URL of prepared shards (the one that holds `manifest.json`). Or several, as `[{path: A, weight: 3}, {path: B,
    weight: 1}]`: of every four samples three come from A; within each set languages mix by `mixing`."""
    validation: str | None = None
    """Folder of prepared shards for validation; without it nothing is validated and the last checkpoint is the best."""
    validation_samples: int | None = Field(default=None, gt=0)
    """That many samples of the validation set at most, each language by its share, but none left out."""
    num_workers: int = Field(default=0, ge=0, le=2**10)
    """Reader processes per rank; 0 reads in the training process."""
    on_error: Literal["fail", "skip"] = "fail"
    """What to do with a damaged block of the training or validation set: stop, or drop the whole block and count it."""
    max_skipped_share: float = Field(default=0.01, ge=0, le=1)
    """With `on_error: skip`: the run fails once more than this share of all samples was dropped, by all ranks together."""
    ignored_columns: tuple[str, ...] = ()
    """Columns of the shards that the objective does not read and that are left aside on purpose."""
    targets: str | None = Field(default=None, json_schema_extra=FIXED)
    """Name of the teacher's target set in the training and validation shards (`mtllm-ds prepare teacher-targets`). Where
    the objective's teacher is the frozen LLM itself it can be null: the teacher then runs beside the student."""
    remote: RemoteSettings = RemoteSettings()

    @field_validator("train", mode="before")
    @classmethod
    def _one_set_or_several(cls, value: Any) -> Any:
        """Checked here, where one line can say what is wrong: left to itself, pydantic would tell why it is neither of both."""
        if isinstance(value, str) and value:
            return value
        if not isinstance(value, list | tuple) or not all(isinstance(one, dict | WeightedSet) for one in value):
            raise ValueError("expected a folder or URL, or a list such as [{path: A, weight: 3}, {path: B, weight: 1}]")
        sets = [WeightedSet.model_validate(one) for one in value]
        paths = [one.path for one in sets]
        if len(sets) < 2:
            raise ValueError("expected at least two sets in a list; name a single one by its folder or URL alone")
        if len(set(paths)) < len(paths):
            raise ValueError(f"names {next(path for path in paths if paths.count(path) > 1)} twice; give each set once")
        return tuple(sets)

    @property
    def train_sets(self) -> tuple[WeightedSet, ...]:
        """The training sets, a single one included."""
        return (WeightedSet(path=self.train),) if isinstance(self.train, str) else self.train
