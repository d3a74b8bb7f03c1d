"""Where a model's name points to: a hub name, a local folder, or a folder inside an installed Python package."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from mtllm_ds.config.shipped import ASSETS, ROOT, is_shipped, shipped_place
from mtllm_ds.errors import UserError

PACKAGE = "package:"


def resolve_model_name(name: str) -> str:
    """Where to load a name from: `package:some_package/model` -> that folder of an installed Python package; `assets/mt` -> the
    model that ships, unless such a folder is at hand; other names stay as they are."""
    if is_shipped(name):
        return str(shipped_place(name))
    if not name.startswith(PACKAGE):
        return name
    package, _, inside = name.removeprefix(PACKAGE).partition("/")
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UserError(f"{name}: the Python package '{package}' is not installed; install it with pip")
    folder = Path(found.submodule_search_locations[0]) / inside
    if not folder.is_dir():
        raise UserError(f"{name}: the Python package '{package}' has no folder '{inside}'; name one that it has")
    return str(folder)


def lasting_name(name: str) -> str:
    """A name to remember a model by: a folder's whole path, so that it is found from any other folder; of what ships, the name
    that finds it in any installation."""
    if not Path(name).is_dir():
        return name
    path = Path(name).resolve()
    ships = path.is_relative_to(ROOT.resolve() / ASSETS)
    return path.relative_to(ROOT.resolve()).as_posix() if ships else str(path)


def is_code_unpinned(name: str, revision: str | None) -> bool:
    """Whether code of a model would run at whatever commit the hub has next: a folder has one, a commit's 40 digits name one."""
    return not Path(resolve_model_name(name)).is_dir() and not re.fullmatch("[0-9a-f]{40}", revision or "")


def is_missing_folder(name: str) -> bool:
    """Is it the path of a folder that is not there? `owner/model` is one only where a folder `owner` is at hand.

    To be asked before the hub is: for a misspelt folder it would be asked again and again.
    """
    if name.startswith(PACKAGE) or Path(name).is_dir():
        return False
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or is_shipped(name)
    return is_path or ("/" in name and Path(name).parts[0] in _here())


def _here() -> set[str]:
    return {path.name for path in Path().iterdir() if path.is_dir()}
