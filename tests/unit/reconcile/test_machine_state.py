"""The TPM and EFI state of a machine is captured with its disks, exported as files, and restored as such."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from longboat.kube.kinds import DISK_BACKUP, PERSISTENT_VOLUME_CLAIM, RESTORE, VIRTUAL_MACHINE, VIRTUAL_MACHINE_INSTANCE
from longboat.kube.port import Object
from longboat.mover.errors import SourceForbiddenError
from longboat.mover.jobs import RestoreJob
from longboat.mover.restore_disk import run_restore
from longboat.plan.state import STATE, STATE_LABEL
from longboat.reconcile.restore import reconcile
from longboat.repository import StoreSettings, open_store
from tests.unit.reconcile.backup_world import DISKS, SHOP, STATE_FILE, BackupWorld, disk
from tests.unit.reconcile.restore_world import MANIFEST, OBJECT_ID, add_backup, message, run, shop, status, untouched
from tests.unit.reconcile.restore_world import disk as disk_of

CLAIM = "persistent-state-for-db-x7k2p"
GOOD = {"content": "Archive", "volumeMode": "Filesystem", "logicalBytes": 20_480, "claimBytes": 10 << 20}


def with_state(world: BackupWorld, *, mode: str = "Filesystem", claim: str = CLAIM) -> None:
    """Give the machine a persistent TPM, and the claim that KubeVirt makes for it."""
    world.storage.add_claim(SHOP, claim, "sealed keys", size="10Mi")
    operations = [
        {"op": "replace", "path": "/spec/volumeMode", "value": mode},
        {"op": "add", "path": "/metadata/labels", "value": {STATE_LABEL: "db"}},
    ]
    world.cluster.patch(PERSISTENT_VOLUME_CLAIM, claim, operations, SHOP)
    tpm = {"persistent": True}
    world.cluster.patch(VIRTUAL_MACHINE, "db", [_add("/spec/template/spec/domain/devices/tpm", tpm)], SHOP)
    state = {"name": claim, "persistentVolumeClaimInfo": {"claimName": claim}}
    world.cluster.patch(VIRTUAL_MACHINE_INSTANCE, "db", [_add("/spec/domain/devices/tpm", tpm)], SHOP)
    found = world.get(VIRTUAL_MACHINE_INSTANCE, "db")["status"]
    found["volumeStatus"].append(state)
    world.cluster.patch(VIRTUAL_MACHINE_INSTANCE, "db", [_add("/status", found)], SHOP)


def _add(path: str, value: Any) -> Object:
    return {"op": "add", "path": path, "value": value}


@pytest.fixture
def world(tmp_path: Path) -> BackupWorld:
    world = BackupWorld(folder=tmp_path)
    with_state(world)
    world.add_policy("daily")
    return world


def restored(world: BackupWorld, folder: Path, name: str = STATE) -> Path:
    found = disk(world, name)
    job = RestoreJob(
        store=StoreSettings(type="folder", path=str(world.folder / "store")),
        repository_path=world.backup().status.store.repository,  # type: ignore[union-attr]
        master_key=base64.b64encode(world.repository().master_key).decode(),
        manifest=found.manifest,
        object_id=found.object_id,
        content=found.content,
        target_path=str(folder),
    )
    folder.mkdir()
    run_restore(job, open_store(job.store), lambda _: None)
    return folder


def test_the_state_is_captured_with_the_disks_and_comes_back_as_files(world: BackupWorld, tmp_path: Path) -> None:
    world.add_backup()
    world.drive()
    found, data = disk(world, STATE), disk(world, "data")
    assert (found.phase, found.content, data.content) == ("Completed", "Archive", "Disk")
    assert world.storage.cut_while_frozen[CLAIM] and world.backup().status.consistency == "Application"
    assert world.backup().status.phase == "Completed" and world.leftovers() == []
    assert (restored(world, tmp_path / "new") / STATE_FILE).read_text() == "sealed keys"


def test_the_mover_of_the_state_may_read_what_another_user_wrote_and_leaves_changed_blocks_out(
    world: BackupWorld,
) -> None:
    world.add_backup()
    jobs: dict[str, Object] = {}
    told: dict[str, Any] = {}
    run_job = world.storage.run_job

    def seen(job: Object, content: str | None) -> Any:
        file = world.job_file(job)
        jobs[file.disk.claim_name], told[file.disk.claim_name] = job, file
        assert run_job is not None
        return run_job(job, content)

    world.storage.run_job = seen
    world.drive()
    change = {name: _security(job)["fsGroupChangePolicy"] for name, job in jobs.items()}
    assert change == {CLAIM: "Always"} | dict.fromkeys(DISKS.values(), "OnRootMismatch")
    assert _security(jobs[CLAIM])["runAsUser"] == 107 and _security(jobs[CLAIM])["runAsNonRoot"]
    assert (told[CLAIM].leave_out, told["db-data"].leave_out) == (("cbt",), ())


def _security(job: Object) -> Any:
    return job["spec"]["template"]["spec"]["securityContext"]


def test_a_state_that_the_mover_may_not_read_fails_and_says_so(world: BackupWorld) -> None:
    world.job_failures += [SourceForbiddenError("swtpm: the mover may not read it")]
    world.add_policy("state", {"disk": {"persistentVolumeClaim": CLAIM}})
    world.add_backup(policy="state")
    world.drive()
    found = disk(world, CLAIM)
    assert (found.phase, found.reason, found.attempts) == ("Failed", "SourceForbidden", 1)
    assert world.backup().status.phase == "Failed"


def test_a_policy_may_name_the_claim_of_the_state_itself(world: BackupWorld, tmp_path: Path) -> None:
    world.add_policy("state", {"disk": {"persistentVolumeClaim": CLAIM}})
    world.add_backup(policy="state")
    world.drive()
    assert (disk(world, CLAIM).phase, disk(world, CLAIM).content) == ("Completed", "Archive")
    # KubeVirt writes the TPM's files out when it freezes the guest.
    assert world.backup().status.virtual_machine == "db" and world.backup().status.consistency == "Application"
    assert (restored(world, tmp_path / "new", CLAIM) / STATE_FILE).read_text() == "sealed keys"


def test_an_adopted_state_is_still_known_as_files(world: BackupWorld) -> None:
    world.add_backup()
    world.drive()
    world.cluster.delete(DISK_BACKUP, "run", SHOP)
    world.clock.advance(minutes=5)
    world.add_backup()
    world.drive()
    assert world.backup().status.adopted and disk(world, STATE).content == "Archive"


def test_a_state_of_blocks_is_no_failure_of_the_disks_but_told(world: BackupWorld) -> None:
    operation = {"op": "replace", "path": "/spec/volumeMode", "value": "Block"}
    world.cluster.patch(PERSISTENT_VOLUME_CLAIM, CLAIM, [operation], SHOP)
    world.add_backup()
    world.drive()
    assert world.backup().status.phase == "Completed"
    assert (disk(world, STATE).phase, disk(world, STATE).reason) == ("Unsupported", "StateNotFiles")
    assert STATE in world.condition().message


# Restores


def with_backup(**more: Any) -> Any:
    world = shop()
    state = disk_of(STATE, **GOOD | more)
    add_backup(world, "whole", [disk_of("data"), state | {"claim": {"name": CLAIM, "uid": "u"}}])
    return world


def wish(**more: Any) -> dict[str, Any]:
    source = {"diskBackup": {"name": "whole", "disk": STATE}}
    return {"source": source, "claim": {"name": "db-restored"}} | more


@pytest.mark.parametrize(("asked", "size"), [({}, "10Mi"), ({"size": "64Mi"}, "64Mi")])
def test_the_state_is_restored_as_files_into_a_claim_of_the_old_ones_size(asked: dict[str, str], size: str) -> None:
    world = with_backup()
    told: list[Any] = []
    mover: Any = world.storage.run_job

    def seen(job: Object, content: str | None) -> Any:
        told.append(mover._told(job))
        return mover(job, content)

    world.storage.run_job = seen
    world.add_restore("r", wish(claim={"name": "db-restored"} | asked))
    run(world)
    assert status(world)["phase"] == "Completed", status(world)
    assert (status(world)["content"], status(world)["volumeMode"]) == ("Archive", "Filesystem")
    assert world.storage.claim(SHOP, "db-restored")["spec"]["resources"]["requests"]["storage"] == size
    assert (told[0]["content"], told[0]["manifest"], told[0]["objectId"]) == ("Archive", MANIFEST, OBJECT_ID)
    # There is no disk image that could be made larger.
    assert "targetSize" not in told[0]


def test_the_state_is_not_attached_and_the_message_says_what_to_do() -> None:
    world = with_backup()
    world.add_restore("r", wish(attach={"virtualMachine": "db", "diskName": "state"}))
    assert reconcile(world.context(), SHOP, "r") is None
    assert status(world)["phase"] == "Failed" and world.reason(RESTORE, "r", "Stalled") == "NotADisk"
    assert "without attach" in message(world) and STATE_LABEL in message(world)
    untouched(world)
