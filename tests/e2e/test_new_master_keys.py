"""New master keys after a leak, on real parts: declared on the store, and the backups under the old ones stay whole."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from longboat.api.common import format_time
from longboat.kube.kinds import CONFIG_MAP
from tests.cluster.cluster import Cluster
from tests.cluster.progress import ClusterError
from tests.e2e.upkeep import OFF
from tests.e2e.workloads import Namespace, Object, api, claim, of_backup
from tests.installation import NAMESPACE as OPERATOR_NAMESPACE
from tests.installation import ensure_store, store

pytestmark = pytest.mark.cluster
NAME = "new-keys"
MIB = 1 << 20


@pytest.fixture
def offsite(longboat: Cluster) -> Iterator[str]:
    """A BackupStore of the test's own, so that its status speaks of this test's namespace alone."""
    bucket = store(longboat, NAME)["spec"]["s3"] | {"prefix": f"{NAME}-{time.time_ns():x}"}
    ensure_store(longboat, NAME, default=False, s3=bucket, maintenance=OFF)
    yield NAME
    longboat.kubectl("delete", "backupstore", NAME, "--wait=false")


def status(cluster: Cluster) -> Object:
    found: Object = json.loads(cluster.kubectl("get", "backupstore", NAME, "-o", "json"))["status"]
    return found


def ask(cluster: Cluster, after: datetime) -> None:
    """Ask for keys that were made after a moment, once that is over by all clocks."""
    time.sleep(max(0.0, (after + timedelta(seconds=15) - datetime.now(UTC)).total_seconds()))
    patch = {"spec": {"encryption": {"newMasterKeysAfter": format_time(after)}}}
    cluster.kubectl("patch", "backupstore", NAME, "--type=merge", f"--patch={json.dumps(patch)}")


def is_renewed(cluster: Cluster) -> bool:
    conditions = {each["type"]: each for each in status(cluster).get("conditions", ())}
    return bool(conditions.get("MasterKeysRenewed", {}).get("status") == "True")


def records(cluster: Cluster, namespace: str) -> list[Object]:
    """What is noted of the upkeep of a namespace's repositories."""
    found = api(cluster).list(CONFIG_MAP, OPERATOR_NAMESPACE, {"longboat.dev/owner-kind": "Maintenance"})
    return [json.loads(each["data"]["record"]) for each in found if each["data"]["namespace"] == namespace]


def run(cluster: Cluster, namespace: Namespace, work: str) -> list[Object]:
    """Ask for a prune or verification of both repositories; return what is noted of these runs when both have ended."""
    asked = datetime.now(UTC).replace(microsecond=0)
    annotation = f"longboat.dev/{work}-requested-at={format_time(asked)}"
    cluster.kubectl("annotate", "backupstore", NAME, "--overwrite", annotation)

    def ended() -> list[Object] | None:
        found = [each[work] for each in records(cluster, namespace.name)]
        times = [each.get("ended") for each in found]
        done = len(times) == 2 and all(each and datetime.fromisoformat(each) >= asked for each in times)
        return found if done else None

    found = namespace.until(f"the {work} of both repositories ends", ended, 180)
    assert found
    return found


def test_backups_under_both_keys_restore_and_are_kept(longboat: Cluster, offsite: str, namespace: Namespace) -> None:
    namespace.apply(claim("disk"))
    first = namespace.write("disk", seed=1, mebibytes=16)
    namespace.policy("daily", "disk", storeRef={"name": offsite})
    old = namespace.backup("daily")
    moment = datetime.now(UTC).replace(microsecond=0)
    ask(longboat, moment)
    namespace.until("every namespace has a new master key", lambda: is_renewed(longboat), 120)
    assert status(longboat)["masterKeys"] == {"after": format_time(moment), "renewed": 1, "pending": 0}

    second = namespace.write("disk", seed=2, mebibytes=4, offset=8 * MIB)
    new = namespace.backup("daily")
    paths = [each["status"]["store"]["repository"] for each in (old, new)]
    assert paths[1] == f"{paths[0]}.2" and new["status"]["disks"][0]["fullReason"] == "NoParent"
    for number, (backup, checksum) in enumerate(((old, first), (new, second))):
        namespace.restore(f"restored-{number}", of_backup(backup))
        assert namespace.checksum(f"restored-{number}") == checksum

    assert [each["result"]["backups"] for each in run(longboat, namespace, "verify")] == [1, 1]
    told = [namespace.get("diskbackup", each["metadata"]["name"]) for each in (old, new)]
    assert [(each or {})["status"]["verified"] for each in told] == ["Yes", "Yes"]
    assert not [each for each in run(longboat, namespace, "prune") if "failed" in each]

    with pytest.raises(ClusterError, match="may only move forward"):
        ask(longboat, moment - timedelta(hours=1))
