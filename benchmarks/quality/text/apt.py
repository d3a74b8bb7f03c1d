"""apt-get and apt-cache with private lists and cache: nothing of the system's own state is touched."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from mtllm_ds.atomic import sha256_file
from mtllm_ds.errors import UserError


class Apt:
    """apt with lists, cache and downloaded packages under `folder`.

    Args:
        translations: codes of the description translations that `apt-get update` fetches (Debian's: `de`, `zh_CN`); with any
            of them the lists are kept uncompressed, so that they can be read.
    """

    def __init__(self, folder: Path, translations: tuple[str, ...] = ()):
        self.folder = folder
        for part in ("lists/partial", "cache/archives/partial", "debs"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        self.options = ["-o", f"Dir::State::Lists={folder / 'lists'}", "-o", f"Dir::Cache={folder / 'cache'}", "-qq"]
        if translations:
            languages = ",".join(translations)
            self.options += ["-o", f"Acquire::Languages={languages}", "-o", "Acquire::GzipIndexes=false"]

    def run(self, *command: str, cwd: Path | None = None) -> str:
        program, *arguments = command
        try:
            done = subprocess.run([program, *self.options, *arguments], cwd=cwd, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise UserError(f"{program}: is not installed; run this on Debian or in a container of it") from error
        if done.returncode:
            raise UserError(
                f"{' '.join(command)}: {' '.join(done.stderr.split())[:200]}; check the network and sources.list"
            )
        return done.stdout

    def package(self, name: str) -> tuple[Path, dict]:
        """The package's file, downloaded if it is not there yet, and its {version, sha256}."""
        fields = dict(
            re.findall(r"^(Version|SHA256): (.*)$", self.run("apt-cache", "show", "--no-all-versions", name), re.M)
        )
        target = self.folder / "debs" / f"{name}.deb"
        if not target.exists() or sha256_file(target) != fields["SHA256"]:
            work = self.folder / "debs" / name
            work.mkdir(exist_ok=True)
            self.run("apt-get", "download", name, cwd=work)
            next(work.glob("*.deb")).replace(target)
            shutil.rmtree(work)
        if sha256_file(target) != fields["SHA256"]:
            raise UserError(f"{target}: wrong checksum; remove it and try again")
        return target, {"version": fields["Version"], "sha256": fields["SHA256"]}
