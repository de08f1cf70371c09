"""The export program: one disk into the repository, as `--job FILE [--secret FILE]` says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from longboat.repository import Repository, StoredDisk, find_disk_manifest, open_store, open_with_master_key
from longboat.repository.backups import write_disk_manifest
from longboat.repository.damage import Damage, read_damage
from longboat.repository.errors import DamagedError, UnsupportedFormatError
from longboat.repository.layout import DEFAULT_PAGE_BLOCKS, FORMAT_VERSION, MAX_BLOCK_SIZE, MIN_BLOCK_SIZE, Kind
from longboat.repository.leases import Lease
from longboat.repository.manifests import DiskManifest, DiskStatistics
from longboat.repository.map_builder import MapBuilder, ParentUnreadableError
from longboat.repository.map_reader import MapReader
from longboat.repository.object_store import ObjectStore
from longboat.repository.packs import PackSink, PackWriter
from longboat.repository.parents import DAMAGE_UNREADABLE, MAX_CANDIDATES, REQUESTED, ParentChoice, choose_parent

from .errors import JobError
from .export_pipeline import READS_AHEAD, ExportPipeline
from .jobs import ExportJob
from .program import run_program
from .progress import Progress, print_line
from .results import ExportResult
from .source import Source, open_source

MAP_PACK_TARGET = 4 << 20


def main(argv: list[str]) -> int:
    """Run the export that the arguments name; return the exit code."""
    return run_program("export", ExportJob, run_export, argv)


def run_export(
    job: ExportJob,
    store: ObjectStore | None = None,
    random: Callable[[int], bytes] = os.urandom,
    emit: Callable[[str], None] = print_line,
    page_blocks: int = DEFAULT_PAGE_BLOCKS,
) -> ExportResult:
    """Store one disk and return what it took; a finished earlier attempt of the same backup is reported instead.

    RepositoryError and MoverError say what is wrong. An interrupted run leaves only packs that nothing refers to.
    """
    if job.block_size & (job.block_size - 1) or not MIN_BLOCK_SIZE <= job.block_size <= MAX_BLOCK_SIZE:
        raise JobError(f"blockSize: expected a power of two from {MIN_BLOCK_SIZE} to {MAX_BLOCK_SIZE}")
    repository = open_with_master_key(
        store or open_store(job.store), job.repository_path, job.master_key_bytes(), random
    )
    finished = find_disk_manifest(repository, job.disk.disk_key, job.backup_name, job.created)
    if finished is not None:
        return _result(finished, "", reused=True)
    with open_source(Path(job.source_path)) as source:
        return _export(job, repository, source, emit, page_blocks)


def _export(
    job: ExportJob, repository: Repository, source: Source, emit: Callable[[str], None], page_blocks: int
) -> ExportResult:
    unreadable: list[str] = []
    while True:
        attempt = _Attempt(job, repository, source, emit, page_blocks, unreadable)
        try:
            return attempt.run()
        except ParentUnreadableError:
            # Found out in the middle: the whole disk is compared with an older parent, or with none.
            unreadable.append(attempt.parent_name())
            if len(unreadable) > MAX_CANDIDATES:
                raise


class _Attempt:
    """One pass over the source, against one parent or none."""

    def __init__(
        self,
        job: ExportJob,
        repository: Repository,
        source: Source,
        emit: Callable[[str], None],
        page_blocks: int,
        unreadable: list[str],
    ) -> None:
        self._job, self._repository, self._source, self._page_blocks = job, repository, source, page_blocks
        self._unreadable = unreadable
        self._data = PackSink(repository.store)
        self._maps = PackSink(repository.store, capacity=MAP_PACK_TARGET, uploads=1, buffers=2)
        self._progress = Progress(source.size, emit, stored=self._stored)
        self._choice = ParentChoice(None, None)
        self._damage = Damage()

    def parent_name(self) -> str:
        return self._choice.parent.name if self._choice.parent else ""

    def run(self) -> ExportResult:
        try:
            with Lease(self._repository, self._job.disk.disk_key, self._job.backup_name, self._uploaded) as lease:
                self._choice = self._choose()
                lease.name_parent(self.parent_name() or None)
                manifest = self._read_disk()
                lease.assure()
                stored = write_disk_manifest(self._repository, manifest)
        except BaseException:
            self._data.abandon()
            self._maps.abandon()
            raise
        self._progress.finish()
        return _result(stored, self._choice.note, reused=stored.manifest is not manifest)

    def _choose(self) -> ParentChoice:
        if self._job.parent_policy == "None":
            return ParentChoice(None, REQUESTED)
        try:
            self._damage = read_damage(self._repository)
        except (DamagedError, UnsupportedFormatError) as error:
            # What must not be referred to is not known, so nothing is.
            return ParentChoice(None, DAMAGE_UNREADABLE, str(error))
        block_size = self._job.block_size
        return choose_parent(self._repository, self._job.disk, block_size, self._page_blocks, self._unreadable)

    def _read_disk(self) -> DiskManifest:
        keys, random, job = self._repository.keys, self._repository.random, self._job
        parent = MapReader(self._repository, self._choice.parent.manifest) if self._choice.parent else None
        data = PackWriter(keys, Kind.DATA_PACK, self._data, random)
        maps = PackWriter(keys, Kind.MAP_PACK, self._maps, random)
        with MapBuilder(self._source.size, job.block_size, self._page_blocks, parent, maps, self._damage) as builder:
            pipeline = ExportPipeline(
                self._source, keys, job.block_size, self._page_blocks, builder, data, self._progress
            )
            pipeline.run(job.workers or len(os.sched_getaffinity(0)) + READS_AHEAD)
        for writer, sink in ((data, self._data), (maps, self._maps)):
            writer.finish()
            sink.close()
        return self._manifest(builder)

    def _manifest(self, builder: MapBuilder) -> DiskManifest:
        map_packs, pages = builder.result()
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
            parent=self.parent_name() or None,
            full_reason=self._choice.full_reason,
            snapshot_handle=self._job.snapshot_handle,
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
            zero_blocks=blocks - used,
            new_packs=len(self._data.uploaded),
        )

    def _stored(self) -> int:
        return self._data.stored_bytes + self._maps.stored_bytes

    def _uploaded(self, counts: tuple[int, int]) -> tuple[list[str], list[str]]:
        return self._data.uploaded_since(counts[0]), self._maps.uploaded_since(counts[1])


def _result(stored: StoredDisk, note: str, reused: bool) -> ExportResult:
    manifest = stored.manifest
    return ExportResult(
        manifest=stored.name,
        object_id=stored.object_id,
        parent=manifest.parent,
        mode="Incremental" if manifest.parent else "Full",
        full_reason=manifest.full_reason,
        note=note,
        logical_bytes=manifest.size_bytes,
        allocated_bytes=manifest.statistics.allocated_bytes,
        read_bytes=manifest.statistics.read_bytes,
        stored_bytes=manifest.statistics.stored_bytes,
        reused=reused,
    )
