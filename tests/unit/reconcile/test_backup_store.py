"""BackupStore: each way in which it can be unusable is a condition; named by the failures that each test prevents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from longboat.kube.kinds import BACKUP_STORE, NAMESPACE, SECRET
from longboat.plan.conditions import find
from longboat.reconcile import backup_store
from longboat.reconcile.repositories import StoreProblemError
from longboat.reconcile.store_access import StoreAccess
from longboat.repository import (
    Rights,
    StoreCheck,
    StoreProblem,
    StoreSettings,
    generate_recovery_pair,
    generate_store_key,
)
from tests.unit.reconcile.policy_world import STORE_SPEC, SYSTEM, FolderRepositories, World

PEM = "-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n"


@dataclass
class Checks:
    """Stands in for the check of the store itself."""

    answer: StoreCheck = field(default_factory=lambda: StoreCheck(StoreProblem.NONE, "works", timedelta(seconds=2)))
    seen: list[StoreSettings] = field(default_factory=list)

    bad: dict[Rights, StoreCheck] = field(default_factory=dict)
    rights: list[tuple[Rights, str]] = field(default_factory=list)

    def __call__(self, settings: StoreSettings, now: datetime, rights: Rights) -> StoreCheck:
        self.seen.append(settings)
        self.rights.append((rights, settings.access_key_id))
        return self.bad.get(rights, self.answer)


@pytest.fixture
def checks() -> Checks:
    return Checks()


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(repositories=FolderRepositories(str(tmp_path)))
    world.add_secret("offsite-s3", accessKeyID="me", secretAccessKey="hidden-secret\n")
    world.add_secret("offsite-key", key=generate_store_key())
    return world


def look(world: World, checks: Checks, name: str = "offsite") -> timedelta | None:
    return backup_store.reconcile(world.context(), "", name, check=checks)


def condition(world: World, type_: str = "Available", name: str = "offsite") -> tuple[str, str, str]:
    found = find(world.store(name).status.conditions, type_)
    assert found is not None, world.store(name).status.conditions
    return found.status, found.reason, found.message


def test_a_store_that_works_says_so_and_is_tried_out_again(world: World, checks: Checks) -> None:
    world.add_store()
    assert look(world, checks) == timedelta(minutes=5)
    assert condition(world)[:2] == ("True", "Available")
    assert condition(world, "Ready")[:2] == ("True", "Available")
    assert world.store().status.available == "Yes"
    assert world.store().status.clock_skew_seconds == 2
    assert checks.seen[0].secret_access_key == "hidden-secret"
    # Its own status write comes back as an event: that is no reason to try the store out again.
    assert look(world, checks) == timedelta(minutes=5)
    assert len(checks.seen) == 1
    world.clock.by(minutes=5)
    look(world, checks)
    assert len(checks.seen) == 2


def test_an_edited_store_is_tried_out_at_once(world: World, checks: Checks) -> None:
    world.add_store()
    look(world, checks)
    world.cluster.patch(BACKUP_STORE, "offsite", [{"op": "replace", "path": "/spec/s3/bucket", "value": "other"}])
    look(world, checks)
    assert [each.bucket for each in checks.seen] == ["backups", "other"]


def without(secret: str, **data: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        world.cluster.delete(SECRET, secret, SYSTEM)
        if data:
            world.add_secret(secret, **data)

    return change


BAD: list[tuple[str, Callable[[World], None], dict[str, Any], str, str]] = [
    ("no secret", without("offsite-s3"), {}, "CredentialsNotFound", "spec.credentialsSecretRef.name"),
    ("half a secret", without("offsite-s3", accessKeyID="a"), {}, "CredentialsIncomplete", "secretAccessKey"),
    (
        "misspelt",
        without("offsite-s3", accessKeyId="a", secretkey="b"),
        {},
        "CredentialsIncomplete",
        "accessKeyId, secretkey",
    ),
    ("no key", without("offsite-key"), {}, "KeyNotFound", "spec.encryption.keySecretRef.name"),
    ("other key", without("offsite-key", other="x"), {}, "KeyNotFound", "Its keys: other"),
    ("bad key", without("offsite-key", key="hunter2"), {}, "KeyInvalid", "longboat key generate"),
    ("no CA", lambda world: None, {"caBundleRef": {"name": "ca"}}, "CABundleNotFound", "spec.s3.caBundleRef.name"),
    ("address", lambda world: None, {"endpoint": "https://169.254.169.254"}, "InvalidSettings", "link-local"),
    ("number", lambda world: None, {"endpoint": "https://2852039166"}, "InvalidSettings", "link-local"),
    ("loopback", lambda world: None, {"endpoint": "https://LOCALHOST:9000"}, "InvalidSettings", "loopback"),
]


@pytest.mark.parametrize(("change", "s3", "reason", "words"), [each[1:] for each in BAD], ids=[each[0] for each in BAD])
def test_what_the_store_lacks_is_named_with_field_and_remedy(
    world: World, checks: Checks, change: Callable[[World], None], s3: dict[str, Any], reason: str, words: str
) -> None:
    change(world)
    world.add_store(s3=STORE_SPEC["s3"] | s3)
    assert look(world, checks) == timedelta(seconds=30)
    assert condition(world)[:2] == ("False", reason)
    assert condition(world, "Ready")[:2] == ("False", reason)
    assert words in condition(world)[2]
    assert world.store().status.available == reason
    assert checks.seen == []
    assert "hidden-secret" not in world.store().model_dump_json()


def test_a_ca_bundle_that_is_none_is_refused(world: World, checks: Checks) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ca", "namespace": SYSTEM}}
    world.cluster.create(body | {"data": {"ca.crt": "nothing", "good": PEM}})
    world.add_store(s3=STORE_SPEC["s3"] | {"caBundleRef": {"name": "ca"}})
    look(world, checks)
    assert condition(world)[1] == "CABundleInvalid"
    world.add_store("good", s3=STORE_SPEC["s3"] | {"caBundleRef": {"name": "ca", "key": "good"}})
    look(world, checks, "good")
    assert checks.seen[0].ca_pem == PEM


@pytest.mark.parametrize(
    ("problem", "stalled"),
    [
        (StoreProblem.UNREACHABLE, False),
        (StoreProblem.FAILURE, False),
        (StoreProblem.CREDENTIALS, True),
        (StoreProblem.BUCKET, True),
        (StoreProblem.TLS, True),
        (StoreProblem.CREATE_ONLY, True),
        (StoreProblem.CLOCK, True),
    ],
)
def test_what_a_store_refuses_is_a_condition_and_heals_by_itself(
    world: World, checks: Checks, problem: StoreProblem, stalled: bool
) -> None:
    world.add_store()
    good = checks.answer
    checks.answer = StoreCheck(problem, "do this and that")
    look(world, checks)
    assert condition(world)[:2] == ("False", str(problem))
    assert (find(world.store().status.conditions, "Stalled") is not None) == stalled
    checks.answer = good
    world.clock.by(seconds=30)
    look(world, checks)
    assert condition(world)[:2] == ("True", "Available")
    assert find(world.store().status.conditions, "Stalled") is None


def test_a_wrong_key_is_found_before_any_backup_needs_it(world: World, checks: Checks) -> None:
    world.add_store()
    look(world, checks)
    world.repositories.key = bytes(32)
    world.clock.by(minutes=5)
    look(world, checks)
    assert condition(world)[:2] == ("False", "WrongKey")
    assert condition(world, "Stalled")[0] == "True"


@pytest.mark.parametrize("reason", ["RepositoryDamaged", "Damaged", "UnsupportedFormat"])
def test_repository_that_only_the_key_is_tried_out_with_holds_up_no_other_one(
    world: World, checks: Checks, reason: str
) -> None:
    world.add_store()
    world.repositories.problem = StoreProblemError(reason, "c/uid/header: no such thing", retryable=False)
    assert look(world, checks) == timedelta(minutes=5)
    assert (world.store().status.available, world.store().status.writable) == ("Yes", True)
    assert condition(world)[:2] == condition(world, "Ready")[:2] == ("True", "Available")
    assert condition(world, "KeyNotTried")[0] == "True" and "c/uid/header" in condition(world, "KeyNotTried")[2]
    world.repositories.problem = None
    world.clock.by(minutes=5)
    look(world, checks)
    assert find(world.store().status.conditions, "KeyNotTried") is None


def test_standing_warnings_come_and_go(world: World, checks: Checks) -> None:
    world.set(location="lon-1")
    pair = generate_recovery_pair()
    world.add_store(location="lon-1")
    look(world, checks)
    assert condition(world, "SameSite")[0] == "True"
    assert "longboat key generate --recovery" in condition(world, "NoRecoveryRecipient")[2]
    changes = [
        {"op": "replace", "path": "/spec/location", "value": "lon-2"},
        {"op": "add", "path": "/spec/encryption/recoveryRecipient", "value": pair.public},
    ]
    world.cluster.patch(BACKUP_STORE, "offsite", changes)
    look(world, checks)
    types = {each.type for each in world.store().status.conditions or ()}
    assert types == {"Available", "Ready"}


def test_two_default_stores_both_say_so_and_neither_stops_working(world: World, checks: Checks) -> None:
    for name in ("one", "two"):
        world.add_store(name)
    look(world, checks, "one")
    look(world, checks, "two")
    for name in ("one", "two"):
        assert "one, two" in condition(world, "SeveralDefaults", name)[2]
        assert condition(world, "Available", name)[0] == "True"
    world.cluster.delete(BACKUP_STORE, "two")
    look(world, checks, "one")
    assert find(world.store("one").status.conditions, "SeveralDefaults") is None


def test_repositories_are_opened_with_the_secrets_of_now(world: World) -> None:
    world.add_store()
    access = StoreAccess(world.cluster, world.settings)
    first = access.store_key(world.store())
    without("offsite-key", key=generate_store_key())(world)
    assert access.store_key(world.store()) != first


def test_without_an_identity_of_the_cluster_nothing_is_opened(world: World) -> None:
    world.add_store()
    world.set(cluster_id="")
    with pytest.raises(StoreProblemError) as caught:
        StoreAccess(world.cluster, world.settings).open(world.store(), "uid")
    assert caught.value.reason == "ClusterUnknown"


def test_a_misspelt_recovery_recipient_is_told(world: World) -> None:
    encryption = STORE_SPEC["encryption"] | {"recoveryRecipient": "longboat-recovery-public-1-x"}
    world.add_store(encryption=encryption)
    namespace = world.cluster.get(NAMESPACE, SYSTEM)
    assert namespace is not None
    with pytest.raises(StoreProblemError) as caught:
        StoreAccess(world.cluster, world.settings).open(world.store(), namespace["metadata"]["uid"])
    assert caught.value.reason == "RecoveryRecipientInvalid"
