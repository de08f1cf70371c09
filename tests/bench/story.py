"""The cases, one after the other: every program does a step before the next one, so that all see the same image."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.bench import image, measure, simulated
from tests.bench.devices import loop_device
from tests.bench.figures import Figures
from tests.bench.tools import Command, Longboat, Tool, run
from tests.cluster.paths import CHECKOUT
from tests.cluster.progress import ClusterError, say


class Story:
    """Runs the cases and collects what they took."""

    def __init__(
        self,
        tools: Sequence[Tool],
        disk: Path,
        work: Path,
        cores: int,
        save: Callable[[Sequence[Figures]], None] = lambda _: None,
    ) -> None:
        self._tools, self._disk, self._work, self._save = tools, disk, work, save
        self._cores = cores
        self._number = 0
        self._data = sum(length for _, length in image.data_ranges(disk))
        self.figures: list[Figures] = []

    def tell(self) -> list[Figures]:
        """Run every case with every program."""
        for tool in self._tools:
            tool.prepare()
        self._backups("full", [])
        self._backups("unchanged", [])
        self._backups("clustered", image.rewrite_clustered(self._disk))
        self._backups("scattered", image.rewrite_scattered(self._disk))
        for tool in self._tools:
            if isinstance(tool, Longboat) and tool.device:
                self._restore_device(tool)
            else:
                self._restore_file(tool)
        for tool in self._tools:
            self._prune(tool)
        return self.figures

    def _backups(self, case: str, changed: image.Ranges) -> None:
        for tool in self._tools:
            whole = isinstance(tool, Longboat) and tool.device and not tool.tracked and case != "full"
            size = self._disk.stat().st_size if whole else self._data
            self._step(tool, case, tool.backup(self._number, changed), size)
        self._number += 1

    def _cpus(self, tool: Tool) -> str:
        cores = (isinstance(tool, Longboat) and tool.cores) or self._cores
        return ",".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0))[:cores])

    def _restore_file(self, tool: Tool) -> None:
        with self._target(tool) as target:
            self._step(tool, "restore", tool.restore(target), self._data)

    def _prune(self, tool: Tool) -> None:
        """Measure a prune; a figure is worth something only if the newest backup is still there."""
        if command := tool.prune():
            self._step(tool, "prune", command, self._data)
            with self._target(tool) as target:
                run(tool.restore(target))

    @contextmanager
    def _target(self, tool: Tool) -> Iterator[Path]:
        """An empty folder; at the end it has to hold the image."""
        target = self._work / "restored"
        target.mkdir()
        yield target
        self._compare(tool, next(target.rglob(self._disk.name)))
        shutil.rmtree(target)

    def _restore_device(self, tool: Tool) -> None:
        backing = self._work / "restored.img"
        with backing.open("wb") as file:
            file.truncate(self._disk.stat().st_size)
        with loop_device(backing) as device:
            self._step(tool, "restore", tool.restore(device), self._data)
        self._compare(tool, backing)
        backing.unlink()

    def _compare(self, tool: Tool, restored: Path) -> None:
        if subprocess.run(["cmp", "--silent", str(self._disk), str(restored)], check=False).returncode:
            raise ClusterError(f"{tool.name} restored something else than it was given")

    def _step(self, tool: Tool, case: str, command: Command, size: int) -> None:
        """Run a command beside nothing else of ours; raise ClusterError if it fails."""
        say(f"{case}: {tool.name}")
        before = _stored(tool.stored)
        taken = run_measured(command, self._cpus(tool))
        after = _stored(tool.stored)
        counted = {"puts": len(after.keys() - before.keys()), "gets": None} | tool.counts()
        more = sum(after.values()) - sum(before.values())
        self.figures.append(Figures(case, tool.name, size, stored_bytes=more, **(taken | counted)))
        self._save(self.figures)
        say(f"  {self.figures[-1].cpu_seconds:.2f} s of CPU, {self.figures[-1].cpu_ns_per_byte:.2f} ns/B")


def simulate(size_gib: int, data_gib: int, folder: Path) -> list[Figures]:
    """What the mover takes for a disk that is not there, in the cases of `simulated`."""
    figures = []
    for case in simulated.CASES:
        say(f"{case}: a simulated disk of {size_gib} GiB with {data_gib} GiB of data")
        program = (sys.executable, "-m", "tests.bench.simulated", str(size_gib), str(data_gib), str(folder), case)
        environment = {"PYTHONPATH": f"{CHECKOUT / 'operator'}:{CHECKOUT}"}
        taken = run_measured(Command(program, environment, CHECKOUT), "0")
        figures.append(Figures(f"{case}-{size_gib}-gib", "longboat-simulated", data_gib << 30, 0, 0, 0, 0, 0, 0, None))
        known = {key: taken[key] for key in ("cpu_seconds", "wall_seconds", "peak_rss_mib")}
        figures[-1] = replace(figures[-1], **known)
    return figures


def run_measured(command: Command, cpus: str) -> dict[str, Any]:
    """Run a command on some CPUs and return what it took; ClusterError if it fails."""
    # Without site and environment the measuring process stays small: its peak counts for the program it starts.
    launcher = ["taskset", "-c", cpus, sys.executable, "-I", "-S", str(measure.__file__), *command.arguments]
    environment = os.environ | dict(command.environment)
    done = subprocess.run(launcher, env=environment, cwd=command.folder, capture_output=True, text=True, check=True)
    taken: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if taken.pop("exit_code"):
        raise ClusterError(f"`{' '.join(command.arguments)}` failed: {done.stderr[-2000:]}")
    return taken


def _stored(folder: Path) -> dict[str, int]:
    """The files below a folder and their bytes."""
    return {str(path): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
