"""What a model wrote, kept on disk by (who wrote it and how, sha256 of what it read): a stopped run goes on.

A cache is a folder of a folder a key; in it `key.json` and JSON lines `{"sha256": ..., "text": ...}`, a file a process, so that
any number of processes write at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mtllm_ds import atomic


class TextCache:
    """Outputs under one key, such as model fingerprint, languages and decoding settings.

    Args:
        folder: of all keys together
        key: everything besides the text that decides the output; plain JSON values
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        canonical = json.dumps(key, sort_keys=True, ensure_ascii=False)
        self.folder = folder / hashlib.sha256(canonical.encode()).hexdigest()[:16]
        self._known: dict[str, str] = {}
        self._own = self.folder / f"{socket.gethostname()}-{os.getpid()}.jsonl"
        if not (self.folder / "key.json").exists():
            atomic.write_json(self.folder / "key.json", dict(key))
        self.reload()

    def reload(self) -> None:
        """Read what all processes have written; a line that a killed one left unfinished, or that began behind it, is skipped."""
        for path in sorted(self.folder.glob("*.jsonl")):
            for line in path.read_bytes().split(b"\n"):
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                self._known[row["sha256"]] = row["text"]

    def __contains__(self, text: str) -> bool:
        return _digest(text) in self._known

    def __getitem__(self, text: str) -> str:
        return self._known[_digest(text)]

    def add(self, outputs: Iterable[tuple[str, str]]) -> None:
        """Keep (what was read, what was written); safe on disk when this returns."""
        rows = [{"sha256": _digest(text), "text": output} for text, output in outputs]
        self._known |= {row["sha256"]: row["text"] for row in rows}
        with self._own.open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
