"""What ships with the code: recipes, tasks, DeepSpeed files, and small models and texts to begin with.

In a checkout they lie where a reader looks for them; a wheel carries the same folders below `mtllm_ds/shipped/`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path, PurePath

from mtllm_ds.errors import UserError

_PACKAGE = Path(__file__).parents[1]
ROOT = _PACKAGE / "shipped" if (_PACKAGE / "shipped").is_dir() else _PACKAGE.parent
"""Below it lie `launchers/recipes/`, `launchers/tasks/`, `ds_configs/` and `assets/`."""


@dataclass(frozen=True)
class Kind:
    """Files of one purpose that a user may call by name."""

    what: str
    folder: str
    suffix: str

    @property
    def names(self) -> list[str]:
        """The names that ship."""
        return sorted(path.stem for path in (ROOT / self.folder).glob(f"*{self.suffix}"))

    def path(self, name: str) -> Path:
        """Where the file of a name is, or would be."""
        return ROOT / self.folder / f"{name}{self.suffix}"


RECIPES = Kind("recipe", "launchers/recipes", ".yaml")
TASKS = Kind("task", "launchers/tasks", ".yaml")
DEEPSPEED_FILES = Kind("DeepSpeed file", "ds_configs", ".json")
KINDS = (RECIPES, TASKS, DEEPSPEED_FILES)
ASSETS = "assets"
_FOLDERS = (*(kind.folder for kind in KINDS), ASSETS)


def find_file(kind: Kind, given: str | Path, setting: str) -> Path:
    """The file that `given` names: a path, or the name of one that ships (`zero3`).

    Raises `UserError` where there is none, with the nearest name; `setting` says there what was asked for.
    """
    name = str(given)
    is_path = PurePath(name).name != name or name.endswith((kind.suffix, ".yml"))
    path = shipped_place(name) if is_path else kind.path(name)
    if path.is_file():
        return path
    nearest = difflib.get_close_matches(PurePath(name).stem, kind.names, n=1, cutoff=0.0)
    raise UserError(
        f"{setting}={name}: no such {'file' if is_path else kind.what}; give a path, or the name of one that ships: "
        f"the nearest is '{nearest[0]}', `mtllm-ds list` shows all"
    )


def shipped_place(name: str) -> Path:
    """Where a path leads: as it stands, or, if nothing is there, to what ships under it (`assets/mt`) from any working folder."""
    path = Path(name).expanduser()
    return ROOT / path if is_shipped(name) and not path.exists() and (ROOT / path).exists() else path


def is_shipped(name: str) -> bool:
    """Would it be the path of something that ships, were it there? `./assets/mt` would not: it means the working folder."""
    stays_below = not {".", ".."} & set(name.split("/"))
    return stays_below and any(PurePath(name).is_relative_to(folder) for folder in _FOLDERS)
