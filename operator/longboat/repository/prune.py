"""Prune: deleting what nothing refers to, without locks, beside writers that are at work.

One run marks what manifests refer to (every disk manifest there is, those of deleted backups in the trash included),
deletes the packs that were condemned at least a grace period ago and still have no reference, and condemns those that
have none now. It fails closed: whatever can't be read ends the run before anything is deleted, and names the object.
docs/explanation/prune.md says why no backup can lose a pack.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random

from .check import MAX_SKEW
from .closing import NOTHING, Accepted, has_closing, require_none_late
from .clutter import old_markers, old_revisions, remove_staged
from .condemned import MAX_CONDEMNED, CondemnedList, StoredList, read_condemned, write_condemned
from .damage import record_damage
from .damage_life import DamageRecords, read_records
from .epoch import Epoch, epoch_time, require_epoch
from .errors import ClockSkewError
from .layout import ID_BYTES, MAPS, PACKS, Kind, split_pack_name
from .leases import DEFAULT_GRACE, LEASE_TTL, MIN_GRACE
from .mark import DEFAULT_THREADS, SHARED, DiskMarks, Marks, map_pack_sizes, mark_pages
from .object_store import ObjectInfo
from .parallel import in_batches
from .repack import RepackReport, RepackRules
from .repack_step import RepackStep, Seen
from .repository import Repository
from .retire import retire
from .rewrite import Candidates, RewriteList, advice_objects, to_rewrite, write_advice
from .roots import LeasedPacks, mark_manifests, read_leases
from .settle import settle

MOST = 0.5  # A larger share of all bytes is condemned only by those who say that they mean it.
_LEAVE_MARGIN = 10  # Percent more than somebody has allowed that goes without another question.
_FOLDERS = {Kind.DATA_PACK: PACKS, Kind.MAP_PACK: MAPS}
_BATCH = 256  # Objects that are deleted between two looks at the epoch.
DATA_PACK, MAP_PACK, CONDEMNED_LIST = "DataPack", "MapPack", "CondemnedList"
EXPIRED_LEASE, STALE_MARKER, OLD_REVISION = "ExpiredLease", "StaleMarker", "OldRevision"
REWRITE_LIST, DAMAGE_RECORD, DISK_MANIFEST, STAGED = "RewriteList", "DamageRecord", "DiskManifest", "StagedFile"
_REASONS = {Kind.DATA_PACK: DATA_PACK, Kind.MAP_PACK: MAP_PACK}


@dataclass
class Tally:
    """A number of objects and their bytes."""

    objects: int = 0
    bytes: int = 0

    def add(self, info: ObjectInfo) -> None:
        """Count an object."""
        self.objects += 1
        self.bytes += info.size


def _sum(*tallies: Tally) -> Tally:
    return Tally(sum(each.objects for each in tallies), sum(each.bytes for each in tallies))


@dataclass(frozen=True)
class Asked:
    """What a prune asked leave for: the packs it would have condemned, and with them those that waited already."""

    condemned: Tally
    unneeded: Tally

    def covers(self, found: Asked) -> bool:
        """Tell whether leave for this is leave for what was found, which may be a little more by now."""
        return _within(found.condemned, self.condemned) and _within(found.unneeded, self.unneeded)


def _within(found: Tally, allowed: Tally) -> bool:
    pairs = (found.objects, allowed.objects), (found.bytes, allowed.bytes)
    return all(100 * one <= (100 + _LEAVE_MARGIN) * most for one, most in pairs)


@dataclass
class PruneReport:
    """What a prune did, or would do if it is a dry run.

    `removed` says by reason (a constant of this module) what was deleted. Of the packs that were not, `live` are those
    that manifests refer to, `leased` those that writers at work have announced; `waiting` were condemned by an earlier
    run and will be deleted by a later one, `condemned` by this one; `later` are too young to be condemned, or there are
    too many at once, or that was postponed. `to_rewrite` of the live ones hold so little that the next backups of their
    disks store it anew. `live_by_claim` are the bytes of the live ones by the name of the claim whose disk they are
    ("": of several disks, and map packs). `unknown` counts objects among the packs that are not ours and are left
    alone. `postponed` says why nothing was condemned; `asked` for what it needs somebody who says that it is meant
    (`allow_most`). `repacked` is what was done for disks that are not backed up any more. `retired`: a closed
    repository was empty, and its keys and header went. `needed` tells by its name whether a pack has a reference.
    """

    dry_run: bool = False
    manifests: int = 0
    leases: int = 0
    removed: dict[str, Tally] = field(default_factory=dict)
    live: Tally = field(default_factory=Tally)
    leased: Tally = field(default_factory=Tally)
    waiting: Tally = field(default_factory=Tally)
    condemned: Tally = field(default_factory=Tally)
    later: Tally = field(default_factory=Tally)
    to_rewrite: Tally = field(default_factory=Tally)
    live_by_claim: Counter[str] = field(default_factory=Counter)
    unknown: int = 0
    postponed: str = ""
    asked: Asked | None = None
    retired: bool = False
    needed: Callable[[str], bool] = field(default=lambda _: True, repr=False, compare=False)
    repacked: RepackReport = field(default_factory=RepackReport)

    @property
    def freed(self) -> Tally:
        """Everything that was deleted, or would be."""
        return _sum(*self.removed.values())


@dataclass(frozen=True)
class PruneProgress:
    """How far a prune is: its step (manifests, maps, packs, repack: bytes) and how many of how many; 0 is not known."""

    step: str
    done: int
    total: int = 0


def prune(
    repository: Repository,
    *,
    now: datetime,
    grace: timedelta = DEFAULT_GRACE,
    epoch: Epoch | None = None,
    dry_run: bool = False,
    allow_most: bool | Asked = False,
    closed: datetime | None = None,
    accepted: Accepted = NOTHING,
    may_retire: bool = False,
    threads: int = DEFAULT_THREADS,
    progress: Callable[[PruneProgress], None] = lambda _: None,
    repack: RepackRules | None = None,
) -> PruneReport:
    """Delete what was condemned `grace` ago (MIN_GRACE at least) and condemn what nothing refers to now.

    `epoch` is what advance_epoch() returned right before, and `now` this machine's time: ages are by the store's clock,
    which has stamped the epoch; ClockSkewError if the two clocks disagree. EpochConflictError as soon as another one is
    found. A dry run needs no epoch, takes `now` for the store's time, and writes nothing. Unless `allow_most`, nothing
    is condemned if more than the share MOST of all bytes would be: manifests may be hidden. Leave for what an earlier
    run `asked` about is leave for notably more neither. `closed` is since when the repository is closed, if it is:
    LateManifestError names what was written too late after that and is not `accepted`, and nothing is deleted. If it
    `may_retire`, as it is the oldest one of its namespace, its keys and header go once nothing is left in it. With
    `repack`, what is alive of mostly dead packs of disks that are gone is moved. DamagedError, UnsupportedFormatError
    or a StoreError ends the run; what was deleted until then was rightly deleted.
    """
    if grace < MIN_GRACE:
        raise ValueError(f"grace: expected {MIN_GRACE} or more, so that no writer at work loses a pack; found {grace}")
    require_none_late(repository, closed, accepted)
    run = _Prune(repository, _store_time(repository, now, epoch, dry_run), grace, epoch, dry_run, threads, progress)
    run.believes_moved = repack is not None
    moves = repack is not None and closed is None and not has_closing(repository)
    # What backups would store anew beside that is stored twice until the old ones have expired.
    run.run(allow_most, settles=moves, advises_dead=not (moves and repack is not None and repack.living))
    if repack is not None and closed is None:
        run.repack(repack)
    if closed is not None and may_retire:
        run.report.retired = retire(repository, closed, run.now, epoch)
    return run.report


def _store_time(repository: Repository, now: datetime, epoch: Epoch | None, dry_run: bool) -> datetime:
    if dry_run:
        return now
    if epoch is None:
        raise ValueError("epoch: expected what advance_epoch() returned, unless it is a dry run")
    stamped = epoch_time(repository)
    if abs(stamped - now) > MAX_SKEW:
        raise ClockSkewError(
            f"{repository.store.describe()}: the store's clock said {stamped:%Y-%m-%dT%H:%M:%SZ} when the epoch was"
            f" advanced, this machine's says {now:%Y-%m-%dT%H:%M:%SZ}: nothing is deleted; set the clock that is wrong"
        )
    return stamped


class _Condemned:
    """The packs of all condemned lists, those among them whose grace is over, and which are still there."""

    def __init__(self, lists: list[StoredList], before: datetime) -> None:
        self._lists, self._before = lists, before
        self.packs = {pack for each in lists for pack in each.content.ids()}
        self.due = {pack for each in lists if each.since <= before for pack in each.content.ids()}
        self.left: set[tuple[Kind, bytes]] = set()

    def finished(self) -> Iterator[ObjectInfo]:
        """Yield the lists none of whose packs is left."""
        for each in self._lists:
            if each.info.modified <= self._before and self.left.isdisjoint(each.content.ids()):
                yield each.info


def _needed(marks: Marks, leases: LeasedPacks) -> Callable[[str], bool]:
    def needed(name: str) -> bool:
        pack = split_pack_name(name)
        live = marks.data if pack and pack[0] is Kind.DATA_PACK else marks.pages
        return pack is not None and (pack[1] in live or pack in leases.packs)

    return needed


class _Prune:
    """One run; its steps have the order that the argument in docs/explanation/prune.md relies on."""

    def __init__(
        self,
        repository: Repository,
        now: datetime,
        grace: timedelta,
        epoch: Epoch | None,
        dry_run: bool,
        threads: int,
        progress: Callable[[PruneProgress], None],
    ) -> None:
        self._repository, self.now, self._before, self._epoch = repository, now, now - grace, epoch
        self._threads, self._progress = threads, progress
        self.report = PruneReport(dry_run)
        self.believes_moved = False
        self._unreferenced: dict[Kind, list[bytes]] = {kind: [] for kind in _FOLDERS}
        self._too_many = Tally()
        self._candidates = Candidates(Random(repository.random(ID_BYTES)))
        self._seen = Seen()

    def run(self, allow_most: bool | Asked, settles: bool, advises_dead: bool) -> None:
        self._fence()
        # Before the manifests: a writer that ends meanwhile has written its manifest before its lease goes.
        leases = read_leases(self._repository, self.now - LEASE_TTL, self._before - LEASE_TTL)
        # Also before them: a record that comes later may name what a manifest refers to that is not seen any more.
        damage = read_records(self._repository)
        self._seen.busy = leases.disks()
        if settles and not self.report.dry_run:
            self._settle()
        marks = self._mark()
        # After the mark: a list that is gone by then must be no reason to delete anything.
        condemned = _Condemned(read_condemned(self._repository), self._before)
        self.report.leases, self.report.postponed = leases.live, leases.lost_parent(self._repository)
        self.report.needed = _needed(marks, leases)
        clutter = {
            EXPIRED_LEASE: leases.expired,
            STALE_MARKER: list(old_markers(self._repository, self._before)),
            OLD_REVISION: list(old_revisions(self._repository, self._before)),
        }
        for kind, live in ((Kind.DATA_PACK, marks.data), (Kind.MAP_PACK, marks.pages)):
            damage.left |= {
                pack for pack in damage.packs if pack[0] is kind and (pack[1] in live or pack in leases.packs)
            }
            self._remove(_REASONS[kind], self._sort(kind, live, leases, condemned, marks.disks, damage))
        if allow_most is not True:
            self._ask_about_most(allow_most or None)
        self._condemn()
        for reason, found in {**clutter, CONDEMNED_LIST: list(condemned.finished())}.items():
            self._remove(reason, found)
        self._remove(REWRITE_LIST, self._advise(marks.disks, advises_dead))
        # Writers that began before a record was there may not know it.
        self._remove(DAMAGE_RECORD, self._tidy(damage, min(self._before, leases.since)))
        for info in remove_staged(self._repository.store, self.now, self.report.dry_run):
            self.report.removed.setdefault(STAGED, Tally()).add(info)

    def _mark(self) -> Marks:
        marks, self._seen.disks = mark_manifests(
            self._repository, self._threads, self._count_manifests, self.believes_moved
        )
        done = 0

        def count(more: int) -> None:
            nonlocal done
            done += more
            self._progress(PruneProgress("maps", done, len(marks.pages)))

        self._seen.maps = map_pack_sizes(self._repository)
        mark_pages(self._repository, marks, self._seen.maps, self._threads, count)
        return marks

    def _settle(self) -> None:
        """Let manifests of earlier runs take the place of others; they go before the mark."""
        found = settle(self._repository, self._before, self._seen.busy, self._threads)
        self._remove(DISK_MANIFEST, found.replaced)
        self.report.repacked.settled = len(found.replaced)
        self.report.repacked.note = "; ".join(found.waiting)

    def repack(self, rules: RepackRules) -> None:
        """Move what is alive of mostly dead packs of disks that are gone; what is in the way is noted, not raised."""
        fence = None if self.report.dry_run else self._fence
        RepackStep(
            *(self._repository, rules, self.report.repacked, self._threads, fence),
            progress=lambda done: self._progress(PruneProgress("repack", done, rules.budget)),
        ).run(self._seen, self.now)

    def _count_manifests(self, count: int, total: int) -> None:
        self.report.manifests = count
        self._progress(PruneProgress("manifests", count, total))

    def _sort(
        self,
        kind: Kind,
        live: Mapping[bytes, object],
        leases: LeasedPacks,
        condemned: _Condemned,
        disks: list[DiskMarks],
        damage: DamageRecords,
    ) -> Iterator[ObjectInfo]:
        """Yield the packs of a kind that are to be deleted; count the others."""
        for number, info in enumerate(self._repository.store.list(_FOLDERS[kind]), 1):
            self._progress(PruneProgress("packs", number))
            pack = split_pack_name(info.name)
            if pack is None:
                self.report.unknown += 1
                continue
            tally = self._fate(pack, info, pack[1] in live, pack in leases.packs, condemned)
            if tally is None:
                yield info
                continue
            tally.add(info)
            damage.saw(pack)
            if pack in condemned.packs:
                condemned.left.add(pack)
            owner = live.get(pack[1]) if kind is Kind.DATA_PACK else None
            disk = disks[owner] if isinstance(owner, int) and owner != SHARED else None
            if tally is self.report.live:
                self.report.live_by_claim[disk.claim_name if disk else ""] += info.size
            if isinstance(owner, int) and disk is not None:
                self._seen.own.setdefault(disk.disk_hash, {})[pack[1]] = info.size
                self._candidates.add(owner, disk, pack[1], info.size)

    def _fate(
        self, pack: tuple[Kind, bytes], info: ObjectInfo, live: bool, leased: bool, condemned: _Condemned
    ) -> Tally | None:
        """Return where a pack counts, or None if it is to be deleted."""
        if live or leased:
            return self.report.live if live else self.report.leased
        old = info.modified <= self._before
        if pack in condemned.packs:
            return None if old and pack in condemned.due else self.report.waiting
        if not old or self.report.postponed:
            return self.report.later
        if sum(map(len, self._unreferenced.values())) >= MAX_CONDEMNED:
            self._too_many.add(info)
            return self.report.later
        self._unreferenced[pack[0]].append(pack[1])
        return self.report.condemned

    def _ask_about_most(self, allowed: Asked | None) -> None:
        """Condemn nothing if most of what there is would have no reference: rather are references out of sight."""
        report = self.report
        new = _sum(report.condemned, self._too_many)
        asked = Asked(new, unneeded := _sum(new, report.waiting))
        total = _sum(report.live, report.leased, report.waiting, report.condemned, report.later)
        if not report.condemned.objects or unneeded.bytes <= MOST * total.bytes or (allowed and allowed.covers(asked)):
            return
        report.asked = asked
        more = f" ({allowed.unneeded.bytes} bytes were allowed)" if allowed else ""
        report.postponed = (
            f"no backup refers to {unneeded.objects} of {total.objects} packs, {unneeded.bytes} of {total.bytes} bytes"
            f"{more}: see that no backups are missing or hidden, then allow most to be condemned (--allow-most)"
        )
        report.later, report.condemned = _sum(report.later, report.condemned), Tally()
        self._unreferenced = {kind: [] for kind in _FOLDERS}

    def _condemn(self) -> None:
        packs, maps = ([pack.hex() for pack in self._unreferenced[kind]] for kind in _FOLDERS)
        if (packs or maps) and not self.report.dry_run:
            self._fence()
            write_condemned(self._repository, CondemnedList(marked=self.now, packs=tuple(packs), map_packs=tuple(maps)))

    def _advise(self, disks: list[DiskMarks], dead: bool) -> list[ObjectInfo]:
        """Tell the next backups which packs are mostly dead; return the lists of before."""
        before = advice_objects(self._repository)
        for disk, packs in to_rewrite(self._repository, disks, self._candidates, self._threads, dead).items():
            self.report.to_rewrite.objects += len(packs)
            self.report.to_rewrite.bytes += sum(size for _, size in packs)
            if not self.report.dry_run:
                self._fence()
                names = tuple(pack.hex() for pack, _ in packs)
                content = RewriteList(disk_key=disks[disk].disk_key, marked=self.now, packs=names)
                write_advice(self._repository, disks[disk].disk_hash, content)
        return before

    def _tidy(self, damage: DamageRecords, before: datetime) -> list[ObjectInfo]:
        gone, together = damage.tidy(before)
        if together and not self.report.dry_run:
            self._fence()
            record_damage(self._repository, together, self.now)
        return gone

    def _remove(self, reason: str, objects: Iterable[ObjectInfo]) -> None:
        for info in in_batches(self._threads, _BATCH, self._delete, objects, self._fence):
            self.report.removed.setdefault(reason, Tally()).add(info)

    def _delete(self, info: ObjectInfo) -> ObjectInfo:
        if not self.report.dry_run:
            self._repository.store.delete(info.name)
        return info

    def _fence(self) -> None:
        require_epoch(self._repository, self._epoch)
