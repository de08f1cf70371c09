"""The programs that Jobs run: export a disk into the repository, restore one from it, verify it.

They know nothing of Kubernetes. `jobs` holds what they are told (JSON), `results` what they report, `errors` their
expected failures. `source` reads a block device or a disk.img, `export_pipeline` hashes, compresses and stores what
has changed, `export_disk` is the program. `target` writes a device or a sparse file; of a restore, `restore_plan` says
what to fetch, `restore_pipeline` fetches, checks and writes, `restore_sample` reads back, `restore_damage` says what
becomes of what can't be read, `restore_disk` is the program. `verify` verifies a repository.
`progress` prints how far it is.
"""

from .jobs import ExportJob, FileOwner, PruneJob, RestoreJob, VerifyJob
from .results import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_RETRY,
    EXIT_USAGE,
    ExportResult,
    Failure,
    PruneQuestion,
    PruneRepack,
    PruneResult,
    RestoreResult,
    VerifyResult,
)

__all__ = [
    "EXIT_FAILED",
    "EXIT_OK",
    "EXIT_RETRY",
    "EXIT_USAGE",
    "ExportJob",
    "ExportResult",
    "Failure",
    "FileOwner",
    "PruneJob",
    "PruneQuestion",
    "PruneRepack",
    "PruneResult",
    "RestoreJob",
    "RestoreResult",
    "VerifyJob",
    "VerifyResult",
]
