"""Read a YAML recipe, apply dotted overrides, validate; every mistake becomes one line that names key, value and mend."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from mtllm_ds.config.objectives import BUILT_IN, ObjectiveSettings, objective_class
from mtllm_ds.config.schema import Sections, Settings
from mtllm_ds.config.section import section_of
from mtllm_ds.config.shipped import RECIPES, find_file
from mtllm_ds.errors import UserError

Chosen = TypeVar("Chosen", bound=Sections)
Result = TypeVar("Result")


def load_settings(recipe: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """Settings of a recipe, by name or path, with overrides such as `optim.learning_rate=1e-4`; any mistake raises `UserError`."""
    path = find_file(RECIPES, recipe, "--recipe")
    for override in overrides:
        if "=" not in override or override.startswith("-"):
            raise UserError(
                f"override '{override}': not a setting; give section.key=value, as in optim.learning_rate=1e-4"
            )
        if override.endswith("=???"):
            raise UserError(f"override '{override}': ??? stands for a value that is missing; give one")
    chosen = _told(lambda: OmegaConf.from_dotlist(list(overrides)), f"overrides {' '.join(overrides)}")
    recipe_values = _told(lambda: OmegaConf.load(path), f"recipe {path}")
    if not isinstance(recipe_values, DictConfig):
        raise UserError(f"recipe {path}: expected sections such as run: and model:, found a list; name another file")
    merged = _told(lambda: OmegaConf.merge(recipe_values, chosen), f"recipe {path} with its overrides")
    values = _told(lambda: OmegaConf.to_container(merged, resolve=True, throw_on_missing=True), f"recipe {path}")
    assert isinstance(values, dict)

    def origin(key: str) -> str:
        """The last override of the key, of what it lies in, or of what lies in it; else the recipe."""
        for override in reversed(overrides):
            name = override.partition("=")[0]
            if f"{name}.".startswith(f"{key}.") or f"{key}.".startswith(f"{name}."):
                return f"override {override}"
        return f"recipe {path}"

    return parse_settings({str(key): value for key, value in values.items()}, origin)


def _told(work: Callable[[], Result], where: str) -> Result:
    """What the YAML libraries raise, as one line."""
    try:
        return work()
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError, TypeError, AssertionError, KeyError) as error:
        raise UserError(f"{where}: {' '.join(str(error).split())[:500]}; correct it") from error
    except RecursionError as error:
        raise UserError(f"{where}: nested too deeply; correct it") from error


def parse_settings(values: dict[str, Any], where: str | Callable[[str], str]) -> Settings:
    """Validate plain values; `where` names their origin in the error, by key if it is a function."""
    return _parse(Settings, values, where)


def parse_saved(values: dict[str, Any], where: str) -> Sections:
    """Settings of an earlier run: what came later takes its default, and a rule that came later locks nothing away."""
    return _parse(Sections, {**values, "objective": _own_settings(values.get("objective", {}))}, where)


def _own_settings(objective: dict[str, Any]) -> dict[str, Any]:
    """Runs of version 0.1 saved the settings of all objectives together; only those of their own meant anything."""
    try:
        fields = objective_class(objective["name"]).model_fields
    except (KeyError, ValueError):
        return objective
    others = {name for cls in BUILT_IN.values() for name in cls.model_fields} - set(fields)
    return {name: value for name, value in objective.items() if name not in others}


def _parse(schema: type[Chosen], values: dict[str, Any], where: str | Callable[[str], str]) -> Chosen:
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        place = where if isinstance(where, str) else where(key)
        raise UserError(f"{place}: {_first_mistake(error)}") from error


def to_yaml(settings: Settings) -> str:
    """The resolved whole as YAML, in the order of the schema."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def _first_mistake(error: ValidationError) -> str:
    details = error.errors()
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    first = details[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{_unknown_key(key, first['input'])}{more}"
    if first["type"] == "missing":
        return f"missing key '{key}'; set it in the recipe or as {key}=VALUE{more}"
    message = first["msg"].removeprefix("Value error, ")
    if not key:
        return f"{message}{more}"
    if ";" not in message:
        message += "; give it such a value"
    if isinstance(first["input"], dict) and "name" in first["input"]:  # one of several classes, picked by its name
        return f"{key}.name={first['input']['name']}: {message}{more}"
    return f"{key}={first['input']!r}: {message[0].lower()}{message[1:]}{more}"


def _unknown_key(key: str, value: Any) -> str:
    section, _, name = key.partition(".")
    owners = [objective for objective, cls in BUILT_IN.items() if section == "objective" and name in cls.model_fields]
    if owners:
        shown = str(value).lower() if isinstance(value, bool) else value
        return f"{key}={shown}: has no effect here, it belongs to objective.name={' or '.join(owners)}; remove it"
    return f"{key}={value!r}: unknown key; nearest valid key: '{_nearest_key(key)}'"


def _nearest_key(key: str) -> str:
    known = list(valid_keys(Settings))
    if "." not in key and (section := difflib.get_close_matches(key, Settings.model_fields, n=1)):
        return section[0]
    last = key.rsplit(".", 1)[-1]
    # The last name alone decides first: a right key in the wrong section is the commonest slip, then an abbreviation.
    by_name = difflib.get_close_matches(last, {k.rsplit(".", 1)[-1] for k in known}, n=1, cutoff=0.6)
    pool = [k for k in known if by_name and k.rsplit(".", 1)[-1] == by_name[0]]
    pool = pool or [k for k in known if "".join(word[0] for word in k.rsplit(".", 1)[-1].split("_")) == last] or known
    return difflib.get_close_matches(key, pool, n=1, cutoff=0.0)[0]


def valid_keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings below a section."""
    for name, field in section.model_fields.items():
        below = section_of(field.annotation)
        if below is ObjectiveSettings:
            yield from dict.fromkeys(key for cls in BUILT_IN.values() for key in valid_keys(cls, f"{prefix}{name}."))
        elif below is not None:
            yield from valid_keys(below, f"{prefix}{name}.")
        else:
            yield prefix + name
