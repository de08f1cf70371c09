"""Decisions about a DiskBackup as a whole."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longboat.api import BackupPolicy, DiskBackup
from longboat.api.disk_backup import DiskResult
from longboat.plan.backup import phase_of, progress_of, progress_text, slot_missed
from longboat.plan.backup_snapshots import snapshot_name
from longboat.plan.export import job_name
from longboat.plan.hand_over import claim_name, copy_content_name, copy_name
from longboat.plan.manifest import manifest_metadata

SLOT = datetime(2026, 11, 22, 3, 30, tzinfo=UTC)
PHASES = ["Pending", "Snapshotted", "HandedOver", "Exporting", "Completed", "Failed", "Unsupported"]


def disks(*phases: str) -> list[DiskResult]:
    return [DiskResult.model_validate({"name": f"d{n}", "phase": phase}) for n, phase in enumerate(phases)]


def backup(name: str = "run", late: timedelta | None = None) -> DiskBackup:
    created = SLOT + (late or timedelta(0))
    spec: dict[str, Any] = {"policyRef": {"name": "p"}} | ({} if late is None else {"slot": SLOT})
    meta = {"name": name, "namespace": "shop", "uid": "u", "creationTimestamp": created}
    return DiskBackup.model_validate({"kind": "DiskBackup", "metadata": meta, "spec": spec})


@pytest.mark.parametrize(
    ("phases", "phase"),
    [
        (["Completed", "Completed"], "Completed"),
        (["Completed", "Unsupported"], "Completed"),
        (["Completed", "Failed"], "PartiallyFailed"),
        (["Failed", "Failed"], "Failed"),
        (["Unsupported", "Unsupported"], "Failed"),
        (["Completed", "Pending"], "Exporting"),
        (["Pending", "Failed"], "Snapshotting"),
    ],
)
def test_a_child_that_failed_is_never_hidden(phases: list[str], phase: str) -> None:
    assert phase_of(disks(*phases)) == phase


@given(st.lists(st.sampled_from(PHASES), min_size=1, max_size=6))
def test_completed_and_full_progress_are_said_of_what_has_ended_alone(phases: list[str]) -> None:
    its = disks(*phases)
    ended = all(each in ("Completed", "Failed", "Unsupported") for each in phases)
    assert (progress_of(its) == "100%") == ended
    if phase_of(its) == "Completed":
        assert ended and "Failed" not in phases and "Completed" in phases


@pytest.mark.parametrize(("late", "missed"), [(timedelta(hours=1), False), (timedelta(hours=1, seconds=1), True)])
def test_a_slot_is_missed_after_the_starting_deadline(late: timedelta, missed: bool) -> None:
    spec = {
        "target": {"virtualMachine": {"name": "db"}},
        "schedule": {"daily": {}},
        "retention": {"keepFor": "1d"},
        "startingDeadline": "1h",
    }
    policy = BackupPolicy.model_validate({"spec": spec})
    assert (slot_missed(backup(late=late), policy) is not None) == missed
    assert slot_missed(backup(), policy) is None


@given(
    st.from_regex(r"[a-z]([-a-z0-9.]{0,200}[a-z0-9])?", fullmatch=True), st.from_regex(r"[a-z]{1,63}", fullmatch=True)
)
def test_names_of_children_are_labels_of_at_most_63_characters(name: str, disk: str) -> None:
    owner = backup(name)
    claim = {"name": name, "uid": "u"}
    names = [make(owner, disk) for make in (copy_name, copy_content_name, claim_name)]
    names += [snapshot_name(owner, disk, 1), job_name(DiskResult.model_validate({"name": disk, "claim": claim}))]
    assert len(set(names)) == len(names)
    for each in names:
        assert len(each) <= 63 and each.replace("-", "").isalnum() and each[0] != "-" and each[-1] != "-", each


def test_attempts_and_disks_have_names_of_their_own() -> None:
    names = {snapshot_name(backup(), disk, attempt) for disk in ("a", "b", "a" * 40, "a" * 41) for attempt in (1, 2)}
    assert len(names) == 8


def test_a_manifest_holds_what_a_restore_needs_and_nothing_that_kubectl_left() -> None:
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "owner": "me"}
    vm = {"apiVersion": "v1", "kind": "V", "metadata": {"name": "db", "annotations": annotations, "managedFields": [1]}}
    saved = manifest_metadata(backup(), backup().status, vm | {"spec": {"running": True}})["virtualMachine"]
    assert saved["spec"] == {"running": True} and saved["metadata"] == {"name": "db", "annotations": {"owner": "me"}}


def test_a_table_says_how_far_each_disk_is_and_stays_short() -> None:
    root = DiskResult(name="root", phase="Completed", progress="100%")
    data = DiskResult(name="data", phase="Exporting", progress="43%")
    logs = DiskResult(name="logs", phase="HandedOver")
    assert progress_text([root, data, logs]) == "data 43%, logs 0%, root 100%"
    many = [root, data, logs, *(DiskResult(name=f"d{number}", phase="Pending") for number in range(9))]
    assert progress_text(many) == "data 43%, logs 0%, d0 0%, +9"
    failed, without = DiskResult(name="bad", phase="Failed"), DiskResult(name="cd", phase="Unsupported")
    assert progress_text([root, failed, without]) == "bad failed, cd unsupported"
    assert progress_text([root, root]) is None
