"""Where the files of a data set are read from: a local folder, or http(s)://, s3:// and hf:// with retries and a bounded cache.

Files are only ever read as bytes, by name below one root: nothing is executed, unpacked or unpickled. Other schemes (`pipe:` would
run a shell) are refused.
"""

import errno
import hashlib
import os
import random
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mtllm_ds.config.data import RemoteSettings
from mtllm_ds.errors import UserError
from mtllm_ds.redaction import redacted

_SIZES_AT_ONCE = 16
UNKNOWN_SIZE = -1
"""Of a file that is there, on a server that does not say how large it is"""
REMOTE_SCHEMES = ("http", "https", "s3", "hf")
_TOLD_AT_ATTEMPT = 2
"""One failure is nothing; from then on somebody may wonder why the run stands still."""
_RANGE_BEYOND_END = 416
_DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO)
"""What is wrong with a local file itself; anything else (a stale mount, no free handles) is no damage that may be skipped."""

_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "GatedRepoError")


class StorageError(OSError):
    """A read failed for good, and the file is to blame: missing, too short, or altered. One out of reach is a `UserError`."""


class _WrongBytesError(OSError):
    """An answer came, but not what was asked for."""


def check_member_name(name: str) -> str:
    """Refuse names that could lead out of the data set's folder."""
    if not name or name.startswith(("/", "\\", "~")) or ".." in name.replace("\\", "/").split("/") or ":" in name:
        raise UserError(
            f"file name '{name}': leads out of the data set's folder; the manifest is not to be trusted, prepare it anew"
        )
    return name


class Storage(ABC):
    """Reads of files below a root, by relative name."""

    def __init__(self, root: str) -> None:
        self.root = root

    @abstractmethod
    def read(self, name: str) -> bytes:
        """A whole file; raises StorageError."""

    @abstractmethod
    def read_range(self, name: str, offset: int, length: int, is_whole: Callable[[bytes], bool]) -> bytes:
        """`length` bytes from `offset`. `is_whole` tells whether they are the right ones; remote reads are repeated if not.

        Raises:
            StorageError: missing, too short, or never the right bytes.
            UserError: out of reach.
        """

    @abstractmethod
    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """Bytes of each file; None where it is missing, `UNKNOWN_SIZE` where nobody says."""


def open_storage(location: str, remote: RemoteSettings | None = None) -> Storage:
    """Storage of a local folder or a remote URL.

    Raises:
        UserError: the scheme is not one that is served, or the URL holds a secret.
    """
    scheme, separator, _ = location.partition(":")
    if not separator or "/" in scheme or "\\" in scheme:
        return LocalStorage(os.path.expanduser(location))
    if scheme in REMOTE_SCHEMES and location.startswith(f"{scheme}://"):
        if "@" in urlsplit(location).netloc or "?" in location:
            raise UserError(
                f"'{redacted(location)}': a login or a query in a URL would be saved with the run and told in messages; leave it "
                "out, and put a login for http(s):// into ~/.netrc"
            )
        return RemoteStorage(location, scheme, remote or RemoteSettings())
    allowed = ", ".join(f"{known}://" for known in REMOTE_SCHEMES)
    raise UserError(f"'{location}': '{scheme}:' is not served; use a local folder or {allowed}")


class LocalStorage(Storage):
    """A folder of this machine."""

    def read(self, name: str) -> bytes:
        try:
            return (Path(self.root) / check_member_name(name)).read_bytes()
        except OSError as error:
            raise StorageError(f"cannot read '{name}' in '{self.root}': {error.strerror}") from error

    def read_range(self, name: str, offset: int, length: int, is_whole: Callable[[bytes], bool]) -> bytes:
        try:
            with open(Path(self.root) / check_member_name(name), "rb", buffering=0) as file:
                data = os.pread(file.fileno(), length, offset)
        except OSError as error:
            if error.errno not in _DAMAGE:
                raise UserError(
                    f"data set {self.root}: '{name}' cannot be read ({error.strerror}); start again with --resume once it can"
                ) from error
            raise StorageError(f"cannot read '{name}' in '{self.root}': {error.strerror}") from error
        if len(data) != length:
            raise StorageError(f"'{name}' ends at byte {offset + len(data)}, before byte {offset + length}")
        if not is_whole(data):
            raise StorageError("its bytes are not those that were written (sha256 differs)")
        return data

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        paths = [Path(self.root) / check_member_name(name) for name in names]
        return [path.stat().st_size if path.is_file() else None for path in paths]


class RemoteStorage(Storage):
    """A folder behind fsspec. Every read is tried several times; checked ranges are kept in a local cache."""

    def __init__(self, root: str, scheme: str, settings: RemoteSettings) -> None:
        super().__init__(root)
        self._scheme = scheme
        self._settings = settings
        self._filesystem: tuple[int, Any] | None = None
        self._cache = RangeCache(Path(settings.cache_folder).expanduser(), settings.cache_bytes)

    def read(self, name: str) -> bytes:
        return self._try(name, lambda filesystem, url: filesystem.cat_file(url))

    def read_range(self, name: str, offset: int, length: int, is_whole: Callable[[bytes], bool]) -> bytes:
        key = f"{self.root}/{name}:{offset}:{length}"
        cached = self._cache.get(key)
        if cached is not None and is_whole(cached):
            return cached

        def fetch(filesystem: Any, url: str) -> bytes:
            options = {"cache_type": "none"} if self._scheme == "hf" else {}  # which would read ahead by megabytes
            data = filesystem.cat_file(url, start=offset, end=offset + length, **options)
            if len(data) != length:
                raise _WrongBytesError(f"{len(data)} bytes came instead of {length} (does the server serve ranges?)")
            if not is_whole(data):
                raise _WrongBytesError("its bytes are not those that were written (sha256 differs)")
            return data

        data = self._try(name, fetch)
        self._cache.put(key, data)
        return data

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        self._connect()
        with ThreadPoolExecutor(_SIZES_AT_ONCE) as threads:
            return list(threads.map(self._size, names))

    def _size(self, name: str) -> int | None:
        def fetch(filesystem: Any, url: str) -> int | None:
            try:
                size = filesystem.size(url)
                return UNKNOWN_SIZE if size is None else size
            except FileNotFoundError as error:
                if _is_missing(error):
                    return None
                raise

        return self._try(name, fetch)

    def _try(self, name: str, fetch: Callable[[Any, str], Any]) -> Any:
        """`fetch`, again after a wait where it fails, as often as the settings say."""
        url = f"{self.root}/{check_member_name(name)}"
        wait = self._settings.first_wait_seconds
        for attempt in range(1, self._settings.attempts + 1):
            try:
                return fetch(self._connect(), url)
            except FileNotFoundError as error:
                if _is_missing(error):
                    raise StorageError(f"there is no '{url}'") from error
                self._give_up(url, attempt, error)
            except PermissionError as error:
                raise self._refused(error) from error
            except ImportError as error:
                raise UserError(
                    f"data set {self.root}: cannot be read without a further package ({error}); install it"
                ) from error
            except Exception as error:  # fsspec lets each protocol's own exceptions through
                if type(error).__name__ in _NO_CREDENTIALS or getattr(error, "status", None) in (401, 403):
                    raise self._refused(error) from error
                self._give_up(url, attempt, error)
            time.sleep(wait * random.uniform(0.5, 1.5))
            wait *= 2
        raise AssertionError("unreachable")

    def _refused(self, error: Exception) -> UserError:
        """Trying again would not help."""
        reason = redacted((str(error) or type(error).__name__).splitlines()[0])
        return UserError(
            f"data set {self.root}: may not be read ({reason}); give this machine the credentials that {self._scheme}:// asks for"
        )

    def _give_up(self, url: str, attempt: int, error: Exception) -> None:
        """Raise if that was the last attempt; say once that there are some."""
        reason = redacted((str(error.__cause__ or error) or type(error).__name__).splitlines()[0])
        attempts = self._settings.attempts
        if attempt == attempts:
            failed = f"cannot read '{url}' after {attempt} attempts: {reason}"
            if isinstance(error, _WrongBytesError) or getattr(error, "status", None) == _RANGE_BEYOND_END:
                raise StorageError(failed) from error
            raise UserError(
                f"data set {self.root}: {failed}; start again with --resume once it answers "
                "(data.remote.attempts says how often it is asked)"
            ) from error
        if attempt == _TOLD_AT_ATTEMPT:
            told = f"warning: cannot read '{url}' ({reason}); it is asked again, {attempts - attempt} times at most"
            print(told, file=sys.stderr, flush=True)

    def _connect(self) -> Any:
        """The filesystem, one a process: fsspec's connections do not survive a fork."""
        if self._filesystem is None or self._filesystem[0] != os.getpid():
            import fsspec

            options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
            if self._scheme in ("http", "https"):
                import aiohttp

                seconds = (
                    self._settings.timeout_seconds
                )  # of silence: a large file on a slow line may take as long as it likes
                options["client_kwargs"] = {
                    "timeout": aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds),
                    "trust_env": True,  # logins from ~/.netrc, proxies from the environment
                }
            self._filesystem = os.getpid(), fsspec.filesystem(self._scheme, **options)
        return self._filesystem[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_filesystem": None}


def _is_missing(error: FileNotFoundError) -> bool:
    """Whether the file is not there. fsspec also says so of a file whose size it could not ask for, whatever went wrong."""
    cause = error.__cause__
    return cause is None or isinstance(cause, FileNotFoundError) or getattr(cause, "status", None) in (404, 410)


class RangeCache:
    """Byte ranges on the local disk, at most `max_bytes` of them; safe for many processes at once."""

    _LOOK_EVERY = 64

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._puts = 0

    def get(self, key: str) -> bytes | None:
        """What was put, or None; the caller checks it."""
        if not self._max_bytes:
            return None
        path = self._path(key)
        try:
            data = path.read_bytes()
            os.utime(path)  # used now: dropped last
        except OSError:
            return None
        return data

    def put(self, key: str, data: bytes) -> None:
        """Keep a range; a full disk only means that it is not kept."""
        if not self._max_bytes:
            return
        path = self._path(key)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        if self._puts % self._LOOK_EVERY == 0:
            self._drop_oldest()
        self._puts += 1

    def _drop_oldest(self) -> None:
        entries = []
        if not self._folder.is_dir():  # it could not be made: nothing is kept
            return
        for entry in os.scandir(self._folder):
            if not entry.is_file():  # the maps of indexes (`index_map.py`)
                continue
            try:
                entries.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
            except FileNotFoundError:  # another process dropped it
                continue
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self._max_bytes:
                break
            Path(path).unlink(missing_ok=True)
            total -= size

    def _path(self, key: str) -> Path:
        return self._folder / hashlib.sha256(key.encode()).hexdigest()
