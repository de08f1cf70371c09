"""Uninstalled by Helm, installed by kustomize, by Helm again: nothing waits, and no object and no backup is lost."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests import installation
from tests.cluster.cluster import Cluster
from tests.e2e.workloads import Namespace, Object, claim, of_backup

pytestmark = pytest.mark.cluster
KINDS = "backuppolicies,diskbackups,disksnapshots,restores,backupstores"


@pytest.fixture(scope="module")
def place(longboat: Cluster) -> Iterator[Namespace]:
    """A namespace with a disk, a policy, two backups and a snapshot."""
    found = Namespace(longboat, f"installed-{time.time_ns():x}")
    found.apply(claim("disk"))
    found.write("disk", seed=21)
    found.policy("daily", "disk")
    found.apply(found.ours("DiskSnapshot", "before", {"disk": {"persistentVolumeClaim": "disk"}}))
    for name in ("kept", "deleted"):
        found.apply(found.ours("DiskBackup", name, {"policyRef": {"name": "daily"}}))
        assert found.ended("diskbackup", name)["status"]["phase"] == "Completed"
    yield found
    longboat.kubectl("delete", "namespace", found.name, "--wait=false")


def objects(place: Namespace) -> dict[str, Object]:
    """Everything of ours in the namespace, and the stores."""
    found = json.loads(place.kubectl("get", KINDS, "-o", "json"))["items"]
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in found}


def off_site(place: Namespace) -> dict[str, int]:
    """Path and size of what the namespace has in the bucket."""
    uid = place.cluster.kubectl("get", "namespace", place.name, "-o", "jsonpath={.metadata.uid}")
    folder = place.cluster.remote.directory / "data"
    found = [path for path in folder.glob(f"*/*/{uid}/**/*") if path.is_file()]
    return {str(path.relative_to(folder)): path.stat().st_size for path in found}


def test_uninstalled_operator_holds_nothing_up_and_leaves_objects_and_data(place: Namespace) -> None:
    before, data = objects(place), off_site(place)
    assert before["DiskBackup/kept"]["metadata"]["finalizers"], "there is something to release"
    assert data
    installation.uninstall(place.cluster)
    after = objects(place)
    assert {name: each["metadata"]["uid"] for name, each in after.items()} == {
        name: each["metadata"]["uid"] for name, each in before.items()
    }
    assert [name for name, each in after.items() if each["metadata"].get("finalizers")] == []
    # Nobody is there who could answer the deletion: without the finalizer nobody has to.
    place.kubectl("delete", "diskbackup", "deleted", "--timeout=20s")
    assert off_site(place) == data


def test_manifests_installed_by_kustomize_go_on_with_what_is_there(place: Namespace) -> None:
    before = place.checksum("disk")
    installation.install_by_kustomize(place.cluster)
    try:
        backup = place.backup("daily")
        assert backup["status"]["phase"] == "Completed", backup["status"]
        first = objects(place)["DiskBackup/kept"]["status"]
        # The backup with the snapshot for change tracking was deleted: all is read, and compared with what is there.
        assert backup["status"]["storedBytes"] < first["storedBytes"] / 100, (
            "the backups that were there are built upon"
        )
        restored = place.restore("from-kept", {"diskBackup": {"name": "kept"}})
        assert restored["status"]["phase"] == "Completed", restored["status"]
        assert place.checksum("from-kept") == before
    finally:
        installation.uninstall_by_kustomize(place.cluster)


def test_chart_installed_again_goes_on_with_what_is_there(place: Namespace) -> None:
    installation.install(place.cluster)
    place.apply(place.ours("DiskBackup", "deleted", {"policyRef": {"name": "daily"}}))
    again = place.ended("diskbackup", "deleted")
    assert (again["status"]["phase"], again["status"]["adopted"]) == ("Completed", True), "its data stayed"
    restored = place.restore("from-snapshot", {"diskSnapshot": {"name": "before"}})
    assert restored["status"]["phase"] == "Completed", restored["status"]
    place.restore("from-deleted", of_backup(again))
    assert place.checksum("from-deleted") == place.checksum("disk")
    place.until("finalizers are back", lambda: objects(place)["DiskBackup/kept"]["metadata"].get("finalizers"), 90)
