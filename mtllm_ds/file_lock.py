"""One process at a time: a lock that is gone when its holder is, however that ends."""

import errno
import fcntl
from pathlib import Path
from typing import IO

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
"""What file systems answer that know no locks."""


class HeldError(Exception):
    """Another process, on this machine or on one that shares the folder, holds the lock."""


def lock_file(path: Path) -> IO[str]:
    """Lock a file until it is closed or this process ends.

    A record lock belongs to this process alone: its children that outlive a killed one for a moment do not hold it. Where the file
    system knows no locks (some of Lustre and NFS), nothing is locked, and work goes on unprotected.

    Raises:
        HeldError: another process holds it.
        OSError: the file cannot be opened, or fails.
    """
    handle = path.open("w")
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        handle.close()
        raise HeldError from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            handle.close()
            raise
    return handle
