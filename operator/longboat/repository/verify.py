"""Verifying a repository: is everything there that backups refer to, and can a sample of it be read and trusted?

Each run reads every manifest and every page of the maps (each page once, however many backups share it), asks one
listing for the packs and their sizes, and reads of the data only a sample, which moves on from run to run. Damage is
remembered in the repository (`damage`), so that no new backup refers to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from random import Random as Shuffler
from types import MappingProxyType

from .backups import StoredDisk, disk_exists, read_disk_manifest
from .damage import WHOLE, Damage, read_damage, record_damage
from .errors import AccessDeniedError, BackupNotFoundError, DamagedError
from .layout import pack_name
from .object_store import exists
from .repository import Random, Repository
from .verify_frames import ALL_FRAMES, Sample
from .verify_hurt import Attribution, Key
from .verify_inventory import BackupEntry, Inventory, key_faults, pack_sizes, take_inventory
from .verify_report import BackupHealth, DamagedObject, DiskDamage, DiskHealth, Fault, VerifyReport
from .verify_scan import Scan

Tell = Callable[[int, int, int], None]
Proven = Callable[[str, str], None]
NOWHERE: Mapping[str, int] = MappingProxyType({})
_WORKERS = 8


def verify(
    repository: Repository,
    *,
    share: float,
    now: datetime,
    random: Random = os.urandom,
    phase: int | None = None,
    backups: Collection[str] | None = None,
    suspects: Collection[str] = (),
    already_read: Collection[str] = (),
    named: Mapping[str, int] = NOWHERE,
    proven: Proven = lambda *_: None,
    record: bool = True,
    tell: Tell = lambda *_: None,
    believes_moved: bool = True,
) -> VerifyReport:
    """Verify all backups' structure, and read `share` percent (0 to 100) of the data of `backups` (names; None: all).

    Of the backups in `suspects` all data is read, and first, but for the disks (names of manifests) `already_read`;
    those that are not there are passed over; first of all where damage was met, disk by disk, at those bytes (`named`).
    `proven` hears of each disk of theirs (backup, manifest) once it was read
    to the end, and what is damaged of it written down.
    The sample goes on from `phase` (an earlier report's next_phase), or begins where `random` says. With `record`,
    new damage is written down, dated `now`. `tell` hears of bytes of disks: total and done, and bytes read. Damage is
    reported, not raised; without `believes_moved`, what only objects of prunes stand for counts as missing, as nobody
    has asked prunes to move anything. BackupNotFoundError if `backups` has an unknown name; errors of the store itself
    are raised.
    """
    run = _Run(repository, Sample.of(share, phase, random), share, Shuffler(random(8)), tell)
    run.believes_moved = believes_moved
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="verify") as pool:
        try:
            run.take_inventory(pool, None if backups is None else set(backups), set(suspects))
            run.scan_named(now, record, set(already_read), named)
            run.scan_suspects(now, record, set(named), proven)
            run.scan_rest()
            run.attribute(pool)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return run.report(now, record)


class _Run:
    def __init__(self, repository: Repository, sample: Sample, share: float, shuffler: Shuffler, tell: Tell) -> None:
        self._repository, self._sample, self._share = repository, sample, share
        self._shuffler, self._tell = shuffler, tell
        self.believes_moved = True
        self._others: dict[str, Fault] = {}
        self._known = Damage()
        self._owners: dict[str, str] = {}
        self._hurt: dict[str, dict[Key, DiskDamage]] = {}
        self._done = 0
        self._early = tuple[str, ...]()

    def take_inventory(self, pool: ThreadPoolExecutor, names: set[str] | None, suspects: set[str]) -> None:
        self._inventory = take_inventory(self._repository, pool, self.believes_moved)
        _require(self._repository, self._inventory, names)
        self._known = read_damage(self._repository, self._unreadable_record)
        self._others |= key_faults(self._repository)
        self._sizes = pack_sizes(self._repository)
        inventory = self._inventory
        self._scan = Scan(
            *(self._repository, pool, self._sizes, self._known, inventory.objects, inventory.places),
            believes_moved=self.believes_moved,
        )
        self._suspects = self._inventory.disks_of(suspects)
        self._sampled = self._inventory.disks_of(names)

    def scan_named(self, now: datetime, record: bool, already_read: set[str], named: Mapping[str, int]) -> None:
        """Read around where restores have met damage, and write down what is damaged there."""
        self._suspects -= already_read
        for name in sorted(self._suspects & named.keys()):
            self._scan.around(name, named[name])
        if record and self._suspects:
            self._early += self._record(self._scan.findings.damage(), now)[0]

    def scan_suspects(self, now: datetime, record: bool, first: set[str], proven: Proven) -> None:
        """Read all data of what a restore has found damaged; what is of a disk is written down before the next one."""
        owners = {manifest: entry.name for entry in self._inventory.backups for _, manifest, _ in entry.disks}
        for name in self._order(self._suspects, first):
            self._scan_disk(name, ALL_FRAMES)
            if record:
                names, note = self._record(self._scan.findings.damage(), now)
                self._early += names
                if not note:
                    proven(owners[name], name)

    def scan_rest(self) -> None:
        for name in self._order(set(self._inventory.disks) - self._suspects, self._sampled):
            self._scan_disk(name, self._sample if name in self._sampled else None)

    def _scan_disk(self, name: str, sample: Sample | None) -> None:
        stored = self._scan.disk(name, sample, self._progress)
        if stored:
            self._owners[name] = stored.manifest.backup_name

    def attribute(self, pool: ThreadPoolExecutor) -> None:
        """Find out whom the damage hurts; what hurts nobody (any more) is no damage."""
        if self._scan.findings.faults:
            attribution = Attribution(self._repository, pool, self._scan.findings)
            # By their names backups of a disk follow each other.
            for name in sorted(self._owners):
                self._attribute_disk(attribution, name)

    def report(self, now: datetime, record: bool) -> VerifyReport:
        self._name_incomplete()
        backups = tuple(map(self._backup, filter(self._exists, self._inventory.backups)))
        damage = tuple(self._objects())
        recorded, note = self._record(self._hurting(), now) if record else ((), "")
        damaged = damage or any(backup.state == "damaged" for backup in backups)
        return VerifyReport(
            repository_id=self._repository.id,
            state="damaged" if damaged else "ok",
            share=self._share,
            phase=self._sample.phase,
            next_phase=self._sample.next_phase,
            backups=backups,
            damage=damage,
            packs=len(self._sizes),
            pages=self._scan.pages,
            frames=self._scan.checker.frames,
            bytes_read=self._scan.checker.bytes_read,
            recorded=self._early + recorded,
            note=note,
        )

    def _order(self, disks: set[str], sampled: set[str]) -> list[str]:
        """Return these disks, those of the sample first: pages shared with others are then read for it."""
        names = sorted(disks)
        # Frames are compared with the ids of the first page that leads to them, which so is not always the same one.
        self._shuffler.shuffle(names)
        return sorted(names, key=lambda name: name not in sampled)

    def _progress(self, size: int) -> None:
        self._done += size
        self._tell(self._inventory.total_bytes, self._done, self._scan.checker.bytes_read)

    def _unreadable_record(self, name: str, error: DamagedError) -> None:
        detail = f"{error}; backups are full until it is removed: verify 100 % of all backups, then remove it"
        self._others[name] = Fault("Damaged", detail)

    def _attribute_disk(self, attribution: Attribution, name: str) -> None:
        try:
            stored: StoredDisk = read_disk_manifest(self._repository, name)
        except BackupNotFoundError:
            return  # Removed meanwhile, and its packs perhaps with it.
        hurt = attribution.disk(stored)
        if hurt and disk_exists(self._repository, name):
            self._hurt[name] = hurt

    def _name_incomplete(self) -> None:
        for entry in self._inventory.backups:
            if not entry.complete:
                entry.name = next((self._owners[m] for _, m, _ in entry.disks if m in self._owners), entry.name)

    def _exists(self, entry: BackupEntry) -> bool:
        # What was removed during the run is neither damaged nor anybody's concern.
        lost = any(manifest in self._scan.lost_disks for _, manifest, _ in entry.disks)
        if lost or entry.fault:
            if entry.manifest:
                return exists(self._repository.store, entry.manifest)
            return disk_exists(self._repository, entry.disks[0][1])
        return True

    def _backup(self, entry: BackupEntry) -> BackupHealth:
        disks = tuple(self._disk(*disk) for disk in entry.disks)
        hurt = entry.fault or any(disk.state == "damaged" for disk in disks)
        return BackupHealth(
            name=entry.name,
            created=entry.created,
            deleted=entry.deleted,
            complete=entry.complete,
            state="damaged" if hurt else "ok",
            disks=disks,
        )

    def _disk(self, disk: str, manifest: str, size: int) -> DiskHealth:
        damage = tuple(self._hurt.get(manifest, {}).values())
        if manifest in self._scan.lost_disks:
            lost = DiskDamage(object=manifest, frame_offset=None, ranges=((0, size),), damaged_bytes=size)
            damage = (lost,)
        return DiskHealth(disk=disk, manifest=manifest, state="damaged" if damage else "ok", damage=damage)

    def _objects(self) -> list[DamagedObject]:
        entries = [entry for entry in self._inventory.backups if self._exists(entry)]
        found = [_object(name, None, fault, []) for name, fault in self._others.items()]
        found += [_object(e.manifest, None, Fault("Damaged", e.fault), [e.name]) for e in entries if e.fault]
        for name, fault in self._scan.lost_disks.items():
            names = _names(entries, {name})
            found += [_object(name, None, fault, names)] if names else []
        for (kind, pack), faults in sorted(self._scan.findings.faults.items()):
            for offset, fault in sorted(faults.items()):
                hurt = {name for name, keys in self._hurt.items() if (kind, pack, offset) in keys}
                if hurt:
                    found.append(_object(pack_name(kind, pack), offset, fault, _names(entries, hurt)))
        return found

    def _hurting(self) -> Damage:
        damage = Damage()
        for keys in self._hurt.values():
            for kind, pack, offset in keys:
                damage.add(kind, pack, offset)
        return damage

    def _record(self, damage: Damage, now: datetime) -> tuple[tuple[str, ...], str]:
        more = damage.beyond(self._known)
        try:
            names = record_damage(self._repository, more, now)
        except AccessDeniedError as error:
            return (), f"new backups may refer to this damage, as it can't be written down: {error}"
        for frame in more:
            self._known.add(*frame)
        return tuple(names), ""


def _require(repository: Repository, inventory: Inventory, names: set[str] | None) -> None:
    missing = (names or set()) - {entry.name for entry in inventory.backups}
    if missing:
        raise BackupNotFoundError(f"{repository.store.describe()}: there is no backup {', '.join(sorted(missing))}")


def _names(entries: list[BackupEntry], disks: set[str]) -> list[str]:
    return sorted({entry.name for entry in entries for _, manifest, _ in entry.disks if manifest in disks})


def _object(name: str, offset: int | None, fault: Fault, backups: list[str]) -> DamagedObject:
    return DamagedObject(
        object=name,
        frame_offset=None if offset == WHOLE else offset,
        problem=fault.problem,
        detail=fault.detail,
        backups=tuple(backups),
    )
