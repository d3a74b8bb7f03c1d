"""Are the installed packages those that are pinned, and their files those that were installed? Without a network.

    python -m mtllm_ds.supply_chain [hashes.txt]

Each package's own RECORD holds the sha256 of its files. That the archives were the published ones is what pip checks when it
installs with `--require-hashes`; afterwards nothing on a machine can tell.
"""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path

from mtllm_ds.command_line import Parser, run_and_exit
from mtllm_ds.errors import UserError

_OWN = ("mtllm-ds", "mtllm-kernels")
_UNPINNED = ("pip", "setuptools", "wheel", "certifi")
"""The tools that install the others, and root certificates, which are to be the newest."""
_RUN_AT_START = ("*.pth", "sitecustomize.py", "usercustomize.py")
_CHUNK_BYTES = 1 << 20


def read_pins(path: Path) -> dict[str, str]:
    """Version of each package in a file of pins with hashes; raises `UserError` for a line that is not pinned or has none."""
    try:
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the file of pins with hashes") from error
    pins = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        found = re.fullmatch(r"([\w.-]+)==(\S+)((?:\s+--hash=sha256:[0-9a-f]{64})+)\s*", line)
        if found is None:
            raise UserError(f"{path}: '{line[:60]}' has no version or no sha256; write the file anew, as its head says")
        pins[_normal(found[1])] = found[2]
    return pins


def findings(pins: dict[str, str], installed: Sequence[Distribution]) -> Iterator[str]:
    """What is not as pinned or recorded, a line each."""
    recorded: set[Path] = set()
    folders: set[Path] = set()
    for package in installed:
        name = _normal(package.metadata["Name"])
        folders.add(Path(str(package.locate_file(""))).resolve())
        if name not in (*_OWN, *_UNPINNED):
            # 2.13.0+cpu is another build of 2.13.0, from another index
            if name not in pins:
                yield f"{name} {package.version}: not pinned"
            elif package.version.partition("+")[0] != pins[name]:
                yield f"{name} {package.version}: pinned is {pins[name]}"
        if package.files is None:
            yield f"{name} {package.version}: has no record of its files"
        for file in package.files or ():
            place = Path(str(file.locate()))
            recorded.add(place.resolve())
            if file.hash is not None and (wrong := _wrong(place, file.hash.mode, file.hash.value)):
                yield f"{name} {package.version}: {file} {wrong}"
    for folder in sorted(folders):
        for pattern in _RUN_AT_START:
            for place in sorted(folder.glob(pattern)):
                if place.resolve() not in recorded:
                    yield f"{place}: runs whenever Python starts, and belongs to no package"


def _wrong(place: Path, mode: str, expected: str) -> str:
    """Why a file is not the one that was recorded; empty where it is."""
    digest = hashlib.new(mode)
    try:
        with place.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    found = base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
    return "" if found == expected.rstrip("=") else f"was changed since it was installed ({mode} differs)"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> int:
    """All findings; status 1 if there are any."""
    parser = Parser(prog="python -m mtllm_ds.supply_chain", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pins", nargs="?", type=Path, default=Path("hashes.txt"), help="(default %(default)s)")
    options = parser.parse_args()
    pins, installed = read_pins(options.pins), list(distributions())
    print(f"looking at every file of {len(installed)} packages", flush=True)
    found = list(findings(pins, installed))
    fit = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "check"], capture_output=True, text=True
    )
    found += (fit.stdout + fit.stderr).strip().splitlines() if fit.returncode else []
    for line in found:
        print(line)
    print("all as pinned and recorded" if not found else f"{len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    run_and_exit(main)
