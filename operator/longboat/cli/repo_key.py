"""`longboat repo key`: for whom the repositories' master keys are wrapped, and changing that.

Wrapping anew changes who can open a master key, not the key itself: it answers a Secret that was lost or whose time has
come, not a leak.
"""

from __future__ import annotations

from dataclasses import dataclass

from longboat.cli.repo_access import Key, open_at
from longboat.repository import Repository, RepositoryError, add_store_key
from longboat.repository.object_store import ObjectStore
from longboat.repository.wrapping import WrapKey, add_wrap, list_recipients, wrap_count


@dataclass(frozen=True)
class Rotation:
    """What is to be done: a key to be added, a public recovery key to be added, whether other store keys go."""

    new_key: Key | None
    recovery: bytes | None
    remove_old: bool


def describe_keys(store: ObjectStore, path: str, key: Key) -> dict[str, object]:
    """Return a repository's key and its recipients as JSON; `opened` tells whether the key at hand opens it."""
    try:
        repository = open_at(store, path, key)
    except RepositoryError as error:
        if error.retryable:
            raise
        return {"repository": path, "opened": False, "problem": str(error), "recipients": []}
    mine = wrap_of(key).recipient_id
    recipients = [
        {"kind": each.kind, "keyId": each.key_id, "isKeyAtHand": each.key_id == mine, "object": each.name}
        for each in list_recipients(repository.store, repository.key_id)
    ]
    return {"repository": path, "opened": True, "masterKeyId": repository.key_id, "recipients": recipients}


def rotate(store: ObjectStore, path: str, repository: Repository, rotation: Rotation) -> dict[str, object]:
    """Wrap a repository's master key anew; return what was done as JSON. Safe to repeat.

    Copies for other store keys are removed only once the new key was seen to open the repository.
    """
    added = []
    if rotation.new_key is not None:
        if not wrap_count(repository.store, repository.key_id, wrap_of(rotation.new_key)):
            added.append("store")
        add_store_key(repository, rotation.new_key.material)
        open_at(store, path, rotation.new_key)
    if rotation.recovery is not None:
        wrap = WrapKey.of_recovery_public(rotation.recovery)
        if not wrap_count(repository.store, repository.key_id, wrap):
            add_wrap(repository.store, repository.keys, wrap, repository.random)
            added.append("recovery")
    removed = _remove_others(repository, rotation.new_key) if rotation.remove_old and rotation.new_key else 0
    return {"repository": path, "added": added, "removed": removed}


def wrap_of(key: Key) -> WrapKey:
    """Return the recipient that a key is."""
    return WrapKey.of_store(key.material) if key.kind == "store" else WrapKey.of_recovery_secret(key.material)


def _remove_others(repository: Repository, kept: Key) -> int:
    others = [
        each
        for each in list_recipients(repository.store, repository.key_id)
        if each.kind == "store" and each.key_id != wrap_of(kept).recipient_id
    ]
    for each in others:
        repository.store.delete(each.name)
    return len(others)
