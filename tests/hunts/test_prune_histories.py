"""Random histories of exports, prunes and sweeps, interleaved call by call: what is not removed can be restored.

A model remembers what every backup was made of. Processes may be killed before any operation, sleep for any time before
any operation, and run beside any others. The clock is the store's; each machine's own is off by minutes, and the one
that counts from its start stands still at times, as it does in a machine that is paused.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from longboat.repository import (
    Repository,
    advance_epoch,
    leases,
    open_with_master_key,
    prune,
    read_disk_manifest,
    reference_to,
    sweep_tombstones,
    write_backup_manifest,
    write_tombstone,
)
from longboat.repository.commit import require_sound
from longboat.repository.condemned import read_condemned
from longboat.repository.errors import BackupBeingRemovedError, BackupNotFoundError, DamagedError
from longboat.repository.layout import Kind, split_pack_name
from longboat.repository.mark import references
from longboat.repository.object_store import ObjectStore
from longboat.repository.roots import LeasedPacks
from tests.fakes.interleaved import Process
from tests.fakes.object_store import MemoryStore
from tests.unit.mover.disks import PATH, backup_time, repository_in
from tests.unit.repository.hand_writer import back_up, read_back

GRACE = leases.MIN_GRACE
PRUNE = import_module("longboat.repository.prune")  # The module: the package has a function of that name.
_EMPTY = MemoryStore()
_KEY = repository_in(_EMPTY).master_key
TIMES = [timedelta(seconds=20), timedelta(minutes=4), timedelta(minutes=19), timedelta(minutes=35), GRACE, 26 * GRACE]

# A manifest, a condemned list, a deletion; and the looks at leases, manifests and lists before them.
DOES = [f"put {PATH}/disks/", f"put {PATH}/condemned/", f"delete {PATH}/packs/", f"delete {PATH}/maps/"]
LOOKS = [f"list {PATH}/disks/", f"list {PATH}/condemned/", f"get {PATH}/condemned/", f"put {PATH}/leases/"]
MOMENTS = [*DOES, *DOES, *LOOKS]


class Step(NamedTuple):
    """One thing that happens: what, and numbers that say more."""

    what: str
    which: int
    much: int


class History:
    """A store, the processes at work on it, and the model: what each backup was made of."""

    def __init__(self) -> None:
        self.store = _EMPTY.copy()
        self.repository = open_with_master_key(self.store, PATH, _KEY)
        self.processes: list[Process] = []
        self.contents: dict[str, list[int]] = {}
        self.disks: list[list[int]] = [[1, 2, 3, 4, 5, 6], [7, 7, 0, 0, 8]]
        self.writers: dict[str, Process] = {}
        self.given_up: set[str] = set()
        self.paused = timedelta(0)
        self.missed: list[bool] = []
        self._bytes = random.Random(0)

    def happen(self, step: Step) -> None:
        """Let one thing happen."""
        getattr(self, step.what)(step.which, step.much)

    def write(self, which: int, much: int) -> None:
        """Change a disk: some block, or its size."""
        disk = self.disks[which % 2]
        if much % 7 == 0:
            del disk[2 + much % 3 :]
        elif much % 7 == 1:
            disk += [much % 5] * 3
        else:
            disk[much % len(disk)] = much % 6

    def export(self, which: int, much: int) -> None:
        """Begin to back a disk up."""
        name, number = f"backup-{len(self.contents)}", len(self.contents)
        content = list(self.disks[which % 2])
        self.contents[name] = content

        def work(store: ObjectStore) -> object:
            repository = self._open(store)
            stored = back_up(repository, f"disk-{which % 2}", name, backup_time(number), content)
            write_backup_manifest(repository, name, backup_time(number), [reference_to(stored, "data")])
            return stored

        self.writers[name] = self._begin(work)

    def prune(self, which: int, much: int) -> None:
        """Begin to prune; other prunes of the same operator may be at work, and no disk manifest is ever missed."""
        skew = timedelta(minutes=(much % 9) - 4)

        def work(store: ObjectStore) -> object:
            repository = self._open(store)
            epoch = advance_epoch(repository, {"t"}, "t")
            now = self.store.now + skew
            try:
                return prune(repository, now=now, grace=GRACE, epoch=epoch, allow_most=True, threads=1)
            except DamagedError as error:
                self.missed += ["it is not there" in str(error)]
                raise

        self._begin(work)

    def delete(self, which: int, much: int) -> None:
        """Begin to delete a backup for good."""
        names = sorted(self.contents.keys() - self.given_up)
        if names:
            name = names[which % len(names)]
            self.given_up.add(name)
            self._begin(lambda store: _delete(self._open(store), name, self.store))

    def go_on(self, which: int, much: int) -> None:
        """Let a process do some of its operations."""
        if self.processes:
            process = self.processes[which % len(self.processes)]
            for _ in range(1 + much):
                if not process.step():
                    break
        self._forget_ended()

    def approach(self, which: int, much: int) -> None:
        """Let a process go on until it is about to do what others may not see in time."""
        if self.processes:
            process, what = self.processes[which % len(self.processes)], MOMENTS[much % len(MOMENTS)]
            while not process.next_operation().startswith(what) and process.step():
                pass
        self._forget_ended()

    def finish(self, which: int, much: int) -> None:
        """Let a process come to its end."""
        if self.processes:
            self.processes[which % len(self.processes)].run()
        self._forget_ended()

    def kill(self, which: int, much: int) -> None:
        """End a process before its next operation."""
        if self.processes:
            self.processes[which % len(self.processes)].kill()
        self._forget_ended()

    def sleep(self, which: int, much: int) -> None:
        """Let time pass for everybody."""
        self.store.advance(TIMES[much % len(TIMES)])

    def pause(self, which: int, much: int) -> None:
        """Let time pass that no writer's machine counts."""
        self.sleep(which, much)
        self.paused += TIMES[much % len(TIMES)]

    def seconds_since_boot(self) -> float:
        """Return what the writers' machines have counted."""
        return (self.store.now - self.paused).timestamp()

    def check(self) -> None:
        """Restore every backup that was made and not given up."""
        for info in self.store.list(f"{PATH}/disks/"):
            stored = read_disk_manifest(self.repository, info.name.removeprefix(f"{PATH}/"))
            name = stored.manifest.backup_name
            writer = self.writers[name]
            if writer.result is None:
                try:
                    require_sound(self.repository, stored)
                except DamagedError:
                    continue  # Its writer slept and was killed before it could look: it never became a backup.
            assert read_back(self.repository, stored.manifest) == self.contents[name], name

    def assert_made(self) -> None:
        """See that no backup is missing whose writer said that it was made."""
        for name, writer in self.writers.items():
            if writer.result is not None and name not in self.given_up:
                assert read_disk_manifest(self.repository, writer.result.name)  # type: ignore[attr-defined]

    def end(self) -> None:
        """Bring all processes to their end, then see that prune leaves nothing but what is in use."""
        for process in list(self.processes):
            process.run()
        self.check()
        assert not any(self.missed)
        for _ in range(4):
            self.store.advance(GRACE + leases.LEASE_TTL)
            epoch = advance_epoch(self.repository, {"t"}, "t")
            try:
                prune(self.repository, now=self.store.now, grace=GRACE, epoch=epoch, allow_most=True, threads=1)
            except DamagedError as error:
                assert "it is not there" not in str(error)
                return  # A manifest that was written too late and never withdrawn: somebody has to look.
        self.check()
        self.assert_made()
        used = set(self._used())
        assert set(self._packs()) == used
        # A list lives as long as a backup that was made within minutes of it refers to one of its packs.
        assert all(not used.isdisjoint(each.content.ids()) for each in read_condemned(self.repository))

    def _packs(self) -> Iterator[tuple[Kind, bytes] | None]:
        for folder in ("packs/", "maps/"):
            yield from (split_pack_name(info.name) for info in self.repository.store.list(folder))

    def _used(self) -> Iterator[tuple[Kind, bytes]]:
        for info in self.repository.store.list("disks/"):
            marks = references(self.repository, read_disk_manifest(self.repository, info.name).manifest, threads=1)
            yield from ((Kind.DATA_PACK, pack) for pack in marks.data)
            yield from ((Kind.MAP_PACK, pack) for pack in marks.pages)

    def _begin(self, work: Callable[[ObjectStore], object]) -> Process:
        self.processes.append(Process(self.store, work))
        return self.processes[-1]

    def _forget_ended(self) -> None:
        self.processes = [each for each in self.processes if not each.ended]

    def _open(self, store: ObjectStore) -> Repository:
        return open_with_master_key(store, PATH, _KEY, self._bytes.randbytes)


def _delete(repository: Repository, name: str, clock: MemoryStore) -> object:
    try:
        write_tombstone(repository, name, clock.now, "test")
        return sweep_tombstones(repository, clock.now, timedelta(0))
    except (BackupBeingRemovedError, BackupNotFoundError) as error:
        return error


WHAT = [
    *["write"] * 2,
    *["export"] * 3,
    *["prune"] * 3,
    "delete",
    *["go_on"] * 5,
    *["approach"] * 6,
    *["finish"] * 3,
    "kill",
    *["sleep"] * 3,
    *["pause"] * 3,
]
STEPS = st.builds(Step, st.sampled_from(WHAT), st.integers(0, 5), st.integers(0, 20))


# How packs come about that nothing refers to although a writer may yet: an attempt was killed so long ago that its
# lease is dead, but not gone; or the backup that a writer builds on is deleted for good while it works.
KILLED = [Step("export", 0, 0), Step("approach", 0, 0), Step("kill", 0, 0), Step("sleep", 0, 4), Step("sleep", 0, 1)]
LONG_AGO = [Step("export", 0, 0), Step("finish", 0, 0), Step("sleep", 0, 5), Step("write", 0, 2)]
# Who takes part in a race, and before what each may stand still while others go on.
END, COMMIT, UPLOAD = "the end", DOES[0], f"put {PATH}/packs/"
STOPS = {
    "export": [COMMIT, COMMIT, UPLOAD, f"put {PATH}/leases/", f"list {PATH}/condemned/", END],
    "prune": [f"list {PATH}/disks/", f"list {PATH}/condemned/", *DOES[1:], END, END],
    "another prune": [f"list {PATH}/condemned/", DOES[2], DOES[2], DOES[3], END],
    "delete": [f"delete {PATH}/disks/", END],
}
STRETCHES = st.lists(
    st.sampled_from([*["export"] * 3, *["prune"] * 3, "another prune", "delete"]).flatmap(
        lambda who: st.tuples(st.just(who), st.sampled_from(STOPS[who]))
    ),
    min_size=3,
    max_size=9,
)
PACES = st.sampled_from([timedelta(0), timedelta(0), timedelta(minutes=2), timedelta(minutes=5)])


class Race:
    """One export, two prunes and a deletion that overtake each other; the export takes `pace` for each upload."""

    def __init__(self, history: History, pace: timedelta) -> None:
        self._history, self._pace = history, pace
        self._actors: dict[str, Process] = {}
        self.first_stretch = ("", "")

    def go_on(self, who: str, until: str) -> None:
        """Let one of them go on until it is about to do something, or to its end."""
        if who not in self._actors:
            self.first_stretch = self.first_stretch if self._actors else (who, until)
            begun = len(self._history.processes)
            getattr(self._history, who.rsplit(" ", 1)[-1])(0, 4)
            if len(self._history.processes) == begun:
                return  # There is nothing to delete.
            self._actors[who] = self._history.processes[-1]
        process = self._actors[who]
        while not (what := process.next_operation()).startswith(until) and process.step():
            if who == "export" and what.startswith("put"):
                self._history.store.advance(self._pace)

    def end(self, leased: bool) -> None:
        """Bring all to their ends; who began to upload before anybody else began has its backup made, by its lease."""
        for who in list(self._actors):
            self.go_on(who, END)
        if leased and self.first_stretch in {("export", UPLOAD), ("export", COMMIT)}:
            assert self._actors["export"].result is not None, self._actors["export"].error


@contextmanager
def begun(steps: list[Step]) -> Iterator[History]:
    """Let a history happen, with a check of everything at the end of each process; what is left is killed."""
    history = History()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leases, "seconds_since_boot", history.seconds_since_boot)
        patch.setattr("longboat.repository.commit.references", lambda *args: references(*args, threads=1))
        try:
            for step in steps:
                before = len(history.processes)
                history.happen(step)
                if len(history.processes) < before:
                    history.check()
            yield history
        finally:
            for process in history.processes:
                process.kill()


def run(steps: list[Step]) -> None:
    """Let a history happen and come to its end."""
    with begun(steps) as history:
        history.end()


def run_race(before: list[Step], pace: timedelta, stretches: list[tuple[str, str]], leased: bool = True) -> None:
    """Let a race happen after a history, and everything come to its end; prunes may see no leases."""
    with begun(before) as history, pytest.MonkeyPatch.context() as patch:
        if not leased:
            patch.setattr(PRUNE, "read_leases", lambda *_: LeasedPacks())
        history.disks[0] += range(11, 31)
        race = Race(history, pace)
        for who, until in stretches:
            race.go_on(who, until)
            history.check()
        race.end(leased)
        history.end()


@pytest.mark.parametrize("operations", range(0, 40, 3))
def test_writer_on_a_machine_that_was_paused_loses_no_backup(operations: int) -> None:
    others = [Step("pause", 0, 5), Step("prune", 0, 4), Step("finish", 1, 0)]
    run([Step("export", 0, 0), Step("go_on", 0, operations), *others, *others])


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEPS, min_size=15, max_size=60))
def test_no_history_loses_a_backup(steps: list[Step]) -> None:
    run(steps)


# Both prunes have read the leases before the export's, and its manifest comes after both have looked at manifests.
OVERTAKEN = [("prune", DOES[1]), ("another prune", LOOKS[1]), ("export", COMMIT), ("prune", END)]


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from([KILLED, LONG_AGO]), PACES, STRETCHES)
@example(KILLED, timedelta(0), [*OVERTAKEN, ("another prune", END)])
def test_no_race_for_packs_without_references_loses_a_backup(
    before: list[Step], pace: timedelta, stretches: list[tuple[str, str]]
) -> None:
    run_race(before, pace, stretches)


# Packs are condemned while an export uploads that refers to them, and are due when it is about to write its manifest.
CONDEMNED_MEANWHILE = [("export", UPLOAD), ("prune", END), ("export", COMMIT), ("another prune", DOES[2])]


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from([KILLED, LONG_AGO]), PACES, STRETCHES)
@example(KILLED, timedelta(minutes=5), [*CONDEMNED_MEANWHILE, ("export", END)])
def test_no_backup_is_lost_to_a_prune_that_sees_no_leases(
    before: list[Step], pace: timedelta, stretches: list[tuple[str, str]]
) -> None:
    # Leases are there so that exports get their work done; that they lose nothing must not depend on them.
    run_race(before, pace, stretches, leased=False)


@pytest.mark.long
@pytest.mark.timeout(6 * 3600)
@settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from([KILLED, LONG_AGO]), PACES, STRETCHES)
def test_none_of_many_races_loses_a_backup(
    before: list[Step], pace: timedelta, stretches: list[tuple[str, str]]
) -> None:
    run_race(before, pace, stretches)
    run_race(before, pace, stretches, leased=False)


@pytest.mark.long
@pytest.mark.timeout(6 * 3600)
@settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEPS, min_size=20, max_size=150))
def test_no_long_history_loses_a_backup(steps: list[Step]) -> None:
    run(steps)
