"""One process group a run folder: two that train into the same one would take turns at overwriting its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from mtllm_ds.errors import UserError
from mtllm_ds.file_lock import HeldError, lock_file
from mtllm_ds.preflight.output_folder import cannot_be_written


def hold_folder(folder: Path) -> IO[str]:
    """Lock a run folder until the returned file is closed or this process ends, however it ends.

    Raises `UserError` if another process, on this machine or on one that shares the folder, holds it, or if it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return lock_file(folder / ".lock")
    except HeldError as error:
        raise UserError(
            f"run.output_dir={folder}: another process is training there; stop it first (ranks may outlive their launcher: "
            "pkill -TERM -f '(train.py|mtllm_ds) --local_rank'), or choose another folder"
        ) from error
    except OSError as error:
        raise cannot_be_written(folder, error) from error
