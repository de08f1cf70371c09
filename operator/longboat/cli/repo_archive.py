"""`longboat repo restore` of an archive, such as a machine's TPM and EFI state: a tar file of what is whole."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from longboat.mover.archive import without_lost
from longboat.mover.archive_restore import Archive
from longboat.mover.restore_damage import Salvage
from longboat.mover.target import open_image
from longboat.repository import Repository, StoredDisk

_NAMED = 20  # Files that are told to people; JSON has more.


def salvage_archive(path: Path, repository: Repository, stored: StoredDisk, salvage: Salvage) -> dict[str, object]:
    """Write a tar file of those files and folders of an archive that are whole; return what was done as JSON.

    Zeros in the place of what is lost would be taken for a file's content, or for the archive's end.
    """
    archive, left_out = Archive(repository, stored, salvage), list[str]()
    data = archive.read()
    if lost := salvage.merged():
        data, left_out = without_lost(data, lost)
    with closing(open_image(path, len(data), len(data), replace=True)) as target:
        target.write(0, memoryview(data))
        target.sync()
        target.finish()
    told: dict[str, object] = {"leftOut": left_out} if left_out else {}
    counts = {"sizeBytes": len(data), "writtenBytes": len(data), "keptBytes": 0}
    # All of it was checked against the ids of its blocks before anything was written.
    read = {"readBytes": stored.manifest.statistics.allocated_bytes, "checkedBytes": 0}
    healed = {"healedBytes": archive.healed_bytes}
    return {"target": str(path), "manifest": stored.name, **counts, **read, **healed, **told}


def left_out_text(left_out: list[str]) -> str:
    """Return in words what is not in the file."""
    more = f" and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
    return f"left out, as their data is lost: {', '.join(left_out[:_NAMED])}{more}"
