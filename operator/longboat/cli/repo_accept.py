"""`longboat repo prune --accept-late`: believing manifests that came too late after their repository was closed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TextIO

from longboat.cli.repo_access import UsageError
from longboat.cli.repo_generations import Standing
from longboat.repository import Repository, late_objects
from longboat.repository.accepted import MAX_ACCEPTED, LateManifest, code_of, look_at, mark_of, write_accepted
from longboat.repository.errors import LateManifestError


@dataclass(frozen=True)
class Accepting:
    """How a repository stands once these manifests are accepted; `code` is what has to be said for that."""

    standing: Standing
    late: Sequence[LateManifest] = ()
    code: str = ""


def accept_late(arguments: argparse.Namespace, repository: Repository, standing: Standing) -> Accepting:
    """Accept what came too late into a closed repository; without --yes only say what that would be.

    With --yes it has to be exactly what was shown: who has the leaked key may have written more since. UsageError if
    it is too much, or no code says what is meant; RepositoryError, also if it is another code, or one of the manifests
    can't be read.
    """
    if not arguments.accept_late or standing.closed is None or standing.newest is None:
        return Accepting(standing)
    late = [look_at(repository, each) for each in late_objects(repository, standing.closed, standing.accepted)]
    found = [each.info for each in late]
    accepted = {*standing.accepted, *map(mark_of, found)}
    if len(accepted) > MAX_ACCEPTED:
        raise UsageError(
            f"--accept-late: {len(accepted)} manifests would be accepted, at most {MAX_ACCEPTED} can be; restore what"
            " is needed with `longboat repo restore --accept-late`, and leave the rest to a store of its own"
        )
    code = code_of(repository.id, found)
    if late and arguments.yes and not arguments.dry_run:
        _require_meant(arguments.accept_late, code, repository, len(late))
        write_accepted(repository.store, repository.id, found, standing.newest)
    return Accepting(replace(standing, accepted=frozenset(accepted)), late, code if late else "")


def _require_meant(told: str | bool, code: str, repository: Repository, number: int) -> None:
    if told is True:
        raise UsageError(
            "--accept-late: with --yes give the code of what is to be accepted: run it without --yes, see whether you"
            " know all the manifests that it shows, and give the code that it ends with: --accept-late CODE --yes"
        )
    if told != code:
        raise LateManifestError(
            f"{repository.store.describe()}: --accept-late: {told} is not the code of the {number} manifests that came"
            " too late by now; nothing was accepted or deleted. If it is typed right they are others than those that"
            " were shown: run it without --yes again, and look for what you don't know before you give the new code"
        )


def accepted_json(late: Sequence[LateManifest]) -> list[dict[str, Any]]:
    """Return what was accepted as JSON."""
    return [{"manifest": each.info.name, "backup": each.backup, "created": each.created} for each in late]


def print_accepted(late: Sequence[LateManifest], code: str, dry_run: bool, out: TextIO) -> None:
    """Write for people what was accepted, or would be, and what to say so that it is."""
    for each in late:
        what = "would be accepted" if dry_run else "accepted"
        print(f"  {what}: {each.info.name}, of backup {each.backup} from {each.created}", file=out)
    if late and dry_run:
        print(f"  accepts exactly these {len(late)}: --accept-late {code} --yes", file=out)
