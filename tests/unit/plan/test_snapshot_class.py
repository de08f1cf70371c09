"""Which VolumeSnapshotClass is chosen."""

from __future__ import annotations

from typing import Any

import pytest

from longboat.plan.problem import Problem
from longboat.plan.snapshot_class import DEFAULT_CLASS, choose_snapshot_class, driver_of


def snapshot_class(name: str, driver: str = "csi", *, default: bool = False) -> dict[str, Any]:
    annotations = {DEFAULT_CLASS: "true"} if default else {}
    return {"metadata": {"name": name, "annotations": annotations}, "driver": driver}


PROFILE = {"status": {"snapshotClass": "chosen"}}


@pytest.mark.parametrize(
    ("classes", "profile", "expected"),
    [
        ([snapshot_class("only"), snapshot_class("other", "nfs")], None, "only"),
        ([snapshot_class("a"), snapshot_class("b", default=True)], None, "b"),
        ([snapshot_class("chosen"), snapshot_class("b", default=True)], PROFILE, "chosen"),
        # A profile that names another driver's class would make a snapshot that can never be cut.
        ([snapshot_class("chosen", "nfs"), snapshot_class("b")], PROFILE, "b"),
    ],
)
def test_the_class_that_fits_is_chosen(classes: list[Any], profile: Any, expected: str) -> None:
    assert choose_snapshot_class("csi", classes, profile) == expected


@pytest.mark.parametrize(
    ("driver", "classes", "reason"),
    [
        (None, [snapshot_class("a")], "NoSnapshotSupport"),
        ("csi", [snapshot_class("a", "nfs")], "NoSnapshotClass"),
        ("csi", [snapshot_class("a"), snapshot_class("b")], "AmbiguousSnapshotClass"),
        ("csi", [snapshot_class("a", default=True), snapshot_class("b", default=True)], "AmbiguousSnapshotClass"),
    ],
)
def test_no_class_is_guessed(driver: str | None, classes: list[Any], reason: str) -> None:
    found = choose_snapshot_class(driver, classes, None)
    assert isinstance(found, Problem)
    assert found.reason == reason


def test_the_driver_comes_from_the_volume() -> None:
    assert driver_of({"spec": {"csi": {"driver": "csi"}}}) == "csi"
    assert driver_of({"spec": {"nfs": {}}}) is None
    assert driver_of(None) is None
