"""What a long history costs: how many DiskBackups are read, not how long that takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

import pytest

from longboat.kube.kinds import DISK_BACKUP, Kind
from longboat.kube.port import Object
from longboat.reconcile import backup_cut, backup_sweep, deletion, retention
from longboat.reconcile.backup_run import Run
from longboat.reconcile.queue import WorkQueue
from longboat.reconcile.routing import Owners
from longboat.reconcile.tick import Tick
from tests.fakes.cluster import FakeCluster
from tests.unit.reconcile.policy_world import SHOP, World

OTHERS, EACH = 20, 10


class Counting(FakeCluster):
    """Counts the DiskBackups that lists yield."""

    read = 0

    def list(
        self,
        kind: Kind,
        namespace: str = "",
        labels: Mapping[str, str] | None = None,
        fields: Sequence[str] = (),
        *,
        cached: bool = False,
    ) -> Iterator[Object]:
        for each in super().list(kind, namespace, labels, fields, cached=cached):
            self.read += kind == DISK_BACKUP
            yield each


class History(World):
    """A namespace in which many policies have made many backups of many machines, one of them the policy ``daily``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.cluster = Counting(self.clock, list(self.settings_namespaces()))
        for number in range(OTHERS):
            for run in range(EACH):
                self.finished(f"other-{number}", f"other-{number}-{run}", f"vm-{number}")
        self.add_policy()
        for run in range(3):
            self.finished("daily", f"daily-{run}", "db")

    def settings_namespaces(self) -> Sequence[str]:
        return (self.settings.namespace, SHOP)

    def finished(self, policy: str, name: str, machine: str) -> None:
        self.add("DiskBackup", name, {"policyRef": {"name": policy}})
        self.set_status(name, phase="Completed", cleanedUp=True, virtualMachine=machine, observedGeneration=1)

    def reading(self) -> int:
        """Return how many DiskBackups were read since the last time this was asked."""
        read, self.cluster.read = self.cluster.read, 0
        return read


@pytest.fixture
def history() -> History:
    made = History()
    made.reading()
    return made


def test_a_policy_reads_its_own_runs_and_not_its_neighbours(history: History) -> None:
    history.run()
    assert history.reading() == 3


def test_retention_reads_its_own_runs_and_not_its_neighbours(history: History) -> None:
    retention.reconcile(history.context(), SHOP, "daily")
    assert history.reading() == 3


def test_a_cut_looks_at_its_own_machine_only(history: History) -> None:
    history.add("DiskBackup", "now", {"policyRef": {"name": "daily"}})
    history.set_status("now", phase="Snapshotting", virtualMachine="db")
    backup = history.backup("now")
    assert backup
    history.reading()
    assert not backup_cut._held_up(Run(history.context(), backup))
    assert history.reading() == 4


def test_only_the_hourly_pass_reads_the_history(history: History) -> None:
    ticking = Tick(history.context(), WorkQueue(lambda key: None), Owners(), cleaning=(backup_sweep.sweep,))
    ticking.once()
    assert history.reading() >= OTHERS * EACH
    for minutes, least in ((6, 0), (6, 0), (49, OTHERS * EACH)):
        history.clock.by(minutes=minutes)
        ticking.once()
        assert (history.reading() >= OTHERS * EACH) is bool(least)


def test_what_is_not_tidied_up_is_found_by_every_pass(history: History) -> None:
    history.set_status("other-3-3", cleanedUp=None)
    seen: Counter[str] = Counter()
    queue = WorkQueue(lambda key: seen.update([key.name]))
    ticking = Tick(history.context(), queue, Owners())
    for count in (1, 2):
        ticking.once()
        while queue.run_one():
            pass
        assert seen["other-3-3"] == count
        history.clock.by(minutes=6)


def test_a_thousand_deletions_are_counted_a_few_times_and_not_a_thousand(history: History) -> None:
    going = [f"other-{number}-{run}" for number in range(OTHERS) for run in range(EACH)]
    for name in going:
        history.set_status(name, store={"name": "offsite", "repository": "x"}, manifest=name)
        history.cluster.patch(DISK_BACKUP, name, [{"op": "add", "path": "/metadata/finalizers", "value": [KEEP]}], SHOP)
        history.cluster.delete(DISK_BACKUP, name, SHOP)
    history.clock.by(seconds=5)
    history.reading()
    ctx = history.context()
    for name in going:
        backup = history.backup(name)
        assert backup and deletion.delete(ctx, backup, lambda *_: True) == timedelta(minutes=1)
    assert history.reasons() == ["DeletionHeld"] * len(going)
    assert history.reading() <= 2 * (len(going) + 3)


KEEP = "longboat.dev/keep-data"
