"""One pass over a source, against one parent or none."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from longboat.repository import DiskStatistics, Repository
from longboat.repository.avoid import Avoided, avoid
from longboat.repository.backups import place_of_disk
from longboat.repository.commit import commit_disk_manifest, is_own
from longboat.repository.damage import Damage, read_damage
from longboat.repository.errors import DamagedError, ObjectNotFoundError, UnsupportedFormatError
from longboat.repository.layout import FORMAT_VERSION, Kind
from longboat.repository.leases import Lease
from longboat.repository.manifests import DiskManifest
from longboat.repository.map_builder import MapBuilder, ParentUnreadableError
from longboat.repository.map_reader import MapReader
from longboat.repository.packs import PackSink, PackWriter
from longboat.repository.parents import (
    CONDEMNED_UNREADABLE,
    DAMAGE_UNREADABLE,
    NO_PARENT,
    REQUESTED,
    ParentChoice,
    choose_parent,
)
from longboat.repository.rewrite import read_advice, rewrite_budget
from longboat.repository.similar import choose_similar
from longboat.repository.uploaded import UploadedBlocks, packs_in_leases

from .changes import ChangeSource
from .export_pipeline import READS_AHEAD, ExportPipeline
from .jobs import ExportJob
from .progress import Progress
from .read_plan import Auditor
from .reading import Reading, Wish, decide_reading
from .results import ExportResult
from .sample import sample_blocks
from .source import SourceLike

MAP_PACK_TARGET = 4 << 20


@dataclass
class Export:
    """What an export works with, and what its attempts have learned: which parents and whose word can't be trusted."""

    job: ExportJob
    repository: Repository
    source: SourceLike
    emit: Callable[[str], None]
    page_blocks: int
    changes: ChangeSource | None = None
    unreadable: list[str] = field(default_factory=list)
    distrust: str | None = None
    notes: list[str] = field(default_factory=list)


class Attempt:
    """One pass over the source; run() does it."""

    def __init__(self, export: Export) -> None:
        """Prepare an attempt; nothing is read or written yet."""
        self._export, self._job, self._repository = export, export.job, export.repository
        self._source, self._page_blocks = export.source, export.page_blocks
        self._data = PackSink(self._repository.store)
        self._maps = PackSink(self._repository.store, capacity=MAP_PACK_TARGET, uploads=1, buffers=2)
        self._progress = Progress(self._source.size, export.emit, stored=self._stored)
        self._choice, self._reading = ParentChoice(None, None), Reading(iter(()))
        self._damage, self._avoided = Damage(), Avoided()
        self._audited = self._resumed = 0
        self.lease = Lease(self._repository, self._job.disk.disk_key, self._job.backup_name, self._uploaded)

    def parent_name(self) -> str:
        """Return the name of the manifest that was compared with, or an empty text."""
        return self._choice.compared.name if self._choice.compared else ""

    def run(self) -> ExportResult:
        """Store the disk and its manifest; an attempt that fails leaves its lease for the next one."""
        try:
            with self.lease as lease:
                unread_lists = list(lease.condemned.unreadable)
                self._choice = self._choose()
                earlier = self._earlier()
                lease.name_parent(self.parent_name() or None)
                self._assure_parent()
                if earlier:
                    lease.name_reused(earlier)
                self._avoided = self._avoid()
                # Only now: with this lease as a root, nothing more of it is condemned.
                with UploadedBlocks(self._repository, earlier, lease.condemned.names(), self._damage) as uploaded:
                    manifest = self._read_disk(uploaded if earlier else None)
                stored = commit_disk_manifest(self._repository, lease, manifest, unread_lists)
        except BaseException:
            self._data.abandon()
            self._maps.abandon()
            raise
        self._progress.finish()
        result = result_of(stored.manifest, stored.name, stored.object_id, reused=not is_own(stored, manifest))
        counts = {"audited_bytes": self._audited, "resumed_bytes": self._resumed, "distrust": self._export.distrust}
        return result.model_copy(update=counts | {"note": "; ".join(filter(None, [*self._notes(), result.note]))})

    def _assure_parent(self) -> None:
        # Chosen before the lease named it: what is still there now is not removed while the lease lives.
        try:
            if self.parent_name():
                self._repository.store.head(place_of_disk(self._repository, self.parent_name()))
        except ObjectNotFoundError:
            raise ParentUnreadableError(f"{self.parent_name()} was removed after it had been chosen") from None

    def _earlier(self) -> list[str]:
        # Who asks for everything to be stored anew gets that, and so does who can't know what is damaged or condemned.
        anew = self._choice.full_reason in {REQUESTED, DAMAGE_UNREADABLE, CONDEMNED_UNREADABLE}
        return [] if anew else packs_in_leases(self._repository, self._job.disk.disk_key)

    def _avoid(self) -> Avoided:
        """Have what lies in damaged, condemned or mostly dead packs stored anew."""
        compared, parent = self._choice.compared, self._choice.parent
        if compared is None:
            return Avoided()
        rewrite = read_advice(self._repository, self._job.disk.disk_key) if parent else []
        budget = rewrite_budget(compared.manifest)
        try:
            return avoid(self._repository, compared.manifest, self._damage, self.lease.condemned, rewrite, budget)
        except DamagedError as error:
            raise ParentUnreadableError(str(error)) from None

    def _notes(self) -> list[str]:
        return [*self._export.notes, self._choice.note]

    def _choose(self) -> ParentChoice:
        if self._job.parent_policy == "None":
            return ParentChoice(None, REQUESTED)
        if self.lease.condemned.unreadable:
            return ParentChoice(None, CONDEMNED_UNREADABLE, "; ".join(self.lease.condemned.unreadable.values()))
        try:
            self._damage = read_damage(self._repository)
        except (DamagedError, UnsupportedFormatError) as error:
            # What must not be referred to is not known, so nothing is.
            return ParentChoice(None, DAMAGE_UNREADABLE, str(error))
        size, unreadable = self._job.block_size, self._export.unreadable
        choice = choose_parent(self._repository, self._job.disk, size, self._page_blocks, unreadable)
        wanted = self._job.dedupe == "Namespace" and self._job.content == "Disk" and not unreadable
        return self._with_similar(choice) if wanted and choice.full_reason == NO_PARENT else choice

    def _with_similar(self, choice: ParentChoice) -> ParentChoice:
        size, pages = self._job.block_size, self._page_blocks
        sample = sample_blocks(self._source, self._repository.keys, size, pages)
        disk = self._job.disk.disk_key
        similar = choose_similar(self._repository, disk, size, pages, sample, self._damage)
        if similar is None:
            return choice
        note = f"compared with a backup of another disk of the namespace (claim {similar.manifest.disk.claim_name!r})"
        return replace(choice, similar=similar, note=note)

    def _read_disk(self, uploaded: UploadedBlocks | None) -> DiskManifest:
        keys, random, job = self._repository.keys, self._repository.random, self._job
        compared = self._choice.compared
        parent = MapReader(self._repository, compared.manifest) if compared else None
        data = PackWriter(keys, Kind.DATA_PACK, self._data, random)
        maps = PackWriter(keys, Kind.MAP_PACK, self._maps, random)
        self._reading = self._decide()
        with MapBuilder(self._source.size, job.block_size, self._page_blocks, parent, maps, self._avoided) as builder:
            pipeline = ExportPipeline(
                self._source,
                self._reading,
                keys,
                job.block_size,
                self._page_blocks,
                builder,
                data,
                self._progress,
                self._auditor(),
                uploaded,
            )
            pipeline.run(job.workers or len(os.sched_getaffinity(0)) + READS_AHEAD)
        for writer, sink in ((data, self._data), (maps, self._maps)):
            writer.finish()
            sink.close()
        self._audited, self._resumed = pipeline.audited_bytes, pipeline.found_blocks * job.block_size
        return self._manifest(builder)

    def _decide(self) -> Reading:
        job, parent = self._job, self._choice.parent
        changes = None if job.parent_policy == "None" else self._export.changes
        wish = Wish(job.snapshot_handle, job.created, job.full_read_every)
        return decide_reading(self._source, changes, parent.manifest if parent else None, wish, self._export.distrust)

    def _auditor(self) -> Auditor:
        pages = -(-self._source.size // (self._job.block_size * self._page_blocks))
        chance = Random(self._repository.random(16)).random
        return Auditor(self._job.audit_share, pages, self._job.block_size, chance)

    def _manifest(self, builder: MapBuilder) -> DiskManifest:
        map_packs, pages = builder.result()
        choice = self._choice
        return DiskManifest(
            format_version=FORMAT_VERSION,
            repository_id=self._repository.id,
            key_id=self._repository.key_id,
            disk=self._job.disk,
            backup_name=self._job.backup_name,
            created=self._job.created,
            expiry=self._job.expiry,
            size_bytes=self._source.size,
            block_size=self._job.block_size,
            page_blocks=self._page_blocks,
            parent=choice.parent.name if choice.parent else None,
            full_reason=choice.full_reason or self._reading.full_reason,
            compared_with=choice.similar.name if choice.similar else None,
            snapshot_handle=self._job.snapshot_handle,
            since_full_read=self._reading.since_full_read,
            content=self._job.content,
            statistics=self._statistics(builder),
            map_packs=map_packs,
            pages=pages,
        )

    def _statistics(self, builder: MapBuilder) -> DiskStatistics:
        blocks = -(-self._source.size // self._job.block_size)
        used = builder.kept_blocks + builder.new_blocks
        return DiskStatistics(
            allocated_bytes=min(used * self._job.block_size, self._source.size),
            read_bytes=self._progress.read,
            stored_bytes=self._stored(),
            new_blocks=builder.new_blocks,
            unchanged_blocks=builder.kept_blocks,
            zero_blocks=max(0, blocks - used),
            new_packs=len(self._data.uploaded),
            rewritten_blocks=builder.rewritten_blocks,
        )

    def _stored(self) -> int:
        return self._data.stored_bytes + self._maps.stored_bytes

    def _uploaded(self, counts: tuple[int, int]) -> tuple[list[str], list[str]]:
        return self._data.uploaded_since(counts[0]), self._maps.uploaded_since(counts[1])


def result_of(manifest: DiskManifest, name: str, object_id: str, reused: bool) -> ExportResult:
    """Return what is reported of a manifest."""
    return ExportResult(
        manifest=name,
        object_id=object_id,
        parent=manifest.parent,
        mode="Full" if manifest.full_reason or not manifest.parent else "Incremental",
        full_reason=manifest.full_reason,
        logical_bytes=manifest.size_bytes,
        allocated_bytes=manifest.statistics.allocated_bytes,
        read_bytes=manifest.statistics.read_bytes,
        stored_bytes=manifest.statistics.stored_bytes,
        reused=reused,
        since_full_read=manifest.since_full_read,
    )
