"""What only administrators may see of stores is told in no object of a namespace."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from longboat.plan.problem import Problem
from longboat.reconcile.repositories import StoreProblemError
from longboat.reconcile.store_access import StoreAccess
from longboat.reconcile.store_choice import store_for
from tests.unit.reconcile.backup_world import BackupWorld
from tests.unit.reconcile.policy_world import SHOP, SYSTEM, World

CLOSED: dict[str, Any] = {"allowedNamespaces": {"matchLabels": {"team": "other"}}}


@pytest.mark.parametrize("defaults", [0, 2])
@pytest.mark.parametrize("name", [None, "missing"])
def test_stores_that_are_not_open_to_a_namespace_are_not_named_there(defaults: int, name: str | None) -> None:
    world = World()
    for count, each in enumerate(("closed-one", "closed-two")):
        world.add_store(each, default=count < defaults, **CLOSED)
    world.add_store("open", default=False)
    found = store_for(world.cluster, SHOP, name)
    assert isinstance(found, Problem)
    assert "closed" not in found.message and "nown: open" in found.message.replace("stores: ", "nown: ")


def test_secrets_of_the_operator_are_not_named_in_a_backup(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    world = BackupWorld(folder=tmp_path)
    world.add_policy("daily")
    world.add_backup()
    world.repositories = StoreAccess(world.cluster, world.settings)
    with caplog.at_level(logging.WARNING):
        world.reconcile()
    stalled = world.condition("Stalled")
    assert stalled.reason == "CredentialsNotFound" and "'offsite'" in stalled.message
    assert "Secret '" not in stalled.message and SYSTEM not in stalled.message
    assert "Secret 's3'" in caplog.text


def test_what_users_can_act_on_is_told(tmp_path: Path) -> None:
    world = BackupWorld(folder=tmp_path)
    world.add_policy("daily")
    world.add_backup()
    world.repositories.problem = StoreProblemError("StoreUnreachable", "no route")
    world.reconcile()
    assert world.condition("Stalled").message == "BackupStore 'offsite': no route"
