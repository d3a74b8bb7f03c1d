"""Nodes on one machine: network, process numbers, host name and mounts of their own, an ethernet link between two, sshd on request.

They share the disk, as nodes of a cluster share one. Only root may make them; everything they hold ends with their first process.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_OWN = ["--net", "--pid", "--uts", "--mount", "--fork", "--kill-child", "--mount-proc"]
_READY_SECONDS = 60
DEEPSPEED = str(Path(sys.executable).parent / "deepspeed")
SSH_PROGRAMS = ("pdsh", "ssh", "sshd", "ssh-keygen")

# A login needs an account that is not locked, names need /etc/hosts, and pdsh takes its ways from /etc/ssh/ssh_config: all of them
# as seen by a node alone. The first process stays as long as the test's, and whatever the node has started ends with it.
_FIRST = """
set -e
hostname {name}
ip link set lo up
mount --bind {folder}/hosts /etc/hosts
if [ -e {folder}/ssh_config ]; then
    mount --bind {folder}/ssh_config /etc/ssh/ssh_config
    mount --bind {folder}/shadow /etc/shadow
    mount -t tmpfs tmpfs /run
    mkdir -m 755 /run/sshd
    /usr/sbin/sshd -f {folder}/sshd_config -E {folder}/sshd-{name}.log
fi
touch {folder}/ready-{name}
exec cat >/dev/null
"""

_SSH_CONFIG = """
IdentityFile {folder}/key
StrictHostKeyChecking no
UserKnownHostsFile /dev/null
LogLevel ERROR
ServerAliveInterval {alive_seconds}
ServerAliveCountMax 3
"""

_SSHD_CONFIG = """
HostKey {folder}/key
AuthorizedKeysFile {folder}/key.pub
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
MaxStartups 100
"""


@functools.cache
def why_not() -> str:
    """Why this process may have no nodes; empty where it may."""
    if missing := [name for name in ("unshare", "nsenter", "ip") if shutil.which(name) is None]:
        return f"not installed: {', '.join(missing)}"
    probe = subprocess.run(
        ["unshare", *_OWN, "sh", "-c", "hostname probe && ip link add one type veth peer name two"],
        capture_output=True, text=True,
    )  # fmt: skip
    return f"namespaces are not permitted: {probe.stderr.strip()}" if probe.returncode else ""


def why_no_ssh() -> str:
    """Why nodes may have no sshd; empty where they may."""
    missing = [name for name in SSH_PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


class Node:
    """One node. `log` holds what its commands print."""

    def __init__(self, folder: Path, name: str, address: str) -> None:
        self.name, self.address = name, address
        self.log = folder / f"{name}.log"
        script = _FIRST.format(folder=folder, name=name)
        self._outer = subprocess.Popen(
            ["unshare", *_OWN, "bash", "-c", script], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        ready = folder / f"ready-{name}"
        end = time.monotonic() + _READY_SECONDS
        while not ready.exists():
            if self._outer.poll() is not None or time.monotonic() > end:
                self._outer.kill()
                raise AssertionError(f"{name} did not start: {self._outer.communicate()[1]}")
            time.sleep(0.02)
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children")
        self.first = int(children.read_text().split()[0])

    def start(self, command: Sequence[str], folder: Path, **environment: str) -> subprocess.Popen[bytes]:
        """A command inside, in a folder; its words are added to `log`."""
        inside = ["nsenter", f"--target={self.first}", "--net", "--pid", "--uts", "--mount", f"--wd={folder}", *command]
        with self.log.open("ab") as log:
            return subprocess.Popen(inside, env={**os.environ, **environment}, stdout=log, stderr=log)

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def num_processes(self, word: str) -> int:
        """How many inside have `word` in their command line."""
        found = 0
        space = os.readlink(f"/proc/{self.first}/ns/pid")
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                inside = os.readlink(folder / "ns" / "pid") == space
                found += inside and word in (folder / "cmdline").read_bytes().decode(errors="replace")
        return found

    def kill(self) -> None:
        """End every process of the node at once."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.first, signal.SIGKILL)
        self._outer.wait(_READY_SECONDS)


class Cluster:
    """Two nodes, node-a and node-b, on one link; `with_ssh`: each takes commands of the other by ssh, which gives a silent one up
    after three times `alive_seconds`."""

    def __init__(self, folder: Path, *, with_ssh: bool, alive_seconds: int = 2) -> None:
        folder.mkdir(parents=True)
        addresses = {"node-a": "10.77.0.1", "node-b": "10.77.0.2"}
        hosts = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
        (folder / "hosts").write_text("\n".join(hosts) + "\n")
        if with_ssh:
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
            (folder / "ssh_config").write_text(_SSH_CONFIG.format(folder=folder, alive_seconds=alive_seconds))
            (folder / "sshd_config").write_text(_SSHD_CONFIG.format(folder=folder))
            (folder / "shadow").write_text("root:*:19000:0:99999:7:::\nsshd:!:19000::::::\n")
        self.nodes: list[Node] = []
        try:
            for name, address in addresses.items():
                self.nodes.append(Node(folder, name, address))
            a, b = self.nodes
            self._ip(a, f"link add eth0 type veth peer name eth0 netns {b.first}")
            for node in self.nodes:
                self._ip(node, f"address add {node.address}/24 dev eth0")
                self._ip(node, "link set eth0 up")
        except BaseException:
            self.close()
            raise

    def cut_link(self) -> None:
        """At node-b. Nothing passes any more, and nobody is told."""
        self._ip(self.nodes[1], "link set eth0 down")

    def close(self) -> None:
        for node in self.nodes:
            node.kill()

    @staticmethod
    def _ip(node: Node, words: str) -> None:
        # Not in the node's PID namespace: `netns` names a process of ours.
        subprocess.run(["nsenter", f"--target={node.first}", "--net", "ip", *words.split()], check=True)
