"""Which of a namespace's repositories is meant: each new master key makes another one beside the old ones.

The newest one is written to; a backup is looked for in the one that it says it is in.
"""

from __future__ import annotations

import re

from longboat.repository.generations import FIRST, generation_name, parse_generation

__all__ = ["FIRST", "folder_of", "generation_at", "generation_name", "namespace_of", "repository_in"]

_UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def repository_in(folder: str) -> tuple[str, int] | None:
    """Return UID and generation of a folder that may be a namespace's repository, None of any other one."""
    found = parse_generation(folder)
    return found if found is not None and _UID.fullmatch(found[0]) else None


def namespace_of(folder: str) -> str:
    """Return the UID of the namespace whose repository may be in a folder, empty of any other one."""
    found = repository_in(folder)
    return found[0] if found else ""


def folder_of(uid: str, generation: int) -> str:
    """Return the folder of a repository in that of the cluster, also of a namespace whose UID is not known."""
    return uid if generation == FIRST else generation_name(uid, generation)


def generation_at(path: str, uid: str) -> int:
    """Return the generation of a namespace's repository to which a noted path leads.

    A path that leads elsewhere counts as the first one: whoever compares it with the one that was opened finds out.
    """
    found = parse_generation(path.rpartition("/")[2])
    return found[1] if found and found[0] == uid else FIRST
