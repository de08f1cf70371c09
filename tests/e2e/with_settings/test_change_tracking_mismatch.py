"""A CSI driver that calls unchanged what has changed is found out, and told of wherever somebody looks; and metrics.

The operator audits everything here: with the usual share it would be a matter of luck.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.cluster import Cluster
from tests.e2e.workloads import Namespace, Object, claim, of_backup
from tests.installation import NAMESPACE as OPERATOR_NAMESPACE

pytestmark = pytest.mark.cluster
SIZE = 64 << 20


@pytest.fixture(scope="module")
def place(impatient: Cluster) -> Iterator[Namespace]:
    """A disk that was backed up truthfully, then with what its driver had left out, and with what that led to."""
    found = Namespace(impatient, f"mismatch-{time.time_ns():x}")
    found.apply(claim("disk", "64Mi"))
    found.policy("daily", "disk")
    yield found
    impatient.faults.remove("liar")
    impatient.kubectl("delete", "namespace", found.name, "--wait=false")


@pytest.fixture(scope="module")
def backups(place: Namespace) -> dict[str, Object]:
    """Four backups; the checksum of the disk at each is in its annotations."""
    made: dict[str, Object] = {}
    for seed, (name, lie) in enumerate([("full", ""), ("told", ""), ("found", "nothing"), ("after", "")]):
        checksum = place.write("disk", seed=seed, mebibytes=2, offset=seed * 8 << 20)
        if lie:
            its = {"claim": f"{place.name}/disk"}
            place.cluster.faults.inject("liar", operation="GetMetadataDelta", phase="midway", lie=lie, match=its)
        made[name] = place.backup("daily")
        place.cluster.faults.remove("liar")
        made[name]["metadata"].setdefault("annotations", {})["checksum"] = checksum
    return made


def disk_of(place: Namespace, backup: Object) -> Object:
    """The disk of a backup as it is told of now."""
    found = place.get("diskbackup", backup["metadata"]["name"])
    assert found
    disk: Object = found["status"]["disks"][0]
    return disk


def test_backup_that_finds_its_driver_wrong_reads_everything_and_says_so(
    place: Namespace, backups: dict[str, Object]
) -> None:
    disk = disk_of(place, backups["found"])
    assert (disk["mode"], disk["fullReason"], disk["sinceFullRead"]) == ("Full", "ChangeTrackingMismatch", 0), disk
    name = backups["found"]["metadata"]["name"]
    said = place.condition("diskbackup", name, "ChangeTrackingMismatch")()
    assert "differ from what the change source says" in said["message"]
    assert backups["told"]["metadata"]["name"] in said["message"]
    place.restore("right", of_backup(backups["found"]))
    assert place.checksum("right") == backups["found"]["metadata"]["annotations"]["checksum"]


def test_what_had_relied_on_the_driver_is_suspect_and_what_comes_after_is_not(
    place: Namespace, backups: dict[str, Object]
) -> None:
    finder = backups["found"]["metadata"]["name"]
    suspects = {name: disk_of(place, each).get("suspectedBy") for name, each in backups.items()}
    # The first one was told by the driver what is allocated: nobody has read the rest.
    assert suspects == {"full": finder, "told": finder, "found": None, "after": None}
    after = disk_of(place, backups["after"])
    assert (after["mode"], after["fullReason"], after["sinceFullRead"]) == ("Full", "ChangeTrackingDistrusted", 0), (
        after
    )
    assert after["distrust"]["foundBy"] == finder, after
    for name in ("full", "told"):
        place.condition("diskbackup", backups[name]["metadata"]["name"], "Suspect")("ChangeTrackingMismatch")
    said = place.condition("backuppolicy", "daily", "ChangeTrackingMismatch")("SuspectBackups")
    assert backups["told"]["metadata"]["name"] in said["message"]


def test_restore_from_a_suspect_backup_warns_and_is_done(place: Namespace, backups: dict[str, Object]) -> None:
    restored = place.restore("doubtful", of_backup(backups["told"]))
    assert restored["status"]["phase"] == "Completed", restored["status"]
    place.condition("restore", "doubtful", "SuspectSource")("ChangeTrackingMismatch")


def test_metrics_tell_of_it_and_of_what_is_stored_where(place: Namespace, backups: dict[str, Object]) -> None:
    def told(name: str) -> dict[str, float]:
        """The values of a metric of the policy, by what its labels say beside that it is this one's."""
        its, found = {place.name, "daily", ""}, scrape(place.cluster).get(name, {})
        values = {frozenset(dict(labels).values()): value for labels, value in found.items()}
        return {",".join(sorted(each - its)): value for each, value in values.items() if place.name in each}

    place.until("the tick has seen the policy", lambda: told("longboat_backups_total").get("Completed") == 4, 60)
    assert told("longboat_suspect_backups") == {"": 2.0}
    assert told("longboat_change_tracking_mismatches") == {"": 1.0}
    assert told("longboat_backup_duration_seconds_count") == {"": 4.0}
    assert told("longboat_policy_target_last_success_timestamp_seconds").popitem()[1] > time.time() - 3600
    stored = {name: each["status"]["storedBytes"] for name, each in backups.items()}
    place.until(
        "a pass over all backups", lambda: told("longboat_stored_bytes") == {"disk,offsite": sum(stored.values())}
    )
    # Other tests leave stores of their own.
    assert scrape(place.cluster)["longboat_store_up"][frozenset({("store", "offsite")})] == 1.0


def scrape(cluster: Cluster) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    """The operator's metrics, by the proxy of the API server: by name and labels."""
    label = "app.kubernetes.io/component=operator"
    pod = cluster.kubectl(
        "-n", OPERATOR_NAMESPACE, "get", "pods", "-l", label, "-o", "jsonpath={.items[0].metadata.name}"
    )
    text = cluster.kubectl("get", "--raw", f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods/{pod}:8081/proxy/metrics")
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families(text):
        for each in family.samples:
            found.setdefault(each.name, {})[frozenset(each.labels.items())] = each.value
    return found
