"""A control group of its own for each cluster, in which the kubelet makes those of the pods."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
_REMOVAL_SECONDS = 10.0


def name(identity: str) -> str:
    """The group's name under the root of each hierarchy."""
    return f"longboat-{identity}"


def is_unified() -> bool:
    """Whether the host has version 2 only."""
    return (ROOT / "cgroup.controllers").exists()


def create(identity: str) -> None:
    """Make the group in every hierarchy of version 1, or in the one of version 2 with all controllers handed down."""
    if is_unified():
        _create_unified(ROOT / name(identity))
        return
    for hierarchy in _hierarchies():
        if (hierarchy / "cgroup.controllers").exists():
            continue
        group = hierarchy / name(identity)
        group.mkdir(exist_ok=True)
        # A new cpuset is empty, and nothing can run in it until it names processors and memory nodes.
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if (group / setting).exists():
                (group / setting).write_text((hierarchy / setting).read_text())


def _create_unified(group: Path) -> None:
    group.mkdir(exist_ok=True)
    for level in (ROOT, group):
        for controller in (level / "cgroup.controllers").read_text().split():
            # One that the host keeps for itself is left out; the kubelet names those that it misses.
            with contextlib.suppress(OSError):
                (level / "cgroup.subtree_control").write_text(f"+{controller}")


def remove(identity: str) -> None:
    """Remove the group and those below it; the kernel frees them a moment after their last process."""
    deadline = time.monotonic() + _REMOVAL_SECONDS
    while not _remove_once(identity) and time.monotonic() < deadline:
        time.sleep(0.1)


def _remove_once(identity: str) -> bool:
    groups = [hierarchy / name(identity) for hierarchy in ([ROOT] if is_unified() else _hierarchies())]
    for group in groups:
        for directory, _, _ in os.walk(group, topdown=False):
            _remove_directory(Path(directory))
    return not any(group.exists() for group in groups)


def _remove_directory(directory: Path) -> None:
    try:
        for pid in (directory / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        directory.rmdir()
    except OSError:
        # Busy or gone already: the caller looks again.
        pass


def _hierarchies() -> list[Path]:
    """The hierarchies of version 1, and the one of version 2 beside them, in which runc makes groups as well."""
    return [each for each in sorted(ROOT.iterdir()) if each.is_dir() and not each.is_symlink() and each.is_mount()]
