"""Backups and restores of PersistentVolumeClaims, without virtual machines: the data path on real parts."""

from __future__ import annotations

import pytest

from tests.e2e.workloads import Namespace, claim, of_backup

pytestmark = pytest.mark.cluster
MIB = 1 << 20


def test_restored_block_device_equals_the_one_backed_up(namespace: Namespace) -> None:
    namespace.apply(claim("disk"))
    before = namespace.write("disk", seed=1)
    namespace.policy("daily", "disk")
    backup = namespace.backup("daily")
    assert backup["status"]["phase"] == "Completed", backup["status"]
    namespace.write("disk", seed=2)
    restored = namespace.restore("restored", of_backup(backup))
    assert restored["status"]["phase"] == "Completed", restored["status"]
    assert namespace.checksum("restored") == before
    namespace.assert_nothing_left()


def test_incremental_costs_what_changed_and_restores_each_state(namespace: Namespace) -> None:
    namespace.apply(claim("disk", "128Mi"))
    namespace.policy("daily", "disk")
    states = []
    for seed in (1, 2, 3):
        written = namespace.write("disk", seed=seed, mebibytes=32 if seed == 1 else 1, offset=seed * 20 * MIB)
        states.append((written, namespace.backup("daily")))
    results = [backup["status"]["disks"][0] for _, backup in states]
    assert [each["mode"] for each in results] == ["Full", "Incremental", "Incremental"]
    assert all(each["storedBytes"] < 2 * MIB for each in results[1:]), results
    for number, (checksum, backup) in enumerate(states):
        namespace.restore(f"state-{number}", of_backup(backup))
        assert namespace.checksum(f"state-{number}") == checksum


def test_filesystem_volume_with_a_disk_image_comes_back(namespace: Namespace) -> None:
    namespace.apply(claim("disk", "128Mi", mode="Filesystem"))
    before = namespace.write("disk", seed=3, mode="Filesystem")
    namespace.policy("daily", "disk")
    backup = namespace.backup("daily")
    restored = namespace.restore("restored", of_backup(backup))
    assert restored["status"]["phase"] == "Completed", restored["status"]
    assert namespace.checksum("restored", mode="Filesystem") == before


def test_restore_into_a_larger_claim_of_another_class_that_waits_for_its_consumer(namespace: Namespace) -> None:
    namespace.apply(claim("disk"))
    before = namespace.write("disk", seed=4)
    namespace.policy("daily", "disk")
    backup = namespace.backup("daily")
    restored = namespace.restore("larger", of_backup(backup), storageClassName="reflink-wffc", size="128Mi")
    assert restored["status"]["phase"] == "Completed", restored["status"]
    assert namespace.checksum("larger", length=64 * MIB) == before
    made = namespace.get("pvc", "larger")
    assert made and made["status"]["capacity"]["storage"] == "128Mi"
    assert "ownerReferences" not in made["metadata"]


def test_snapshot_is_restored_as_it_was(namespace: Namespace) -> None:
    namespace.apply(claim("disk"))
    before = namespace.write("disk", seed=5)
    snapshot = namespace.ours("DiskSnapshot", "first", {"disk": {"persistentVolumeClaim": "disk"}})
    namespace.apply(snapshot)
    assert namespace.ended("disksnapshot", "first")["status"]["phase"] == "Ready"
    namespace.write("disk", seed=6)
    restored = namespace.restore("restored", {"diskSnapshot": {"name": "first"}})
    assert restored["status"]["phase"] == "Completed", restored["status"]
    assert namespace.checksum("restored") == before


def test_backup_outlives_its_disk_and_its_policy(namespace: Namespace) -> None:
    namespace.apply(claim("disk"))
    before = namespace.write("disk", seed=7)
    namespace.policy("daily", "disk")
    backup = namespace.backup("daily")
    namespace.kubectl("delete", "backuppolicy", "daily")
    namespace.kubectl("delete", "pvc", "disk")
    restored = namespace.restore("restored", of_backup(backup))
    assert restored["status"]["phase"] == "Completed", restored["status"]
    assert namespace.checksum("restored") == before


def test_deleted_backup_applied_again_is_adopted_and_not_run_again(namespace: Namespace) -> None:
    namespace.apply(claim("disk"))
    before = namespace.write("disk", seed=8)
    namespace.policy("daily", "disk")
    backup = namespace.backup("daily")
    name = backup["metadata"]["name"]
    namespace.kubectl("delete", "diskbackup", name, "--timeout=60s")
    namespace.write("disk", seed=9)
    namespace.apply(namespace.ours("DiskBackup", name, backup["spec"]))
    again = namespace.ended("diskbackup", name)
    assert again["status"]["adopted"] is True, again["status"]
    assert again["status"]["phase"] == "Completed"
    namespace.restore("restored", of_backup(again))
    assert namespace.checksum("restored") == before
