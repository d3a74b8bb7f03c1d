"""Can the model hub be reached? Asked once, before a library asks: those try again for half a minute, at every file."""

from __future__ import annotations

import os
import socket
import time
from functools import cache
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from mtllm_ds.config.names import is_missing_folder
from mtllm_ds.errors import UserError

PATIENCE_SECONDS = 10.0
"""How long the first packet may take, the name server's answer included: a slow network is none that is not there."""


def require_reachable(name: str, setting: str) -> None:
    """To be called before a library looks up a model: where the hub is away, it will read what was fetched before.

    Raises:
        UserError: the hub cannot be reached, and nothing of `name`, which `setting` asks for, was fetched before.
    """
    if Path(name).exists() or is_missing_folder(name) or not go_offline_if_away():
        return
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    if not (Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")).is_dir():
        raise UserError(
            f"{setting}={name}: {constants.ENDPOINT} cannot be reached from here, and the model was not fetched before; "
            "give a local folder, or fetch it where the hub can be reached (hf download) and bring the cache"
        )


def go_offline_if_away() -> bool:
    """Is the hub away? Then libraries are told to read their caches only. False where the user has told them so."""
    from huggingface_hub import constants

    told_by_user = constants.HF_HUB_OFFLINE and not _found_away.cache_info().currsize
    if told_by_user or not _found_away(constants.ENDPOINT):
        return False
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"  # for libraries that are imported later, and for workers
    return True


@cache
def _found_away(endpoint: str) -> bool:
    """Neither of two attempts, a second apart, connects to the hub, or to the proxy before it."""
    address = _first_host(endpoint)
    if _connects(*address):
        return False
    time.sleep(1)
    return not _connects(*address)


def _first_host(endpoint: str) -> tuple[str, int]:
    """Host and port that a request goes to first."""
    url = urlsplit(endpoint)
    proxies = getproxies()
    proxy = proxies.get(url.scheme, proxies.get("all"))
    if proxy and not proxy_bypass(url.hostname or ""):
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return url.hostname or "", url.port or {"https": 443, "http": 80}.get(url.scheme, 1080)


def _connects(host: str, port: int) -> bool:
    """Does a connection come about in time? In a thread, because a name server's silence knows no timeout."""
    connected = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=PATIENCE_SECONDS).close()
            connected.append(True)
        except OSError:
            pass

    attempt = Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(PATIENCE_SECONDS)
    return bool(connected)
