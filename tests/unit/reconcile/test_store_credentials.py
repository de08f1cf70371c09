"""Whose credentials are used for what: none is given more than its purpose needs, and what lacks is named."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from longboat.kube.kinds import SECRET
from longboat.plan.conditions import find
from longboat.reconcile import backup_store, store_access
from longboat.reconcile.repositories import Purpose, StoreProblemError
from longboat.reconcile.store_access import StoreAccess
from longboat.repository import Patience, RepositoryError, StoreCheck, StoreProblem, StoreSettings, generate_store_key
from tests.unit.reconcile.policy_world import STORE_SPEC, SYSTEM, FolderRepositories, World
from tests.unit.reconcile.test_backup_store import Checks

OWN: dict[str, Any] = {
    "restoreCredentialsSecretRef": {"name": "offsite-read"},
    "maintenanceCredentialsSecretRef": {"name": "offsite-maintenance"},
}
GOOGLE_KEY = json.dumps({"client_email": "a@b", "private_key": "hidden-secret"})


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(repositories=FolderRepositories(str(tmp_path)))
    for name in ("offsite-s3", "offsite-read", "offsite-maintenance"):
        world.add_secret(name, accessKeyID=name, secretAccessKey="hidden-secret")
    world.add_secret("offsite-key", key=generate_store_key())
    return world


def settings(world: World, purpose: Purpose = "export", namespace: str = "shop", **spec: Any) -> StoreSettings:
    world.add_store(**spec)
    return StoreAccess(world.cluster, world.settings).settings_of(world.store(), purpose, namespace)


def problem(world: World, purpose: Purpose = "export", namespace: str = "shop", **spec: Any) -> StoreProblemError:
    with pytest.raises(StoreProblemError) as caught:
        settings(world, purpose, namespace, **spec)
    assert "hidden-secret" not in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("purpose", "name"),
    [("export", "offsite-s3"), ("restore", "offsite-read"), ("maintenance", "offsite-maintenance")],
)
def test_each_purpose_uses_its_own_credentials(world: World, purpose: Purpose, name: str) -> None:
    assert settings(world, purpose, **OWN).access_key_id == name


@pytest.mark.parametrize("purpose", ["restore", "maintenance"])
def test_a_store_with_one_secret_uses_it_for_everything(world: World, purpose: Purpose) -> None:
    assert settings(world, purpose).access_key_id == "offsite-s3"


def test_missing_credentials_of_a_purpose_are_never_replaced_by_others(world: World) -> None:
    found = problem(world, "restore", restoreCredentialsSecretRef={"name": "nowhere"})
    assert found.reason == "CredentialsNotFound"
    assert "spec.restoreCredentialsSecretRef.name" in found.message


@pytest.mark.parametrize(
    ("mode", "namespace", "purpose", "name"),
    [
        ("Ignored", "shop", "export", "offsite-s3"),
        ("Optional", "shop", "export", "own-write"),
        ("Optional", "shop", "restore", "own-read"),
        ("Optional", "other", "export", "offsite-s3"),
        ("Required", "shop", "restore", "own-read"),
        ("Required", "shop", "maintenance", "offsite-maintenance"),
        ("Required", "", "export", "offsite-s3"),
    ],
)
def test_a_namespace_may_have_credentials_of_its_own(
    world: World, mode: str, namespace: str, purpose: Purpose, name: str
) -> None:
    world.add_secret("offsite-s3.shop", accessKeyID="own-write", secretAccessKey="hidden-secret")
    world.add_secret("offsite-read.shop", accessKeyID="own-read", secretAccessKey="hidden-secret")
    assert settings(world, purpose, namespace, namespaceCredentials=mode, **OWN).access_key_id == name


def test_a_namespace_without_required_credentials_gets_nobody_elses(world: World) -> None:
    found = problem(world, namespaceCredentials="Required")
    assert found.reason == "CredentialsNotFound"
    assert "'offsite-s3.shop'" in found.message and SYSTEM in found.message


def test_half_a_secret_of_a_namespace_is_named(world: World) -> None:
    world.add_secret("offsite-s3.shop", accessKeyID="own-write")
    found = problem(world, namespaceCredentials="Optional")
    assert found.reason == "CredentialsIncomplete"
    assert "'offsite-s3.shop'" in found.message and "secretAccessKey" in found.message


def test_google_is_reached_with_the_key_that_is_documented(world: World) -> None:
    world.add_secret("google", serviceAccountKey=GOOGLE_KEY)
    found = settings(world, s3=None, gcs={"bucket": "backups", "prefix": "p"}, credentialsSecretRef={"name": "google"})
    assert (found.type, found.url, found.service_account_key) == ("gcs", "gs://backups/p", GOOGLE_KEY)


@pytest.mark.parametrize(
    ("data", "field", "value"),
    [
        ({"accountKey": "hidden"}, "account_key", "hidden"),
        ({"sasToken": "sp=rcl&sig=hidden\n"}, "sas_token", "sp=rcl&sig=hidden"),
        ({"tenantID": "t", "clientID": "c", "clientSecret": "hidden"}, "client_secret", "hidden"),
    ],
)
def test_azure_is_reached_with_the_keys_that_are_documented(
    world: World, data: dict[str, str], field: str, value: str
) -> None:
    world.add_secret("azure", **data)
    azure = {"storageAccount": "longboat", "container": "backups"}
    found = settings(world, s3=None, azure=azure, credentialsSecretRef={"name": "azure"})
    assert (found.url, getattr(found, field)) == ("azure://longboat/backups", value)


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        ({"other": "x"}, "CredentialsIncomplete", "sasToken"),
        ({"tenantID": "t", "clientID": "c"}, "CredentialsIncomplete", "clientSecret"),
        ({"accountKey": "a", "sasToken": "s"}, "InvalidSettings", "exactly one"),
    ],
)
def test_unclear_credentials_of_azure_are_refused(world: World, data: dict[str, str], reason: str, words: str) -> None:
    world.add_secret("azure", **data)
    azure = {"storageAccount": "longboat", "container": "backups"}
    found = problem(world, s3=None, azure=azure, credentialsSecretRef={"name": "azure"})
    assert (found.reason, words in found.message) == (reason, True), found.message


def test_a_file_that_is_no_key_of_google_is_named_without_its_content(world: World) -> None:
    world.add_secret("google", serviceAccountKey="hidden-secret")
    found = problem(world, s3=None, gcs={"bucket": "backups"}, credentialsSecretRef={"name": "google"})
    assert (found.reason, "spec.gcs" in found.message) == ("InvalidSettings", True)


def test_versions_are_removed_by_maintenance_and_read_by_restores_alone(world: World) -> None:
    lock = {"mode": "Governance", "days": 30}
    s3 = STORE_SPEC["s3"] | {"deleteVersions": True, "readVersions": "Oldest", "objectLock": lock}
    world.add_store(s3=s3)
    access = StoreAccess(world.cluster, world.settings)
    purposes: tuple[Purpose, ...] = ("export", "restore", "maintenance")
    found = [access.settings_of(world.store(), purpose) for purpose in purposes]
    assert [(each.delete_versions, each.read_versions, each.lock_days) for each in found] == [
        (False, "Latest", 0),
        (False, "Oldest", 0),
        (True, "Latest", 30),
    ]


def test_a_store_that_does_not_answer_keeps_a_worker_for_a_minute_at_most(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Patience] = []

    def opened(settings: StoreSettings, patience: Patience) -> None:
        asked.append(patience)
        raise RepositoryError("no answer")

    monkeypatch.setattr(store_access, "open_store", opened)
    world.add_store()
    with pytest.raises(StoreProblemError):
        StoreAccess(world.cluster, world.settings).find(world.store(), "uid")
    with pytest.raises(RepositoryError):
        # As the looks at its locks and at its repositories do.
        store_access.folders(StoreAccess(world.cluster, world.settings).settings_of(world.store()), "cluster/")
    assert len(asked) == 2
    for patience in asked:
        assert patience.retry_for + patience.request <= 60 and patience.connect < Patience().connect


def test_all_credentials_are_tried_out_and_removing_once_for_each_change(world: World) -> None:
    checks = Checks()
    world.add_store(**OWN)
    backup_store.reconcile(world.context(), "", "offsite", check=checks)
    both = [("create", "offsite-s3"), ("read", "offsite-read")]
    assert checks.rights == [*both, ("remove", "offsite-maintenance")]
    assert world.store().status.url == f"s3://{STORE_SPEC['s3']['bucket']}"
    checks.rights.clear()
    world.clock.by(minutes=5)
    backup_store.reconcile(world.context(), "", "offsite", check=checks)
    assert checks.rights == [*both, ("read", "offsite-maintenance")]


def test_credentials_that_fail_are_named_by_their_field_and_heal(world: World) -> None:
    checks = Checks()
    checks.bad["remove"] = StoreCheck(StoreProblem.DENIED, "may not delete")
    world.add_store(**OWN)
    for _ in range(2):
        assert backup_store.reconcile(world.context(), "", "offsite", check=checks) == timedelta(seconds=30)
        found = find(world.store().status.conditions, "Available")
        assert found is not None and (found.status, found.reason) == ("False", "AccessDenied")
        assert found.message == "spec.maintenanceCredentialsSecretRef: may not delete"
        assert checks.rights[-1] == ("remove", "offsite-maintenance")
        world.clock.by(seconds=30)
    checks.bad.clear()
    assert backup_store.reconcile(world.context(), "", "offsite", check=checks) == timedelta(minutes=5)


@pytest.mark.parametrize("purpose", ["restore", "maintenance"])
def test_a_missing_secret_of_a_purpose_is_told_once_by_its_field_and_names_no_bad_exports(
    world: World, purpose: str
) -> None:
    field = f"{purpose}CredentialsSecretRef"
    world.add_store(**OWN | {field: {"name": "nowhere"}})
    backup_store.reconcile(world.context(), "", "offsite", check=Checks())
    found = find(world.store().status.conditions, "Available")
    assert found is not None and (found.status, found.reason) == ("False", "CredentialsNotFound")
    assert found.message.startswith(f"spec.{field}.name: there is no") and found.message.count(field) == 1
    assert (world.store().status.writable, world.store().status.clock_skew_seconds) == (True, 2)


NO_SECRET: dict[str, str] = {}


@pytest.mark.parametrize(
    ("secret", "bad", "reason"),
    [
        (None, None, "CredentialsNotFound"),
        (NO_SECRET, None, "CredentialsIncomplete"),
        ({"accessKeyID": "a", "secretAccessKey": "b"}, StoreProblem.DENIED, "AccessDenied"),
        ({"accessKeyID": "a", "secretAccessKey": "b"}, StoreProblem.CREDENTIALS, "WrongCredentials"),
    ],
)
def test_store_whose_namespaces_all_have_credentials_of_their_own_is_not_called_unavailable_for_want_of_others(
    world: World, secret: dict[str, str] | None, bad: StoreProblem | None, reason: str
) -> None:
    checks = Checks()
    world.cluster.delete(SECRET, "offsite-s3", SYSTEM)
    if secret is not None:
        world.add_secret("offsite-s3", **secret)
    if bad is not None:
        checks.answer = StoreCheck(bad, "may not")
    world.add_store(namespaceCredentials="Required")
    assert backup_store.reconcile(world.context(), "", "offsite", check=checks) == timedelta(seconds=30)
    found = find(world.store().status.conditions, "Available")
    assert found is not None and (found.status, found.reason) == ("Unknown", reason)
    assert "credentials of their namespaces" in found.message and "neither verified nor pruned" in found.message
    assert (world.store().status.available, world.store().status.writable) == (reason, None)
    ready = find(world.store().status.conditions, "Ready")
    assert ready is not None and (ready.status, ready.reason) == ("False", reason)


def test_what_is_wrong_with_the_store_itself_is_told_whosever_the_credentials_are(world: World) -> None:
    checks = Checks(StoreCheck(StoreProblem.BUCKET, "there is no such bucket"))
    world.add_store(namespaceCredentials="Required")
    backup_store.reconcile(world.context(), "", "offsite", check=checks)
    found = find(world.store().status.conditions, "Available")
    assert found is not None and (found.status, found.reason) == ("False", "BucketNotFound")
    assert world.store().status.writable is False


def test_secret_of_restores_that_no_restore_uses_need_not_be_there(world: World) -> None:
    world.cluster.delete(SECRET, "offsite-read", SYSTEM)
    world.add_store(**OWN, namespaceCredentials="Required")
    backup_store.reconcile(world.context(), "", "offsite", check=Checks())
    assert world.store().status.available == "Yes"


def test_credentials_of_a_purpose_that_are_none_are_told_by_its_field(world: World) -> None:
    world.add_secret("google", serviceAccountKey=GOOGLE_KEY)
    world.add_secret("google-read", serviceAccountKey="hidden-secret")
    names = {"credentialsSecretRef": {"name": "google"}, "restoreCredentialsSecretRef": {"name": "google-read"}}
    world.add_store(s3=None, gcs={"bucket": "backups"}, **names)
    backup_store.reconcile(world.context(), "", "offsite", check=Checks())
    found = find(world.store().status.conditions, "Available")
    assert found is not None and found.reason == "InvalidSettings"
    assert found.message.startswith("spec.restoreCredentialsSecretRef: spec.gcs") and "hidden" not in found.message
    assert world.store().status.writable


def test_a_missing_secret_of_exports_is_never_called_writable(world: World) -> None:
    world.cluster.delete(SECRET, "offsite-s3", SYSTEM)
    world.add_store(**OWN)
    backup_store.reconcile(world.context(), "", "offsite", check=Checks())
    assert world.store().status.writable is False
