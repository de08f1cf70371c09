"""Backups and restores of PersistentVolumeClaims, without virtual machines: the data path on real parts."""

from __future__ import annotations

import pytest

from tests import installation
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
    # Of a claim that is meant to hold a database.
    namespace.kubectl("annotate", "pvc", "disk", "longboat.dev/block-size=16Ki")
    namespace.policy("daily", "disk")
    states = []
    for seed in (1, 2, 3):
        written = namespace.write("disk", seed=seed, mebibytes=32 if seed == 1 else 1, offset=seed * 20 * MIB)
        states.append((written, namespace.backup("daily")))
    results = [backup["status"]["disks"][0] for _, backup in states]
    assert [each["mode"] for each in results] == ["Full", "Incremental", "Incremental"]
    assert {each["blockSize"] for each in results} == {16384}
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


def test_disks_of_one_image_share_its_blocks_where_the_store_says_so(namespace: Namespace) -> None:
    shared = installation.store(namespace.cluster, default=False, dedupe="Namespace")
    shared["metadata"]["name"] = "golden"
    shared["spec"]["s3"]["prefix"] = "golden"
    installation.apply(namespace.cluster, shared)
    namespace.cluster.kubectl("wait", "--for=condition=Ready", "backupstore/golden", "--timeout=60s")
    for disk in ("golden", "clone"):
        namespace.apply(claim(disk))
        written = namespace.write(disk, seed=10, mebibytes=24)
        namespace.policy(f"{disk}-daily", disk, storeRef={"name": "golden"})
    written = namespace.write("clone", seed=11, mebibytes=1, offset=40 * MIB)
    first = namespace.backup("golden-daily")["status"]["disks"][0]
    backup = namespace.backup("clone-daily")
    second = backup["status"]["disks"][0]
    assert first["storedBytes"] > 10 * MIB and second["storedBytes"] < MIB, (first, second)
    assert (second["mode"], second["fullReason"]) == ("Full", "NoParent") and "'golden'" in second["message"]
    # What is shared stays when the first disk and its backups go.
    namespace.kubectl("delete", "diskbackup", "--field-selector=spec.policyRef.name=golden-daily")
    namespace.kubectl("delete", "pvc", "golden")
    restored = namespace.restore("restored", of_backup(backup))
    assert restored["status"]["phase"] == "Completed", restored["status"]
    assert namespace.checksum("restored") == written
    own = namespace.items("diskbackups")
    assert [each["spec"]["policyRef"]["name"] for each in own] == ["clone-daily"]
