"""The restore program: one disk out of the repository, as `--job FILE [--secret FILE]` says."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random

from longboat.repository import Repository, StoredDisk, open_store, open_with_master_key, read_disk_manifest
from longboat.repository.damage import Damage as FrameSet
from longboat.repository.errors import DamagedError
from longboat.repository.following import FollowingMapReader
from longboat.repository.object_store import ObjectStore

from .archive_restore import restore_archive
from .errors import JobError
from .jobs import RestoreJob
from .program import run_program
from .progress import Progress, print_line
from .restore_damage import DamageHandler, Salvage, naming_hurt, refuse, unrecorded
from .restore_pipeline import Moved, RestorePipeline
from .restore_sample import read_back
from .results import RestoreResult
from .target import Target, open_target

_LISTED = 8  # Ranges and backups that a result names; the log has a line for each damage.


@dataclass(frozen=True)
class Restored:
    """What a restore took: bytes moved, bytes that were read back and compared, bytes taken from other backups.

    `damaged` are the frames in whose place those were taken, or zeros.
    """

    moved: Moved
    checked_bytes: int
    healed_bytes: int
    damaged: FrameSet


def main(argv: list[str]) -> int:
    """Run the restore that the arguments name; return the exit code."""
    return run_program("restore", RestoreJob, run_restore, argv)


def run_restore(
    job: RestoreJob, store: ObjectStore | None = None, emit: Callable[[str], None] = print_line
) -> RestoreResult:
    """Write one disk, sync it and read a sample back; a retry goes on where an interrupted one has ended.

    RepositoryError and MoverError say what is wrong; a target that can't take the disk is found before any write.
    """
    repository = open_with_master_key(store or open_store(job.store), job.repository_path, job.master_key_bytes())
    # It alone keeps the manifest, so that there are not two of them in memory when another one takes its place.
    reader = FollowingMapReader(repository, _wanted_manifest(repository, job))
    size, disk_key, content = reader.manifest.size_bytes, reader.manifest.disk.disk_key, reader.manifest.content
    if job.content != content:
        raise JobError(f"content: the job expects {job.content}, the backup holds {content}")
    if content == "Archive":
        return restore_archive(job, repository, reader.stored, Salvage(emit))
    data_bytes = reader.manifest.statistics.allocated_bytes
    target = open_target(Path(job.target_path), size, data_bytes, job.target_size, job.replace_existing, job.file_owner)
    progress = Progress(size, emit)
    salvage = Salvage(emit)
    with closing(target), naming_hurt(repository, disk_key):
        restored = write_disk(repository, reader, target, progress, salvage if job.salvage else refuse)
    progress.finish()
    lost, hurt = salvage.merged(), salvage.hurt(repository, disk_key)
    return RestoreResult(
        manifest=job.manifest,
        logical_bytes=size,
        written_bytes=restored.moved.written,
        read_bytes=restored.moved.read,
        kept_bytes=restored.moved.kept,
        checked_bytes=restored.checked_bytes,
        healed_bytes=restored.healed_bytes,
        lost_bytes=salvage.lost_bytes,
        lost_ranges=tuple(lost[:_LISTED]),
        hurt=tuple(hurt[:_LISTED]),
        unrecorded=unrecorded(repository, restored.damaged | salvage.frames),
        note=_note(salvage.lost_bytes, restored.healed_bytes),
    )


def _wanted_manifest(repository: Repository, job: RestoreJob) -> StoredDisk:
    stored = read_disk_manifest(repository, job.manifest, job.object_id)
    if job.object_id not in (None, stored.object_id):
        raise DamagedError(f"{job.manifest}: it is object {stored.object_id}, the backup has {job.object_id}")
    return stored


def write_disk(
    repository: Repository,
    reader: FollowingMapReader,
    target: Target,
    progress: Progress,
    on_damage: DamageHandler = refuse,
    random: Random | None = None,
) -> Restored:
    """Write a disk into an open target, sync it, read a random sample back, and only then finish the target."""
    pipeline = RestorePipeline(repository, reader, target, progress, random, on_damage)
    pipeline.run()
    target.sync()
    checked = read_back(target, pipeline.sample(), repository.keys.block_id, reader.manifest.block_size)
    target.finish()
    return Restored(pipeline.moved, checked, pipeline.healed_bytes, pipeline.damaged_frames)


def _note(lost: int, healed: int) -> str:
    parts = [f"{lost} bytes could not be read and are zeros on the target"] if lost else []
    parts += [f"{healed} bytes were taken from other backups"] if healed else []
    return "; ".join(parts)
