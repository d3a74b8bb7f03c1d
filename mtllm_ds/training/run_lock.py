"""One process group a run folder: two that train into the same one would take turns at overwriting its checkpoints."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

from mtllm_ds.errors import UserError


def hold_folder(folder: Path) -> IO[str]:
    """Lock a run folder until the returned file is closed or this process ends, however it ends.

    A record lock belongs to this process alone: reader processes that outlive a killed one for a moment do not hold it.
    Raises `UserError` if another process, on this machine or on one that shares the folder, holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = (folder / ".lock").open("w")
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        handle.close()
        raise UserError(
            f"run.output_dir={folder}: another process is training there; stop it first (ranks may outlive their launcher: "
            "pkill -TERM -f 'train.py --local_rank'), or choose another folder"
        ) from error
    except OSError:  # a file system without locks: train on, unprotected
        pass
    return handle
