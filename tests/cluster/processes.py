"""Finding and ending processes by an argument that only they have: unlike a pid file, it is never stale or missing."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from tests.cluster.progress import ClusterError


def command_line(pid: int) -> list[str]:
    """The arguments of a process; none if it is gone or a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def find(marker: str) -> list[int]:
    """Processes, this one excepted, that have `marker` as one of their arguments."""
    pids = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()]
    return [pid for pid in pids if pid != os.getpid() and marker in command_line(pid)]


def kill_all(marker: str, seconds: float = 20.0) -> None:
    """Kill every process that has `marker` as an argument and wait until all are gone; raises ClusterError if not.

    Process 1 of a PID namespace is gone only when everything in its namespace is.
    """
    deadline = time.monotonic() + seconds
    while pids := find(marker):
        for pid in pids:
            _kill(pid)
        if time.monotonic() > deadline:
            raise ClusterError(f"processes {pids} with the argument {marker} do not end")
        time.sleep(0.05)


def wait_gone(pids: list[int], seconds: float = 20.0) -> None:
    """Wait until the processes have been torn down, namespaces and all: a zombie counts as gone."""
    deadline = time.monotonic() + seconds
    while any(_is_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            raise ClusterError(f"processes {pids} were killed and do not end")
        time.sleep(0.05)


def _kill(pid: int) -> None:
    # It may end by itself in the meantime.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"
