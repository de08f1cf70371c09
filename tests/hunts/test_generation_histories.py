"""Random histories of backups, new master keys, crashes, forgeries, deletions and prunes, against a model of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest

from longboat.mover.restore_disk import run_restore
from longboat.repository import (
    Generations,
    Repository,
    advance_epoch,
    find_backup_in_time,
    find_generations,
    open_newest,
    open_or_create_newest,
    open_repository,
    open_with_master_key,
    prune,
    read_disk_manifest,
    reference_to,
    rotate_master_key,
    sweep_tombstones,
    write_backup_manifest,
    write_tombstone,
)
from longboat.repository.errors import LateManifestError, WrongKeyError
from longboat.repository.leases import LEASE_TTL
from longboat.repository.retire import clear_remains
from tests.fakes.object_store import FaultyStore, KilledError, MemoryStore
from tests.unit.mover.disks import BLOCK, PATH, STORE_KEY, backup_time, export, restore_job, write_image

from .seeds import PARTS, hunt, seeds_of

CLUSTER, UID = PATH.split("/")
DAY = timedelta(days=1)


@dataclass
class Model:
    """What a namespace has: by backup its repository's number, its manifest and content; and what was forged."""

    folder: Path
    random: Random
    store: MemoryStore = field(default_factory=MemoryStore)
    backups: dict[str, tuple[int, str, bytes]] = field(default_factory=dict)
    forged: dict[str, int] = field(default_factory=dict)
    leaked: dict[int, bytes] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        open_or_create_newest(self.found(), STORE_KEY)

    def found(self) -> Generations:
        return find_generations(self.store, CLUSTER, UID)

    def back_up(self) -> None:
        found = self.found()
        key = open_or_create_newest(found, STORE_KEY).master_key
        name, stored, content = self._write(found, found.newest or 1, key)
        self.backups[name] = (found.newest or 1, stored, content)

    def forge(self) -> None:
        """Write a backup into an old repository with its key, when no export of before can be at work any more."""
        found = self.found()
        old = [n for n in found.numbers[:-1] if n in self.leaked]
        if old:
            self.store.advance(LEASE_TTL + timedelta(minutes=1))
            number = self.random.choice(old)
            self.forged[self._write(found, number, self.leaked[number])[0]] = number

    def rotate(self) -> None:
        """Replace the newest key, which has leaked; the process is killed on the way and begins anew, or is not."""
        found = self.found()
        current = found.newest or 1
        self.leaked[current] = open_newest(found, STORE_KEY).master_key
        fault, at = self.random.choice(["killed-before", "killed-after"]), self.random.randrange(40)
        with contextlib.suppress(KilledError):
            faulty = FaultyStore(self.store, fault, at)
            rotate_master_key(find_generations(faulty, CLUSTER, UID), STORE_KEY, current)
        self.store.advance(timedelta(minutes=self.random.randrange(60)))
        rotate_master_key(self.found(), STORE_KEY, current)
        assert self.found().newest == current + 1

    def delete(self) -> None:
        if self.backups:
            name = self.random.choice(sorted(self.backups))
            number, _, _ = self.backups.pop(name)
            self._remove(number, name)

    def clean(self) -> None:
        """Do what somebody does about a prune that has ended: delete what was forged."""
        for name, number in self.forged.items():
            self._remove(number, name)
        self.forged.clear()

    def prune(self) -> None:
        found = self.found()
        newest = open_newest(found, STORE_KEY)
        for number in found.numbers:
            repository = open_repository(self.store, found.path(number), STORE_KEY)
            closing = found.closing(number, newest)
            epoch = advance_epoch(repository, {"t"}, "t")
            more = {"closed": closing and closing.closed, "may_retire": found.may_retire(number, newest)}
            run = lambda: prune(repository, now=self.store.now, epoch=epoch, allow_most=True, **more)  # noqa: B023, E731
            if number in self.forged.values():
                with pytest.raises(LateManifestError):
                    run()
            elif run().retired:
                assert number not in {n for n, _, _ in self.backups.values()}
                break
        clear_remains(self.found())
        self.store.advance(2 * DAY)

    def wait(self) -> None:
        self.store.advance(self.random.choice([timedelta(minutes=10), 8 * DAY]))

    def check(self) -> None:
        """Have every backup be believed and what it was, what was forged be refused, and no old key open the newest."""
        found = self.found()
        newest = open_newest(found, STORE_KEY)
        for name, (number, manifest, content) in self.backups.items():
            repository = open_repository(self.store, found.path(number), STORE_KEY)
            closing = found.closing(number, newest)
            assert find_backup_in_time(repository, name, closing and closing.closed)
            assert self._restored(repository, found.path(number), manifest) == content
        for name, number in self.forged.items():
            closing = found.closing(number, newest)
            assert closing is not None
            with pytest.raises(LateManifestError):
                find_backup_in_time(open_repository(self.store, found.path(number), STORE_KEY), name, closing.closed)
        for key in self.leaked.values():
            with pytest.raises(WrongKeyError):
                open_with_master_key(self.store, found.path(found.newest or 1), key)

    def _write(self, found: Generations, number: int, key: bytes) -> tuple[str, str, bytes]:
        self.count += 1
        name, path = f"backup-{self.count}", found.path(number)
        content = {0: b"same" * 1024, BLOCK * self.random.randrange(1, 4): self.random.randbytes(BLOCK)}
        image = write_image(self.folder / "disk", content, 4 * BLOCK)
        stored = export(self.store, key, image, name, self.count, repositoryPath=path).manifest
        repository = open_with_master_key(self.store, path, key)
        reference = reference_to(read_disk_manifest(repository, stored), "data")
        write_backup_manifest(repository, name, backup_time(self.count), [reference])
        return name, stored, (image / "disk.img").read_bytes()

    def _remove(self, number: int, name: str) -> None:
        repository = open_repository(self.store, self.found().path(number), STORE_KEY)
        write_tombstone(repository, name, self.store.now, "test")
        sweep_tombstones(repository, self.store.now, timedelta(0))

    def _restored(self, repository: Repository, path: str, manifest: str) -> bytes:
        target = self.folder / "restored"
        target.mkdir(exist_ok=True)
        job = restore_job(repository.master_key, manifest, target, repositoryPath=path, replaceExisting=True)
        run_restore(job, self.store, lambda _: None)
        data = (target / "disk.img").read_bytes()
        (target / "disk.img").unlink()
        return data


STEPS = [*["back_up"] * 4, "rotate", "rotate", "forge", "delete", "clean", "prune", "prune", "wait", "wait", "wait"]


def history(seed: int) -> tuple[Sequence[str], Callable[[Sequence[str]], None]]:
    """Return a seed's steps, and what runs some of them."""

    def run(steps: Sequence[str]) -> None:
        with TemporaryDirectory() as folder:
            model = Model(Path(folder), Random(seed))
            for step in steps:
                getattr(model, step)()
            model.check()

    random = Random(seed)
    return random.choices(STEPS, k=random.randrange(6, 17)), run


def test_no_history_of_new_master_keys_loses_a_backup_or_believes_a_forged_one() -> None:
    hunt(range(30), history)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(PARTS))
def test_no_further_history_of_new_master_keys_does(part: int) -> None:
    hunt(seeds_of(part), history)
