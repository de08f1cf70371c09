"""`longboat repo key rotate --new-master`: after a leak, a repository with a fresh master key for a namespace."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from longboat.cli.repo_access import Key, UsageError
from longboat.cli.repo_generations import place_of
from longboat.repository import (
    Generations,
    ObjectStore,
    Repository,
    find_generations,
    open_newest,
    parse_generation,
    rotate_master_key,
)
from longboat.repository.generations import require_not_closed
from longboat.repository.wrapping import list_recipients


@dataclass(frozen=True)
class NewMaster:
    """One namespace's rotation: its repositories, and which of them is replaced."""

    found: Generations
    current: int
    replaces_lost: bool = False
    """Whether it may replace one that was closed already, for another one that is gone; only if it was named."""


def plan(
    store: ObjectStore, paths: Iterable[str], key: Key, recovery: bytes | None, start: int | None
) -> list[NewMaster]:
    """Return what is to be done for the namespaces of these repositories; all of them open, and nothing is changed.

    `start` is which repository of the one namespace is replaced; without it the newest one, or the one before that
    where a rotation was interrupted, which is completed. Raises UsageError and RepositoryError.
    """
    if key.kind != "store":
        raise UsageError("--new-master: needs the store's key (longboat-key-1-…): the new master key is wrapped for it")
    places = sorted({(each.cluster_id, each.namespace_uid) for each in map(place_of, _named(paths))})
    if start is not None and len(places) != 1:
        raise UsageError(f"--from: {len(places)} namespaces are meant; name one with --repository")
    return [_plan(find_generations(store, *place), key, recovery, start) for place in places]


def rotate(each: NewMaster, key: Key, recovery: bytes | None) -> dict[str, object]:
    """Make the new repository and close the old ones; return what was done as JSON. Safe to repeat."""
    made = rotate_master_key(each.found, key.material, each.current, recovery, replaces_lost=each.replaces_lost)
    now = find_generations(each.found.store, each.found.cluster_id, each.found.namespace_uid)
    return {
        "repository": now.path(each.current + 1),
        "masterKeyId": made.key_id,
        "made": each.found.newest == each.current,
        "closed": {now.path(n): _since(now, n, made) for n in now.numbers if n <= each.current},
    }


def _named(paths: Iterable[str]) -> Iterable[str]:
    for path in paths:
        if parse_generation(path.split("/")[1]) is None:
            raise UsageError(f"--repository: {path}: expected <cluster id>/<namespace UID>; name the one that is meant")
        yield path


def _plan(found: Generations, key: Key, recovery: bytes | None, start: int | None) -> NewMaster:
    newest = open_newest(found, key.material)
    number = found.newest or 1
    goes_on = any(closing and not closing.sealed for closing in (found.closing(n, newest) for n in found.numbers))
    current = start or (number - 1 if goes_on else number)
    if current not in (number, number - 1):
        raise UsageError(f"--from {current}: the newest repository of {found.path(1)} is number {number}")
    if current == number:
        _require_recipient(newest, found.path(number), recovery)
        if start is None:
            require_not_closed(found, number)
    return NewMaster(found, current, replaces_lost=start is not None)


def _require_recipient(newest: Repository, path: str, recovery: bytes | None) -> None:
    kinds = {each.kind for each in list_recipients(newest.store, newest.key_id)}
    if "recovery" in kinds and recovery is None:
        raise UsageError(
            f"--recovery-recipient: {path} can be opened with a recovery secret; name the public half"
            " (longboat-recovery-public-1-…, the store's spec.encryption.recoveryRecipient), or the new one could not"
        )


def _since(now: Generations, n: int, made: Repository) -> str | None:
    closing = now.closing(n, made)
    return f"{closing.closed:%Y-%m-%dT%H:%M:%SZ}" if closing else None
