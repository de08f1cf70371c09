"""Expected failures of the movers; their reasons are constants that the operator turns into conditions."""

from __future__ import annotations

from typing import ClassVar


class MoverError(Exception):
    """Base of the movers' own failures; the repository has a family of its own with the same two attributes."""

    reason: ClassVar[str] = "MoverError"
    retryable: ClassVar[bool] = False


class JobError(MoverError):
    """The job file is missing, is not JSON or breaks the job's model."""

    reason = "InvalidJob"


class SourceMissingError(MoverError):
    """There is nothing at the source path."""

    reason = "SourceMissing"


class NoDiskImageError(MoverError):
    """The source is a filesystem volume without a disk.img."""

    reason = "NoDiskImage"


class DiskTooLargeError(MoverError):
    """The disk has more bytes than the format can describe."""

    reason = "DiskTooLarge"


class ArchiveTooLargeError(MoverError):
    """The volume's files are more, or larger, than what is backed up without a disk.img."""

    reason = "ArchiveTooLarge"


class ArchiveDamagedError(MoverError):
    """The archive in a backup can not be unpacked, or holds what must not be; nothing was written."""

    reason = "ArchiveDamaged"


class SourceForbiddenError(MoverError):
    """Files of the source belong to a user that the mover is not."""

    reason = "SourceForbidden"


class SourceReadError(MoverError):
    """Reading the source failed; another node or another attempt may succeed."""

    reason = "SourceReadFailed"
    retryable = True


class TargetMissingError(MoverError):
    """There is nothing at the target path that could be written to."""

    reason = "TargetMissing"


class TargetTooSmallError(MoverError):
    """The target has fewer bytes than the backup; nothing was written."""

    reason = "TargetTooSmall"


class TargetExistsError(MoverError):
    """The target holds a disk.img already and the job does not allow to replace it; nothing was written."""

    reason = "TargetExists"


class TargetFullError(MoverError):
    """The target's file system has no room for the data."""

    reason = "TargetFull"


class TargetWriteError(MoverError):
    """Writing the target failed; another attempt may succeed."""

    reason = "TargetWriteFailed"
    retryable = True


class TargetBusyError(MoverError):
    """Another restore is writing the same target; nothing was written."""

    reason = "TargetBusy"
    retryable = True


class TargetReadError(MoverError):
    """The target can not be read back; another attempt may succeed."""

    reason = "TargetReadFailed"
    retryable = True


class TargetMismatchError(MoverError):
    """The target does not hold what was written to it; another attempt compares and rewrites."""

    reason = "TargetMismatch"
    retryable = True


class InterruptedMoveError(MoverError):
    """The mover was told to stop (its pod is being removed)."""

    reason = "Interrupted"
    retryable = True
