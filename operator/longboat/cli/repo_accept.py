"""`longboat repo prune --accept-late`: believing manifests that came too late after their repository was closed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TextIO

from longboat.cli.repo_access import UsageError
from longboat.cli.repo_generations import Standing
from longboat.repository import Repository, late_objects
from longboat.repository.accepted import MAX_ACCEPTED, LateManifest, look_at, mark_of, write_accepted


@dataclass(frozen=True)
class Accepting:
    """How a repository stands once these manifests are accepted."""

    standing: Standing
    late: Sequence[LateManifest] = ()


def accept_late(arguments: argparse.Namespace, repository: Repository, standing: Standing) -> Accepting:
    """Accept what came too late into a closed repository; without --yes only say what that would be.

    UsageError if it is too much; RepositoryError, also if one of the manifests can't be read.
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
    if late and arguments.yes and not arguments.dry_run:
        write_accepted(repository.store, repository.id, found, standing.newest)
    return Accepting(replace(standing, accepted=frozenset(accepted)), late)


def accepted_json(late: Sequence[LateManifest]) -> list[dict[str, Any]]:
    """Return what was accepted as JSON."""
    return [{"manifest": each.info.name, "backup": each.backup, "created": each.created} for each in late]


def print_accepted(late: Sequence[LateManifest], dry_run: bool, out: TextIO) -> None:
    """Write for people what was accepted, or would be."""
    for each in late:
        what = "would be accepted" if dry_run else "accepted"
        print(f"  {what}: {each.info.name}, of backup {each.backup} from {each.created}", file=out)
