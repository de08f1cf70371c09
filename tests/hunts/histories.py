"""Histories of exports, prunes and sweeps, interleaved call by call, and the model that they are held to.

A model remembers what every backup was made of. Processes may be killed before any operation, sleep for any time before
any operation, and run beside any others. The clock is the store's; each machine's own is off by minutes, and the one
that counts from its start stands still at times, as it does in a machine that is paused.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache, partial
from importlib import import_module
from typing import Any, NamedTuple

import pytest

from longboat.repository import (
    RepackRules,
    Repository,
    SecondBackup,
    StoredDisk,
    advance_epoch,
    commit,
    crypto,
    documents,
    leases,
    map_builder,
    open_with_master_key,
    prune,
    read_disk_manifest,
    reference_to,
    same_cut,
    sweep_tombstones,
    uploaded,
    write_backup_manifest,
    write_second_manifest,
    write_tombstone,
)
from longboat.repository.avoid import avoid
from longboat.repository.backups import read_disk_at
from longboat.repository.commit import require_sound
from longboat.repository.condemned import StoredList, read_condemned
from longboat.repository.errors import BackupBeingRemovedError, BackupNotFoundError, DamagedError
from longboat.repository.layout import Kind, split_pack_name
from longboat.repository.listing import list_disks
from longboat.repository.mark import references
from longboat.repository.object_store import Data, ObjectStore
from tests.fakes.interleaved import AtOnce, Process
from tests.fakes.object_store import MemoryStore
from tests.unit.mover.disks import PATH, backup_time, repository_in
from tests.unit.repository.hand_writer import back_up, read_back

GRACE = leases.MIN_GRACE
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


class Noted:
    """A store that notes which versions of which objects were read, in `read`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.read: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get(self, name: str, max_size: int) -> bytes:
        self._note(name)
        return self._store.get(name, max_size)

    def get_range(self, name: str, offset: int, length: int) -> Data:
        self._note(name)
        return self._store.get_range(name, offset, length)

    def holds(self, read: dict[str, int]) -> bool:
        """Tell whether all these versions are still there."""
        objects = self._store.objects
        return all(name in objects and objects[name][2] == version for name, version in read.items())

    def _note(self, name: str) -> None:
        if name in self._store.objects:
            self.read[name] = self._store.objects[name][2]


class History:
    """A store, the processes at work on it, and the model: what each backup was made of."""

    def __init__(self) -> None:
        self.store = _EMPTY.copy()
        self.noted = Noted(self.store)
        self.repository = open_with_master_key(self.noted, PATH, _KEY)
        self.processes: list[Process] = []
        self.contents: dict[str, list[int]] = {}
        self.disks: list[list[int]] = [[1, 2, 3, 4, 5, 6], [7, 7, 0, 0, 8]]
        self.writers: dict[str, Process] = {}
        self.given_up: set[str] = set()
        self.paused = timedelta(0)
        self.missed: list[bool] = []
        self.repack: RepackRules | None = None
        self._bytes = random.Random(0)
        self._whole: dict[str, dict[str, int]] = {}
        self._lists: dict[str, StoredList] = {}

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

    def share(self, which: int, much: int) -> None:
        """Begin to give another backup a manifest of what an export has stored; the first may be deleted meanwhile."""
        made = [(name, writer.result) for name, writer in self.writers.items() if isinstance(writer.result, StoredDisk)]
        if not made:
            return
        first, stored = made[-1 - which % len(made)]
        name = f"backup-{len(self.contents)}"
        self.contents[name] = self.contents[first]
        second = SecondBackup(name, stored.manifest.disk, stored.manifest.created)

        def work(store: ObjectStore) -> object:
            repository = self._open(store)
            shared = write_second_manifest(repository, stored.name, second)
            write_backup_manifest(repository, name, second.created, [reference_to(shared, "data")])
            return shared

        self.writers[name] = self._begin(work)

    def prune(self, which: int, much: int) -> None:
        """Begin to prune; other prunes of the same operator may be at work, and no disk manifest is ever missed."""
        skew = timedelta(minutes=(much % 9) - 4)

        def work(store: ObjectStore) -> object:
            repository = self._open(store)
            epoch = advance_epoch(repository, {"t"}, "t")
            now = self.store.now + skew
            try:
                return prune(
                    repository, now=now, grace=GRACE, epoch=epoch, allow_most=True, threads=1, repack=self.repack
                )
            except DamagedError as error:
                self.missed += [self._is_missed(error)]
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
        """Restore every backup that was made and not given up, bit for bit.

        One is not read again while every version of every object that it was read from is still there.
        """
        self._check_lists()
        for name in list_disks(self.repository):
            if name not in self._whole or not self.noted.holds(self._whole[name]):
                self._check(name)

    def _check_lists(self) -> None:
        """See that a list that has gone was there for a grace period, and that none of its packs is left."""
        there = {each.info.name: each for each in read_condemned(self.repository)}
        for name in self._lists.keys() - there.keys():
            gone = self._lists[name]
            assert self.store.now - gone.info.modified >= GRACE, name
            assert set(self._packs()).isdisjoint(gone.content.ids()), name
        self._lists = there

    def _check(self, place: str) -> None:
        self.noted.read = {}
        stored = read_disk_manifest(self.repository, place)
        name = stored.manifest.backup_name
        writer = self.writers[name]
        if writer.result is None:
            try:
                require_sound(self.repository, stored)
            except DamagedError:
                return  # Its writer slept and was killed before it could look: it never became a backup.
        assert read_back(self.repository, stored.manifest) == self.contents[name], name
        self._whole[place] = self.noted.read

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
                prune(
                    self.repository,
                    now=self.store.now,
                    grace=GRACE,
                    epoch=epoch,
                    allow_most=True,
                    threads=1,
                    repack=self.repack,
                )
            except DamagedError as error:
                assert not self._is_missed(error)
                return  # A manifest that was written too late and never withdrawn: somebody has to look.
        self.check()
        self.assert_made()
        used = set(self._used())
        assert set(self._packs()) == used
        # A list lives as long as a backup that was made within minutes of it refers to one of its packs.
        assert all(not used.isdisjoint(each.content.ids()) for each in read_condemned(self.repository))

    def _is_missed(self, error: DamagedError) -> bool:
        """Tell whether a prune misses a disk that should be there: not that of a deleted backup whose writer died.

        It may have named its disks after these had gone, and have been killed before it could look at them again.
        """
        dead = [name for name in self.given_up if name in self.writers and self.writers[name].killed]
        return "it is not there" in str(error) and not any(repr(name) in str(error) for name in dead)

    def _packs(self) -> Iterator[tuple[Kind, bytes] | None]:
        for folder in ("packs/", "maps/"):
            yield from (split_pack_name(info.name) for info in self.repository.store.list(folder))

    def _used(self) -> Iterator[tuple[Kind, bytes]]:
        for disk, info in ((each, info) for each in list_disks(self.repository).values() for info in each.objects):
            marks = references(self.repository, read_disk_at(self.repository, disk.name, info.name).manifest, threads=1)
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
    *["share"] * 2,
    *["prune"] * 3,
    "delete",
    *["go_on"] * 5,
    *["approach"] * 6,
    *["finish"] * 3,
    "kill",
    *["sleep"] * 3,
    *["pause"] * 3,
]


_derive = lru_cache(maxsize=4096)(crypto.derive)
_open_document = lru_cache(maxsize=4096)(documents.open_document)
_READERS = ["backups", "condemned", "damage", "rewrite", "roots", "tombstones", "uploaded"]


@contextmanager
def in_one_thread() -> Iterator[pytest.MonkeyPatch]:
    """Let exports work without threads; nothing is derived, decrypted and parsed again that is the same as before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commit, "references", lambda repository, manifest: references(repository, manifest, threads=1))
        patch.setattr(same_cut, "avoid", partial(avoid, threads=1))
        patch.setattr(leases, "RENEW_EVERY", timedelta(days=1))
        for user in (map_builder, uploaded):
            patch.setattr(user, "ThreadPoolExecutor", AtOnce)
        patch.setattr(crypto, "derive", _derive)
        for reader in _READERS:
            patch.setattr(import_module(f"longboat.repository.{reader}"), "open_document", _open_document)
        yield patch


@contextmanager
def begun(steps: Sequence[Step]) -> Iterator[History]:
    """Let a history happen, with a check of everything at the end of each process; what is left is killed."""
    history = History()
    with in_one_thread() as patch:
        patch.setattr(leases, "seconds_since_boot", history.seconds_since_boot)
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


def run(steps: Sequence[Step]) -> None:
    """Let a history happen and come to its end."""
    with begun(steps) as history:
        history.end()


def random_steps(chance: random.Random, least: int, most: int) -> list[Step]:
    """Return a history of a length between the two."""
    count = chance.randint(least, most)
    return [Step(chance.choice(WHAT), chance.randint(0, 5), chance.randint(0, 20)) for _ in range(count)]
