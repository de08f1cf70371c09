"""The objects of movers: what they may do, and where secrets go."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from longboat.mover.jobs import merge
from longboat.plan import export, restore_job
from longboat.plan.mover import IDLE_AFTER, Mover, MoverSettings, mover_job, mover_secret, no_room, split_secret

JOB = {
    "masterKey": "the key",
    "repositoryPath": "c/n",
    "store": {"bucket": "b", "accessKeyId": "the id", "secretAccessKey": "the secret"},
}


def mover(role: Any = "export", mode: Any = "Block", **changes: Any) -> Mover:
    its = {"role": role, "name": "m", "secret_name": "s", "labels": {"app.kubernetes.io/managed-by": "longboat"}}
    return Mover(**{**its, "job": JOB, "claim": "c", "volume_mode": mode, **changes})


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = job["spec"]["template"]["spec"]
    return pod


SETTINGS = MoverSettings("system", "longboat:1", resources={"requests": {"cpu": "1"}}, pull_secrets=("regcred",))


def test_a_mover_passes_restricted_pod_security_and_has_no_token() -> None:
    pod = pod_of(mover_job(mover(), SETTINGS))
    container = pod["containers"][0]
    assert pod["automountServiceAccountToken"] is False and pod["restartPolicy"] == "Never"
    assert (
        pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    )
    security = container["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"]} and security["readOnlyRootFilesystem"]
    assert security["allowPrivilegeEscalation"] is False
    assert pod["imagePullSecrets"] == [{"name": "regcred"}] and container["resources"] == {"requests": {"cpu": "1"}}


def test_kubernetes_never_repeats_a_mover_by_itself() -> None:
    assert mover_job(mover(), SETTINGS)["spec"]["backoffLimit"] == 0


def test_no_secret_is_in_the_job_or_the_plain_part() -> None:
    job = mover_job(mover(), SETTINGS)
    plain, secret = split_secret(JOB)
    for text in (json.dumps(job), json.dumps(plain)):
        assert not any(word in text for word in ("the key", "the id", "the secret"))
    assert merge(plain, secret) == JOB


def test_the_secret_dies_with_its_job_and_holds_both_files() -> None:
    job = mover_job(mover(), SETTINGS)
    job["metadata"]["uid"] = "u"
    secret = mover_secret(mover(), job)
    assert secret["metadata"]["ownerReferences"][0]["uid"] == "u" and secret["immutable"]
    assert json.loads(base64.b64decode(secret["data"]["secret.json"]))["masterKey"] == "the key"
    assert set(secret["data"]) == {"job.json", "secret.json"}


@pytest.mark.parametrize("role", ["export", "restore"])
def test_an_export_mounts_a_file_system_read_only(role: str) -> None:
    container = pod_of(mover_job(mover(role, "Filesystem"), SETTINGS))["containers"][0]
    mount = next(each for each in container["volumeMounts"] if each["name"] == "disk")
    assert mount == {"name": "disk", "mountPath": "/volume", "readOnly": role == "export"}
    assert container["args"][0] == role


def test_a_block_volume_is_a_device_and_the_node_is_one_that_reaches_it() -> None:
    required = {"nodeSelectorTerms": []}
    pod = pod_of(mover_job(mover(node_affinity={"nodeSelectorTerms": [1]}), SETTINGS))
    assert pod["containers"][0]["volumeDevices"] == [{"name": "disk", "devicePath": "/dev/longboat-disk"}]
    assert "affinity" in pod and "affinity" not in pod_of(mover_job(mover(), SETTINGS)), required


NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def jobs(count: int, namespace: str, age: timedelta = timedelta(), ready: int = 0) -> list[dict[str, Any]]:
    meta = {"labels": {"longboat.dev/owner-namespace": namespace}, "creationTimestamp": (NOW - age).isoformat()}
    return [{"metadata": meta, "status": {"ready": ready}}] * count


@pytest.mark.parametrize(("most", "share"), [(2, 1), (3, 2), (10, 8), (100, 75)])
def test_one_namespace_never_has_every_place(most: int, share: int) -> None:
    assert no_room("restore", "shop", jobs(share - 1, "shop"), most, NOW) == ""
    assert "of this namespace" in no_room("restore", "shop", jobs(share, "shop"), most, NOW)
    assert no_room("restore", "bank", jobs(share, "shop"), most, NOW) == ""
    assert "movers.atOnce" in no_room("restore", "bank", jobs(most, "shop"), most, NOW)
    assert no_room("restore", "shop", [], 1, NOW) == ""


def test_movers_whose_volumes_are_never_made_hold_up_nobody_else_and_stay_bounded() -> None:
    stuck = jobs(5, "shop", IDLE_AFTER) + jobs(5, "den", IDLE_AFTER)
    assert no_room("restore", "bank", stuck, 10, NOW) == ""
    assert "10 restores" in no_room("restore", "bank", jobs(10, "den", IDLE_AFTER, ready=1), 10, NOW)
    assert "of this namespace" in no_room("restore", "shop", jobs(8, "shop", IDLE_AFTER), 10, NOW)


@pytest.mark.parametrize("delay", [export.retry_delay, restore_job.retry_delay])
def test_a_mover_that_was_taken_away_is_replaced_sooner_than_one_that_failed(
    delay: Callable[[int, str], timedelta],
) -> None:
    assert max(delay(attempt, "PodLost") for attempt in (1, 2)) <= timedelta(seconds=40)
    assert all(delay(attempt, "PodLost") < delay(attempt, "StoreUnreachable") for attempt in (1, 2))
