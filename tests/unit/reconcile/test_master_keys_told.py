"""MasterKeysRenewed is True when all is listed, noted and renewed; no namespace's own problem holds up another's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from longboat.kube.kinds import CONFIG_MAP
from longboat.plan.conditions import find
from longboat.plan.maintenance import record_of
from longboat.reconcile import maintenance, maintenance_records, master_keys
from longboat.reconcile.repositories import StoreProblemError
from tests.unit.reconcile.backup_world import SHOP, SYSTEM
from tests.unit.reconcile.maintenance_world import refused, world_in
from tests.unit.reconcile.test_declared_master_keys import ask, generations, said
from tests.unit.reconcile.upkeep_world import STORE, UpkeepWorld

DONE = ("True", "MasterKeysRenewed", 1, 0)
BAD = "00000000-0000-4000-8000-00000000000{}"
"""UIDs that come before those of other namespaces, so that they are looked at first."""


@pytest.fixture
def world(tmp_path: Path) -> UpkeepWorld:
    """A backup under the first key, of whose repository nothing is noted yet."""
    world = world_in(tmp_path)
    world.ask(prune={"suspend": True}, verify={"suspend": True})
    world.clock.moment = datetime.now(UTC) + timedelta(minutes=5)
    return world


def message(world: UpkeepWorld) -> str:
    condition = find(world.store().status.conditions, "MasterKeysRenewed")
    assert condition is not None
    return condition.message


def later(world: UpkeepWorld) -> None:
    world.clock.advance(minutes=10)
    world.until_idle()


def test_a_store_that_does_not_tell_what_is_in_it_is_not_called_renewed(
    world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(world)
    with monkeypatch.context() as patched:
        patched.setattr(UpkeepWorld, "_inside", refused)
        world.look()
    assert said(world) == ("Unknown", "NotListed", 0, 0) and "does not tell" in message(world)
    assert generations(world) == (1,)
    later(world)
    assert said(world) == DONE and generations(world) == (1, 2)


def test_those_that_are_known_are_not_called_all_while_the_store_does_not_tell(
    world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.until_idle()
    ask(world)
    monkeypatch.setattr(UpkeepWorld, "_inside", refused)
    world.until_idle()
    assert said(world) == ("Unknown", "NotListed", 1, 0) and generations(world) == (1, 2)


@pytest.mark.parametrize("hiccup", [True, False])
def test_a_namespace_of_which_nothing_is_noted_yet_waits_for_its_key(
    world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch, hiccup: bool
) -> None:
    ask(world)
    with monkeypatch.context() as patched:
        if hiccup:
            patched.setattr(world.repositories, "problem", StoreProblemError("StoreFailure", "503"))
        else:
            patched.setattr(maintenance, "NEW_AT_ONCE", 0)
        world.look()
    assert said(world) == ("False", "Renewing", 0, 1) and SHOP in message(world)
    later(world)
    assert said(world) == DONE


def test_a_newest_repository_of_which_nothing_is_noted_yet_is_not_passed_over(
    world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.until_idle()
    world.repositories.rotate(world.uid())
    ask(world)
    with monkeypatch.context() as patched:
        patched.setattr(maintenance, "NEW_AT_ONCE", 0)
        world.look()
    assert said(world) == ("False", "Renewing", 0, 1) and generations(world) == (1, 2)
    later(world)
    assert said(world) == DONE and generations(world) == (1, 2, 3)


def fail_for(world: UpkeepWorld, uids: set[str], problem: StoreProblemError, patched: pytest.MonkeyPatch) -> list[str]:
    """Let these namespaces' repositories fail; return the UIDs that are asked for."""
    asked, find_ = list[str](), world.repositories.find

    def failing(store: Any, uid: str, *rest: Any, **more: Any) -> Any:
        asked.append(uid)
        if uid in uids:
            raise problem
        return find_(store, uid, *rest, **more)

    patched.setattr(world.repositories, "find", failing)
    return asked


def known(world: UpkeepWorld, uids: set[str]) -> tuple[dict[str, Any], dict[str, str]]:
    ctx, names = world.context(), {world.uid(): SHOP} | {uid: f"bad-{uid[-1]}" for uid in uids}
    records = [record_of(uid, STORE, names, ctx.now().replace(microsecond=0)) for uid in names]
    return {each.folder: maintenance_records.add(ctx, each) for each in records}, names


@pytest.mark.parametrize("reason", ["GenerationConflict", "CredentialsNotFound", "StoreFailure"])
def test_a_namespaces_own_problem_that_passes_holds_up_no_other_one(
    world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    bad = {BAD.format(1)}
    records, names = known(world, bad)
    ask(world)
    fail_for(world, bad, StoreProblemError(reason, "its own"), monkeypatch)
    _, renewal = master_keys.renew_all(world.context(), world.store(), records, names)
    assert renewal is not None and (renewal.renewed, renewal.pending) == (1, ("bad-1",))
    assert generations(world) == (1, 2) and renewal.stale == (reason == "GenerationConflict")


def test_a_store_that_fails_for_several_is_not_asked_for_all(
    world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = {BAD.format(n) for n in range(1, 8)}
    records, names = known(world, bad)
    ask(world)
    asked = fail_for(world, bad, StoreProblemError("StoreUnreachable", "no answer"), monkeypatch)
    _, renewal = master_keys.renew_all(world.context(), world.store(), records, names)
    assert renewal is not None and renewal.renewed == 0 and len(renewal.pending) == 8 and len(asked) == 3


def test_a_new_namespaces_own_problem_keeps_no_other_one_from_being_noted(
    world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = BAD.format(1)
    world.repositories.repository(bad)
    fail_for(world, {bad}, StoreProblemError("CredentialsNotFound", "its own"), monkeypatch)
    ask(world)
    world.until_idle()
    assert generations(world) == (1, 2)
    assert not [each for each in world.cluster.list(CONFIG_MAP, SYSTEM) if each["data"].get("namespaceUID") == bad]


def test_other_repositories_than_were_listed_are_listed_anew(
    world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.until_idle()
    ask(world)
    conflict = StoreProblemError("GenerationConflict", "the newest is number 7")
    with monkeypatch.context() as patched:
        fail_for(world, {world.uid()}, conflict, patched)
        world.look()
    assert said(world)[:2] == ("False", "RenewalFailed") and world.memory[STORE].listed is None
    later(world)
    assert said(world) == DONE
