"""The last step of a prune: repacking, as far as the budget goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from random import Random

from .closing import has_closing
from .damage import Damage, read_damage, record_damage
from .errors import EpochConflictError, LeaseLostError, RepositoryError, StoreError
from .layout import ID_BYTES
from .listing import ListedDisk
from .named import being_removed, lasting_disks
from .repack import Movable, Planner, RepackPlan, RepackReport, RepackRules, movable_disks
from .repack_copy import Copied, repack_disk
from .repository import Repository


@dataclass
class Seen:
    """What a mark has seen: all disk manifests, the sizes of all map packs, and disks (by hash) with writers at work.

    `own` are the sizes of the data packs that one disk (by hash) alone refers to.
    """

    disks: dict[str, ListedDisk] = field(default_factory=dict)
    maps: dict[bytes, int] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)
    own: dict[str, dict[bytes, int]] = field(default_factory=dict)


@dataclass
class RepackStep:
    """Plans and repacks disk by disk; what is in the way is noted in the report: nothing depends on it.

    Without a `fence` nothing is written. `progress` gets the bytes downloaded so far.
    """

    repository: Repository
    rules: RepackRules
    report: RepackReport
    threads: int
    fence: Callable[[], None] | None
    progress: Callable[[int], None]

    def run(self, seen: Seen, now: datetime) -> None:
        """Repack what may be at `now`, the store's time. EpochConflictError if somebody else is in charge.

        What one disk is left for does not hold up the others.
        """
        found = Damage()
        try:
            self._require_open()
            if held := being_removed(self.repository, seen.disks):
                self._note(
                    f"{len(held)} disk manifests are left as they are: a removal that is announced may take them"
                )
            lasting = lasting_disks(self.repository, seen.disks.values(), self.threads)
            before, living = now - self.rules.gone_after, self.rules.living
            disks = list(movable_disks(seen.disks.values(), before, living, seen.busy, lasting))
            # What one run has no budget left for is another one's.
            Random(self.repository.random(ID_BYTES)).shuffle(disks)
            planner = Planner(self.repository, self.rules.budget, seen.maps, read_damage(self.repository), self.threads)
            for disk in disks:
                self._disk(planner, disk, seen.own.get(disk.disk_hash, {}), found)
        except EpochConflictError:
            raise
        except RepositoryError as error:
            self._note(f"repacking ended early: {error}")
        if found and self.fence is not None:
            record_damage(self.repository, found, now)

    def _disk(self, planner: Planner, disk: Movable, sizes: dict[bytes, int], found: Damage) -> None:
        try:
            plan = planner.plan(disk, sizes)
            if plan is not None:
                self._repack(plan, found)
        except (EpochConflictError, StoreError):
            raise
        except RepositoryError as error:
            self._note(f"disk {disk.disk_hash} is left as it is: {error}")

    def _repack(self, plan: RepackPlan, found: Damage) -> None:
        report = self.report
        report.disks, report.packs = report.disks + 1, report.packs + len(plan.packs)
        report.bytes += sum(plan.packs.values())
        if self.fence is None:
            report.downloaded += plan.cost
            return

        def tell(size: int) -> None:
            report.downloaded += size
            self.progress(report.downloaded)

        copied = repack_disk(self.repository, plan, found, self._may_write, tell)
        report.written, report.manifests = report.written + copied.written, report.manifests + copied.manifests
        if copied.missing:
            self._note(_missing(plan, copied))

    def _may_write(self) -> None:
        assert self.fence is not None
        self.fence()
        self._require_open()

    def _require_open(self) -> None:
        # What is written late into a repository that is closed holds up its prunes: nobody believes it.
        if has_closing(self.repository):
            raise LeaseLostError("the repository was closed, perhaps for one that is gone")

    def _note(self, text: str) -> None:
        self.report.note = "; ".join(filter(None, [self.report.note, text]))


def _missing(plan: RepackPlan, copied: Copied) -> str:
    planned, why = copied.manifests + copied.missing.total(), ", or ".join(copied.missing)
    disk = plan.disks[-1].name.split("/")[1]
    return f"disk {disk}: {copied.manifests} of {planned} manifests were written for what was moved: {why}"
