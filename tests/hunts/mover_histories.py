"""Histories of two disks with the movers' own programs, where what is stored rots: the model that they are held to.

The model remembers what every backup was made of, and what was lost of it when it was last read. All work may be cut
short before or after any operation of the store, or meet one that fails; exports go on where they were interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import NamedTuple

from longboat.mover.restore_damage import LostDataError
from longboat.repository import (
    RepackRules,
    Repository,
    SecondBackup,
    advance_epoch,
    prune,
    read_disk_manifest,
    reference_to,
    sweep_tombstones,
    verify,
    write_backup_manifest,
    write_second_manifest,
    write_tombstone,
)
from longboat.repository.errors import BackupNotFoundError, DamagedError, LeaseLostError
from longboat.repository.object_store import ObjectStore
from tests.fakes.object_store import FaultyStore, KilledError
from tests.independent_reader.check import check
from tests.independent_reader.errors import DamagedError as FoundDamagedError
from tests.independent_reader.errors import ReaderError
from tests.unit.mover.disks import BLOCK, PAGE_BLOCKS, backup_time

from .histories import GRACE
from .memory_disks import MemoryTarget
from .mover_world import Snapshot, World

PAGE = BLOCK * PAGE_BLOCKS
TIMES = [timedelta(minutes=10), timedelta(minutes=40), 2 * GRACE, 26 * GRACE]
ALWAYS = RepackRules(budget=1 << 20, gone_after=timedelta(0))
# Of a backup that has a rotten block, another one may have had the only copy.
MAY_TAKE_COPIES = {"spoil", "delete", "delete_old", "sweep"}
LISTED = 8  # Backups that a restore's result names.


class Step(NamedTuple):
    """One thing that happens, and the number that decides what is random in it."""

    what: str
    number: int


@dataclass
class Made:
    """A backup that was made, its disk's manifest, and which blocks were lost when it was last read.

    `read` are the versions of the objects that it was read from, if nothing was lost.
    """

    snapshot: Snapshot
    manifest: str
    lost: set[int] = field(default_factory=set)
    read: dict[str, int] | None = None


class History(World):
    """A world with two disks that were made from one image."""

    def __init__(self, chance: Random) -> None:
        super().__init__(chance)
        self.repack = chance.choice([None, ALWAYS])
        image = chance.randbytes(2 * PAGE)
        self.disks = [bytearray(image), bytearray(image)]
        self.waiting: dict[int, Snapshot] = {}
        self.made: dict[str, Made] = {}
        self.knows_all = True
        self._count = 0

    def happen(self, step: Step) -> None:
        """Let one thing happen, and see that all is as it should be after it."""
        getattr(self, f"do_{step.what}")(Random(step.number))
        self.check(step.what)

    def do_write(self, chance: Random) -> None:
        """Write to a disk here and there."""
        disk = chance.choice(self.disks)
        for _ in range(chance.randint(1, 3)):
            at, length = chance.randrange(len(disk)), chance.randint(1, 9000)
            data = chance.choice([bytes(length), chance.randbytes(length), b"x" * length])
            disk[at : at + length] = data[: len(disk) - at]

    def do_rewrite(self, chance: Random) -> None:
        """Write to all of a disk but two blocks, so that the packs of its backups are mostly dead."""
        disk = chance.choice(self.disks)
        blocks = range(-(-len(disk) // BLOCK))
        for block in set(blocks) - set(chance.sample(blocks, min(2, len(blocks)))):
            at = block * BLOCK
            disk[at : at + BLOCK] = chance.randbytes(len(disk[at : at + BLOCK]))

    def do_resize(self, chance: Random) -> None:
        """Let a disk grow or shrink."""
        disk = chance.choice(self.disks)
        by = chance.choice([-1, 1, -BLOCK, BLOCK, -700, 512, -3 * PAGE // 2, 2 * PAGE, chance.randint(-9000, 9000)])
        size = min(max(1, len(disk) + by), 6 * PAGE)
        del disk[size:]
        disk.extend(bytes(size - len(disk)))

    def do_export(self, chance: Random) -> None:
        """Back a disk up, or go on with a backup of it that was interrupted."""
        disk = chance.randrange(2)
        if disk not in self.waiting or chance.random() < 0.3:
            self.waiting[disk] = self._cut(disk)
        snapshot = self.waiting[disk]
        with self.at_risk(chance) as store:
            try:
                result = self.export(snapshot, chance, store)
            except LeaseLostError:
                return  # Too long ago to go on with what was uploaded by then.
            except DamagedError:
                assert self.spoiled, "an export finds damage where nothing was spoiled"
                del self.waiting[disk]
                return  # What an earlier attempt has finished was found damaged since: another backup is needed.
            self._commit(self.open(store), snapshot, result.manifest)
            del self.waiting[disk]
            assert not self._lost_though_known(snapshot.name), f"{snapshot.name} was made: {result}"

    def do_crash(self, chance: Random) -> None:
        """Let an export die in the middle, and others not see it for some time."""
        disk = chance.randrange(2)
        self.waiting[disk] = self._cut(disk)
        store = FaultyStore(self.store, "killed-before", chance.randrange(12, 40))
        try:
            self.export(self.waiting[disk], chance, store)
        except KilledError:
            self.do_sleep(chance)

    def do_second(self, chance: Random) -> None:
        """Give another backup a manifest of what an export has stored."""
        if not self.made:
            return
        first = self.made[chance.choice(sorted(self.made))]
        with self.at_risk(chance) as store:
            repository, snapshot = self.open(store), first.snapshot._replace(name=self._new_name())
            try:
                its = read_disk_manifest(repository, first.manifest).manifest
                wanted = SecondBackup(snapshot.name, its.disk, its.created)
                stored = write_second_manifest(repository, first.manifest, wanted)
            except (DamagedError, LeaseLostError, BackupNotFoundError):
                return  # The other backup would have to be exported.
            self._commit(repository, snapshot, stored.name)
            assert not self._lost_though_known(snapshot.name), f"{snapshot.name} was made from {first.snapshot.name}"

    def do_spoil(self, chance: Random) -> None:
        """Let an object rot."""
        self.spoil(chance, chance.choice(["packs/"] * 8 + ["maps/"] * 3 + ["disks/"]))
        self.knows_all = False

    def do_verify(self, chance: Random) -> None:
        """Verify all of the repository, and see that it says of each backup what a restore of it meets."""
        with self.at_risk(chance) as store:
            self._verify(store)

    def do_sample(self, chance: Random) -> None:
        """Verify a part of the data."""
        with self.at_risk(chance) as store:
            share = chance.choice([0, 10, 50])
            verify(self.open(store), share=share, now=self.store.now, random=self.random.randbytes)

    def do_prune(self, chance: Random) -> None:
        """Prune, at times twice: what the first one condemns the second one deletes."""
        for _ in range(chance.choice([1, 2])):
            self.store.advance(chance.choice([timedelta(minutes=5), GRACE, 3 * GRACE]))
            self._prune(chance)

    def do_delete(self, chance: Random) -> None:
        """Delete a backup."""
        if self.made:
            self._delete([chance.choice(sorted(self.made))], chance)

    def do_delete_old(self, chance: Random) -> None:
        """Delete all backups of a disk but the last one."""
        disk = chance.randrange(2)
        self._delete([name for name, made in self.made.items() if made.snapshot.disk == disk][:-1], chance)

    def do_sweep(self, chance: Random) -> None:
        """Remove what was deleted."""
        with self.at_risk(chance) as store:
            sweep_tombstones(self.open(store), self.store.now, timedelta(0))

    def do_restore(self, chance: Random) -> None:
        """Restore a backup over what an interrupted attempt has left; then without salvage, which says what is hurt."""
        names = [name for name, made in self.made.items() if not self.is_spoiled(made.manifest)]
        if not names:
            return
        name = chance.choice(names)
        target = MemoryTarget(len(self.made[name].snapshot.content))
        with self.at_risk(chance) as store:
            self.restore(self.made[name].manifest, target, store)
        lost = self._read(name, target)
        try:
            self.restore(self.made[name].manifest, target, self.store, salvage=False)
        except LostDataError as error:
            assert error.damage.first // BLOCK in lost and name in error.hurt.names, f"{name}: {error}"
        else:
            assert not lost, f"{name}: a restore goes on without a word where {sorted(lost)} are lost"

    def do_sleep(self, chance: Random) -> None:
        """Let time pass."""
        self.store.advance(chance.choice(TIMES))

    def check(self, after: str) -> None:
        """Read every backup: what is lost was spoiled, and by nothing but rot and deletions comes more of it."""
        for name, made in self.made.items():
            if made.read is None or not self.noted.holds(made.read):
                before, made.lost = made.lost, self._read(name)
                more = made.lost - before
                assert after in MAY_TAKE_COPIES or not more, f"{name}: blocks {sorted(more)} are lost after {after}"

    def end(self, with_reader: bool) -> None:
        """Verify everything; then each disk can be backed up whole, and what is left is what others read as well."""
        self._verify(self.store)
        for disk in range(2):
            snapshot = self._cut(disk)
            result = self.export(snapshot, Random(0), self.store)
            self._commit(self.repository, snapshot, result.manifest)
            assert not self._lost_though_known(snapshot.name), f"{snapshot.name} was made last: {result}"
        self.check("the end")
        if with_reader:
            self._compare_with_reader()

    def _cut(self, disk: int) -> Snapshot:
        name, content = self._new_name(), bytes(self.disks[disk])
        self.snapshots[disk][name] = content
        return Snapshot(name, self._count, disk, content)

    def _new_name(self) -> str:
        self._count += 1
        return f"backup-{self._count}"

    def _commit(self, repository: Repository, snapshot: Snapshot, manifest: str) -> None:
        stored = read_disk_manifest(repository, manifest)
        write_backup_manifest(repository, snapshot.name, backup_time(snapshot.number), [reference_to(stored, "data")])
        self.made[snapshot.name] = Made(snapshot, manifest)
        self.made[snapshot.name].lost = self._read(snapshot.name)

    def _lost_though_known(self, name: str) -> bool:
        return self.knows_all and bool(self.made[name].lost)

    def _delete(self, names: Sequence[str], chance: Random) -> None:
        for name in names:
            del self.made[name]
            with self.at_risk(chance) as store:
                write_tombstone(self.open(store), name, self.store.now, "test")
                if chance.random() < 0.7:
                    sweep_tombstones(self.open(store), self.store.now, timedelta(0))

    def _verify(self, store: ObjectStore) -> None:
        report = verify(self.open(store), share=100, now=self.store.now, random=self.random.randbytes)
        self.knows_all = self.all_known({each.object for each in report.damage})
        said = {each.name: each for each in report.backups}
        for name in self.made:
            lost = self._read(name)
            assert bool(lost) == said[name].lost, (
                f"{name}: lost blocks {sorted(lost)}, a verification says {said[name]}"
            )

    def _prune(self, chance: Random) -> None:
        with self.at_risk(chance) as store:
            repository = self.open(store)
            epoch, rules = advance_epoch(repository, {"t"}, "t"), self.repack
            try:
                prune(
                    repository, now=self.store.now, grace=GRACE, epoch=epoch, allow_most=True, threads=1, repack=rules
                )
            except DamagedError as error:
                # No other damage than that of maps and manifests is in its way.
                assert self.maps_are_hit(), f"a prune ends although maps and manifests are whole: {error}"

    def _read(self, name: str, target: MemoryTarget | None = None) -> set[int]:
        """Restore a backup with salvage, compare it, and return the blocks that are lost."""
        made = self.made[name]
        content, self.noted.read, begun = made.snapshot.content, {}, target is not None
        target = target or MemoryTarget(len(content))
        try:
            result, ranges = self.restore(made.manifest, target, self.noted)
        except (DamagedError, BackupNotFoundError):
            assert self.is_spoiled(made.manifest), f"{name}: its manifest is not there, or damaged"
            return set(range(-(-len(content) // BLOCK)))
        expected = bytearray(content)
        for offset, length in ranges:
            expected[offset : offset + length] = bytes(length)
        assert target.data == expected, f"{name}: wrong data"
        lost = {block for offset, length in ranges for block in range(offset // BLOCK, -(-(offset + length) // BLOCK))}
        assert not lost or lost <= self.hit(made.manifest), f"{name}: {sorted(lost)} are lost, which nobody spoiled"
        assert not lost or name in result.hurt or len(result.hurt) == LISTED, f"{name}: lost {ranges}, {result.hurt}"
        made.read = None if lost or begun else self.noted.read  # What a target has already is not read again.
        return lost

    def _compare_with_reader(self) -> None:
        with self.reader() as (reader, folder):
            manifests = {made.manifest for made in self.made.values()}
            for each in check(reader):
                assert isinstance(each, FoundDamagedError), each
                # A deletion that was cut short has left the name of a manifest that has gone.
                deleted = each.name.startswith("disks/") and each.name not in manifests
                assert deleted or each.name in self.spoiled, each
            for name, made in self.made.items():
                try:
                    reader.restore(name, "data", folder / name)
                except ReaderError as error:
                    assert self.is_spoiled(made.manifest) or self.hit(made.manifest), f"{name}: {error}"
                else:
                    assert not made.lost and (folder / name).read_bytes() == made.snapshot.content, name


WHAT = [
    *["write"] * 4,
    *["rewrite"] * 1,
    *["resize"] * 2,
    *["export"] * 7,
    "crash",
    *["second"] * 2,
    "spoil",
    *["verify"] * 2,
    "sample",
    *["prune"] * 3,
    *["delete"] * 2,
    "delete_old",
    "sweep",
    "restore",
    *["sleep"] * 2,
]


def run(seed: int, steps: Sequence[Step]) -> None:
    """Let a history happen and come to its end; every tenth is read by the independent reader then."""
    history = History(Random(seed))
    with history.running():
        for step in steps:
            history.happen(step)
        history.end(with_reader=seed % 10 == 0)


def random_steps(chance: Random) -> list[Step]:
    """Return the steps of a history."""
    return [Step(chance.choice(WHAT), chance.randrange(1 << 20)) for _ in range(chance.randint(8, 24))]
