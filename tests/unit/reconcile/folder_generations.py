"""The generations of a namespace's repositories in a folder, for the fakes that open real repositories there."""

from __future__ import annotations

from datetime import datetime

from longboat.reconcile.store_access import problem_of
from longboat.repository import Repository, RepositoryError
from longboat.repository.closing import NOTHING, Accepted, Closing
from longboat.repository.generations import Generations, find_generations, open_newest, rotate_master_key
from longboat.repository.object_store import ObjectStore

CLUSTER = "cluster"


def found_in(store: ObjectStore, uid: str) -> Generations:
    """Return the repositories of a namespace; raises StoreProblemError."""
    try:
        return find_generations(store, CLUSTER, uid)
    except RepositoryError as error:
        raise problem_of(error) from error


def closed_since(store: ObjectStore, uid: str, generation: int, key: bytes) -> datetime | None:
    """Return since when a repository is closed, None if it is the newest one; raises StoreProblemError."""
    closing = _closing(store, uid, generation, key)
    return None if closing is None else closing.closed


def accepted_in(store: ObjectStore, uid: str, generation: int, key: bytes) -> Accepted:
    """Return what is accepted in a closed repository though it came too late; raises StoreProblemError."""
    closing = _closing(store, uid, generation, key)
    return NOTHING if closing is None else closing.accepted


def _closing(store: ObjectStore, uid: str, generation: int, key: bytes) -> Closing | None:
    found = found_in(store, uid)
    if generation >= (found.newest or 1):
        return None
    try:
        return found.closing(generation, open_newest(found, key))
    except RepositoryError as error:
        raise problem_of(error) from error


def replace_key(store: ObjectStore, uid: str, key: bytes, generation: int) -> None:
    """Replace the key of a generation, or go on with that; raises StoreProblemError."""
    try:
        rotate_master_key(found_in(store, uid), key, generation)
    except RepositoryError as error:
        raise problem_of(error) from error


def rotate(store: ObjectStore, uid: str, key: bytes) -> Repository:
    """Give a namespace a new master key, as an administrator does by hand."""
    found = find_generations(store, CLUSTER, uid)
    return rotate_master_key(found, key, found.newest or 1)
