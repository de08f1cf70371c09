"""The order of a hand-over's steps, in every state that its four objects can be in."""

from __future__ import annotations

import itertools
from typing import Any

from longboat.plan.hand_over import Seen, next_step


def content(policy: str, *, going: bool = False, name: str = "original", uid: str = "s") -> dict[str, Any]:
    meta = {"name": name} | ({"deletionTimestamp": "now"} if going else {})
    return {"metadata": meta, "spec": {"deletionPolicy": policy, "volumeSnapshotRef": {"uid": uid}}}


def snapshot(*, bound: str | None = None, ready: bool = True, uid: str = "s", going: bool = False) -> dict[str, Any]:
    meta = {"name": "snapshot", "uid": uid} | ({"deletionTimestamp": "now"} if going else {})
    return {"metadata": meta, "status": {"boundVolumeSnapshotContentName": bound, "readyToUse": ready}}


CONTENTS = [None, content("Delete"), content("Retain"), content("Delete", going=True), content("Retain", going=True)]
SNAPSHOTS = [None, snapshot(), snapshot(going=True)]
COPIES = [
    None,
    content("Retain", name="copy", uid="c"),
    content("Delete", name="copy", uid="c"),
    content("Delete", name="copy", uid="c", going=True),
    content("Retain", name="copy", uid="another"),
]
COPIED = [
    None,
    snapshot(uid="c"),
    snapshot(uid="c", bound="copy"),
    snapshot(uid="c", bound="copy", ready=False),
    snapshot(uid="c", bound="another"),
]
STATES = [Seen(*state) for state in itertools.product(SNAPSHOTS, CONTENTS, COPIED, COPIES)]


def policy(obj: dict[str, Any] | None) -> str | None:
    return obj["spec"]["deletionPolicy"] if obj else None


def test_the_copy_becomes_a_deleter_only_when_the_original_is_none() -> None:
    owning = [seen for seen in STATES if next_step(seen) == "OwnCopy"]
    assert owning
    for seen in owning:
        assert policy(seen.content) == "Retain" and seen.content == content("Retain")
        assert seen.copy_snapshot == snapshot(uid="c", bound="copy") and policy(seen.copy_content) == "Retain"


def test_the_originals_are_deleted_only_when_the_copy_owns_the_snapshot_and_they_retain_it() -> None:
    deleting = [seen for seen in STATES if next_step(seen) in ("DeleteSnapshot", "DeleteContent")]
    assert deleting
    for seen in deleting:
        assert policy(seen.copy_content) == "Delete" and policy(seen.content) != "Delete"


def test_it_is_done_when_the_copy_alone_is_left() -> None:
    for seen in STATES:
        if next_step(seen) == "Done":
            assert seen.snapshot is None and seen.content is None and seen.copy_snapshot is not None
            assert policy(seen.copy_content) == "Delete"


def test_a_snapshot_that_may_be_gone_is_never_copied_or_owned() -> None:
    for seen in STATES:
        doubtful = seen.content is None or "deletionTimestamp" in seen.content["metadata"]
        if doubtful and policy(seen.copy_content) != "Delete":
            assert next_step(seen) == "Lost", seen


def test_nothing_is_lost_while_the_original_is_there() -> None:
    for seen in STATES:
        there = seen.content is not None and "deletionTimestamp" not in seen.content["metadata"]
        going = seen.copy_content is not None and "deletionTimestamp" in seen.copy_content["metadata"]
        assert not (there and not going and next_step(seen) == "Lost"), seen
