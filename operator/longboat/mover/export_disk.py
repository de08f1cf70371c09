"""The export program: one disk into the repository, as `--job FILE [--secret FILE]` says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from longboat.repository import Repository, find_disk_manifest, open_store, open_with_master_key
from longboat.repository.commit import require_sound
from longboat.repository.hurt import require_undamaged
from longboat.repository.layout import DEFAULT_PAGE_BLOCKS, MAX_BLOCK_SIZE, MAX_DOCUMENT_VALUES, MIN_BLOCK_SIZE
from longboat.repository.leases import Lease
from longboat.repository.map_builder import ParentUnreadableError
from longboat.repository.object_store import ObjectStore
from longboat.repository.parents import MAX_CANDIDATES

from .archive import ArchiveSource
from .changes import ChangeSource, ChangeTrackingError
from .errors import DiskTooLargeError, JobError
from .export_attempt import Attempt, Export, result_of
from .jobs import ExportJob
from .program import run_program
from .progress import print_line
from .reading import ChangeTrackingMismatchError
from .results import ExportResult
from .source import SourceLike, open_source

MAX_PAGES = MAX_DOCUMENT_VALUES * 10 // 41
"""Pages of a disk that a manifest has place for: four values for each, and the names of the packs that they lie in."""


def main(argv: list[str]) -> int:
    """Run the export that the arguments name; return the exit code."""
    return run_program("export", ExportJob, run_export, argv)


def run_export(
    job: ExportJob,
    store: ObjectStore | None = None,
    random: Callable[[int], bytes] = os.urandom,
    emit: Callable[[str], None] = print_line,
    page_blocks: int = DEFAULT_PAGE_BLOCKS,
    changes: ChangeSource | None = None,
) -> ExportResult:
    """Store one disk and return what it took; a finished earlier attempt of the same backup is reported instead.

    RepositoryError and MoverError say what is wrong; after ChangeTrackingMismatchError the next run has to be told
    (`distrust`). An interrupted run leaves packs that nothing refers to, and a lease that names them: the next one uses
    them.
    """
    if job.block_size & (job.block_size - 1) or not MIN_BLOCK_SIZE <= job.block_size <= MAX_BLOCK_SIZE:
        raise JobError(f"blockSize: expected a power of two from {MIN_BLOCK_SIZE} to {MAX_BLOCK_SIZE}")
    repository = open_with_master_key(
        store or open_store(job.store), job.repository_path, job.master_key_bytes(), random
    )
    finished = find_disk_manifest(repository, job.disk.disk_key, job.backup_name, job.created)
    if finished is not None:
        require_sound(repository, finished)
        require_undamaged(repository, finished)
        return result_of(finished.manifest, finished.name, finished.object_id, reused=True)
    if job.content == "Archive":
        with ArchiveSource(Path(job.source_path), job.leave_out) as files:
            export = _prepared(job, repository, files, emit, page_blocks, None)
            export.notes += [f"left out, being no plain file: {name}" for name in files.skipped]
            return run_attempts(export)
    with open_source(Path(job.source_path)) as source:
        return run_attempts(_prepared(job, repository, source, emit, page_blocks, changes))


def _prepared(
    job: ExportJob,
    repository: Repository,
    source: SourceLike,
    emit: Callable[[str], None],
    page_blocks: int,
    changes: ChangeSource | None,
) -> Export:
    if job.changes is not None and changes is None and job.distrust is None:
        # Loaded only where it is used: gRPC takes 20 MiB of memory.
        from .snapshot_metadata import open_snapshot_metadata

        changes = open_snapshot_metadata(job.changes, source.size)
    return Export(job, repository, source, emit, page_blocks, changes, distrust=job.distrust)


def run_attempts(export: Export) -> ExportResult:
    """Try until an attempt ends well; each failure that another attempt can avoid is remembered for the next one.

    DiskTooLargeError if a manifest has no place for all pages of the disk's map; nothing was read then.
    """
    _require_room(export)
    ended: list[Lease] = []
    while True:
        attempt = Attempt(export)
        try:
            result = attempt.run()
        except ParentUnreadableError:
            # Found out in the middle: the whole disk is compared with an older parent, or with none.
            export.unreadable.append(attempt.parent_name())
            if len(export.unreadable) > MAX_CANDIDATES:
                raise
            ended.append(attempt.lease)
        except ChangeTrackingMismatchError:
            # The operator notes it and gives it to the next run: what is only known here is lost with the pod.
            raise
        except ChangeTrackingError as error:
            # Nothing that was believed so far can be kept; a source that is read as a whole raises this no more.
            if export.distrust is not None:
                raise
            export.distrust = error.reason
            export.notes.append(str(error))
            ended.append(attempt.lease)
        else:
            for lease in ended:
                lease.remove()
            return result


def _require_room(export: Export) -> None:
    size, block = export.source.size, export.job.block_size
    most = MAX_PAGES * export.page_blocks * block
    if size > most:
        raise DiskTooLargeError(
            f"the disk has {size} bytes, more than the {most} that can be backed up in blocks of {block}: ask for"
            " larger ones with the annotation longboat.dev/block-size of its PersistentVolumeClaim"
        )
