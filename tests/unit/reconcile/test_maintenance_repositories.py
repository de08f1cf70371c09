"""Which repositories of a store are pruned and verified, and what is said where the store does not tell."""

from __future__ import annotations

import pytest

from longboat.plan import maintenance as plan
from longboat.plan.conditions import find
from longboat.reconcile.maintenance_records import add, all_records
from longboat.reconcile.repositories import StoreProblemError
from longboat.repository import StoreSettings, open_or_create_repository, open_store
from longboat.repository.errors import AccessDeniedError
from tests.unit.reconcile.backup_world import SYSTEM
from tests.unit.reconcile.maintenance_world import GONE, VERIFY, refused, request, world
from tests.unit.reconcile.upkeep_world import STORE, UpkeepWorld

__all__ = ["world"]


def test_the_operators_own_repository_is_left_alone_and_those_of_gone_namespaces_are_not(world: UpkeepWorld) -> None:
    world.repositories.repository(world.uid(SYSTEM))
    world.repositories.repository(GONE)
    world.pass_a_day()
    assert {told.repository_path for _, told in world.runs} == {f"cluster/{world.uid()}", f"cluster/{GONE}"}
    assert world.record(GONE).namespace == ""


def test_a_store_that_does_not_tell_what_is_in_it_says_so(world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: UpkeepWorld, settings: StoreSettings, path: str) -> list[str]:
        raise AccessDeniedError("may not list")

    before = UpkeepWorld._inside
    monkeypatch.setattr(UpkeepWorld, "_inside", refuse)
    world.look()
    assert world.store_condition("Verified") == world.store_condition("Pruned") == ("Unknown", "NotListed")
    monkeypatch.setattr(UpkeepWorld, "_inside", before)
    world.clock.advance(minutes=5)
    world.look()
    assert world.store_condition("Verified") == ("Unknown", "NotYet")
    # What is known is seen to by an operator that starts anew, too.
    monkeypatch.setattr(UpkeepWorld, "_inside", refuse)
    world.memory = {}
    world.pass_a_day()
    assert len(world.runs) == 2


def test_a_request_is_for_the_repositories_that_are_there_now(world: UpkeepWorld) -> None:
    world.look()
    world.repositories.repository(GONE)
    request(world, VERIFY)
    assert {told.repository_path for _, told in world.runs} == {f"cluster/{world.uid()}", f"cluster/{GONE}"}


def test_a_repository_that_was_removed_from_the_bucket_is_known_as_missing_until_it_is_back(world: UpkeepWorld) -> None:
    world.repositories.repository(GONE)
    world.pass_a_day()
    assert world.record(GONE).missing is None
    place = world.folder / "store" / "cluster" / GONE
    place.rename(world.folder / "aside")
    world.clock.advance(hours=2)
    world.until_idle()
    assert world.record(GONE).missing is not None and world.record().missing is None
    # Who can't see the bucket learns nothing of what is in it.
    world.memory.clear()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(UpkeepWorld, "_inside", refused)
        world.until_idle()
    assert world.record(GONE).missing is not None and world.record().missing is None
    (world.folder / "aside").rename(place)
    world.memory.clear()
    world.until_idle()
    assert world.record(GONE).missing is None


@pytest.mark.parametrize("name", ["lost+found", "a b", "größer", ".trash", "shop", GONE.upper()])
def test_a_folder_that_is_no_namespaces_stops_no_upkeep(world: UpkeepWorld, name: str) -> None:
    """Some of these names are refused by everything that opens repositories."""
    (world.folder / "store" / "cluster" / name).mkdir()
    world.pass_a_day()
    assert sorted(work for work, _ in world.runs) == ["prune", "verify"]
    assert [each.namespace_uid for each in all_records(world.cluster, SYSTEM)] == [world.uid()]
    assert world.store_condition("Pruned") == ("True", "Pruned")
    assert world.store_condition("Verified") == ("True", "Verified")


def test_a_record_of_a_name_that_is_refused_is_passed_over_while_the_bucket_does_not_tell(
    world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(world.context(), plan.RepositoryRecord(store=STORE, namespace="", namespace_uid="a b", seen=world.clock()))
    monkeypatch.setattr(UpkeepWorld, "_inside", refused)
    world.pass_a_day()
    assert world.record("a b").prune.number == world.record("a b").verify.number == 0


def test_a_folder_without_a_repository_is_not_noted_down_and_fails_no_run(world: UpkeepWorld) -> None:
    """Nobody could take the record away again, and the whole store would be called failing for ever."""
    (world.folder / "store" / "cluster" / GONE / "packs").mkdir(parents=True)
    world.pass_a_day()
    assert [each.namespace_uid for each in all_records(world.cluster, SYSTEM)] == [world.uid()]
    assert world.store_condition("Verified") == ("True", "Verified")
    world.repositories.repository(GONE)
    for _ in range(2):
        world.pass_a_day()
    assert world.record(GONE).verify.ended is not None


def test_a_repository_that_can_not_be_opened_is_noted_down_and_told(world: UpkeepWorld) -> None:
    place = open_store(StoreSettings(type="folder", path=str(world.folder / "store")))
    open_or_create_repository(place, f"cluster/{GONE}", bytes(32))
    world.pass_a_day()
    assert world.record(GONE).verify.failed is not None
    assert world.store_condition("Verified") == ("Unknown", "VerifyFailed")


def test_new_repositories_of_a_store_that_does_not_answer_are_noted_down_later(world: UpkeepWorld) -> None:
    world.repositories.problem = StoreProblemError("Unreachable", "no answer")
    world.look()
    assert list(all_records(world.cluster, SYSTEM)) == []
    world.repositories.problem = None
    world.clock.advance(minutes=10)
    world.look()
    assert [each.namespace_uid for each in all_records(world.cluster, SYSTEM)] == [world.uid()]


def test_a_store_that_is_not_listed_is_not_called_whole_for_what_is_known(
    world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repositories of new namespaces would be pruned and verified by nobody, and nobody would be told."""
    world.pass_a_day()
    world.clock.advance(hours=2)
    with monkeypatch.context() as patched:
        patched.setattr(UpkeepWorld, "_inside", refused)
        world.until_idle()
    found, told = find(world.store().status.conditions, "Verified"), world.store().status.maintenance
    assert found is not None and (found.status, found.reason) == ("Unknown", "NotListed")
    assert "does not tell" in found.message and told is not None and told.verified == "NotListed"
    assert world.store_condition("Pruned") == ("Unknown", "NotListed") and told.repositories == 1
    world.clock.advance(minutes=10)
    world.until_idle()
    assert world.store_condition("Verified") == ("True", "Verified")
