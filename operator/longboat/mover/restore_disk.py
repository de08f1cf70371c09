"""The restore program: one disk out of the repository, as `--job FILE [--secret FILE]` says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from longboat.repository import open_store, open_with_master_key, read_disk_manifest
from longboat.repository.map_reader import MapReader
from longboat.repository.object_store import ObjectStore

from .archive_restore import restore_archive
from .errors import JobError
from .jobs import RestoreJob
from .program import run_program
from .progress import Progress, print_line
from .restore_pipeline import RestorePipeline
from .results import RestoreResult
from .target import open_target


def main(argv: list[str]) -> int:
    """Run the restore that the arguments name; return the exit code."""
    return run_program("restore", RestoreJob, run_restore, argv)


def run_restore(
    job: RestoreJob, store: ObjectStore | None = None, emit: Callable[[str], None] = print_line
) -> RestoreResult:
    """Write one disk from its start to its end and sync it; a retry does it all again.

    RepositoryError and MoverError say what is wrong; a target that can't take the disk is found before any write.
    """
    repository = open_with_master_key(store or open_store(job.store), job.repository_path, job.master_key_bytes())
    manifest = read_disk_manifest(repository, job.manifest).manifest
    if job.content != manifest.content:
        raise JobError(f"content: the job expects {job.content}, the backup holds {manifest.content}")
    if manifest.content == "Archive":
        return restore_archive(job, repository, manifest)
    data_bytes = manifest.statistics.allocated_bytes
    target = open_target(
        Path(job.target_path), manifest.size_bytes, data_bytes, job.target_size, job.replace_existing, job.file_owner
    )
    progress = Progress(manifest.size_bytes, emit)
    try:
        pipeline = RestorePipeline(repository, MapReader(repository, manifest), target, progress)
        pipeline.run()
        target.finish()
    finally:
        target.close()
    progress.finish()
    return RestoreResult(
        manifest=job.manifest,
        logical_bytes=manifest.size_bytes,
        written_bytes=pipeline.written_bytes,
        read_bytes=pipeline.read_bytes,
    )
