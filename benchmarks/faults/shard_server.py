"""A server of shards that dies in the middle of an answer, and may come back where it was.

A process of its own with nothing but the standard library, so that it starts at once and its death is a real one:

    python shard_server.py FOLDER PORT DIES_AT_ANSWER LOGIN
"""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

_READY_SECONDS = 60.0


class ShardServer:
    """Of a folder; `login`: NAME:PASSWORD that it asks for. Ranges alone are counted as answers: those are blocks."""

    def __init__(self, folder: Path, login: str = "") -> None:
        self._folder, self._login, self._port = folder, login, _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self, dies_at_answer: int = 0) -> None:
        """Answer from now on; die in that answer, counted from 1 (0: never)."""
        numbers = [str(self._port), str(dies_at_answer), self._login]
        self._process = subprocess.Popen([sys.executable, "-S", "-E", __file__, str(self._folder), *numbers])
        end = time.monotonic() + _READY_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), 1.0).close()
                return
            except OSError:
                assert time.monotonic() < end, "the server did not start"
                time.sleep(0.02)

    def start_after_death(self, seconds: float) -> threading.Thread:
        """Start anew so many seconds after the death of the one that runs, beside whatever is done meanwhile."""

        def revive() -> None:
            assert self._process is not None
            self._process.wait()
            time.sleep(seconds)
            self.start()

        thread = threading.Thread(target=revive, daemon=True)
        thread.start()
        return thread

    @property
    def is_dead(self) -> bool:
        return self._process is not None and self._process.poll() == -signal.SIGKILL

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _serve(folder: Path, port: int, dies_at_answer: int, login: str) -> None:
    answers, lock = count(1), threading.Lock()
    wanted = f"Basic {base64.b64encode(login.encode()).decode()}" if login else None

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            path = folder / self.path.lstrip("/")
            if wanted and self.headers["Authorization"] != wanted:
                self.send_error(401)
                return
            if not path.is_file():
                self.send_error(404)
                return
            data, status, is_last = path.read_bytes(), 200, False
            if asked := self.headers["Range"]:
                first, last = asked.removeprefix("bytes=").split("-")
                data, status = data[int(first) : int(last) + 1], 206
                with lock:
                    is_last = next(answers) == dies_at_answer
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if is_last:
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            if with_body:
                self.wfile.write(data)

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
