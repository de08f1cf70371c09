"""What several threads of the operator write into one ConfigMap is all there afterwards."""

from __future__ import annotations

import pytest

from longboat.kube.kinds import CONFIG_MAP
from longboat.kube.port import ConflictError
from longboat.reconcile.config_maps import Data, change_data
from tests.unit.reconcile.disk_world import SYSTEM, World

LABELS = {"longboat.dev/owner-kind": "Test"}


@pytest.fixture
def world() -> World:
    return World()


def noted(world: World) -> Data | None:
    found = world.cluster.get(CONFIG_MAP, "notes", SYSTEM)
    return None if found is None else dict(found["data"])


def note(world: World, key: str, by_others: list[str]) -> None:
    """Note something down, while others are quicker as often as they are named."""

    def decide(data: Data | None) -> Data:
        if by_others:
            note(world, by_others.pop(), [])
        return (data or {}) | {key: "yes"}

    change_data(world.context(), "notes", LABELS, decide)


def test_first_one_makes_it_with_its_labels(world: World) -> None:
    note(world, "mine", [])
    assert noted(world) == {"mine": "yes"}
    assert [each["metadata"]["name"] for each in world.cluster.list(CONFIG_MAP, SYSTEM, LABELS)] == ["notes"]


@pytest.mark.parametrize("is_there", [False, True])
def test_what_others_note_at_the_same_moment_is_not_lost(world: World, is_there: bool) -> None:
    if is_there:
        note(world, "before", [])
    note(world, "mine", ["other", "third"])
    assert noted(world) == dict.fromkeys(("mine", "other", "third", *(["before"] * is_there)), "yes")


def test_who_is_never_quick_enough_is_told(world: World) -> None:
    with pytest.raises(ConflictError, match="changes all the time"):
        note(world, "mine", [f"other-{number}" for number in range(9)])


def test_nothing_is_written_where_nothing_changes_or_is_to_be_made(world: World) -> None:
    note(world, "mine", [])
    writes = world.cluster.writes
    note(world, "mine", [])
    change_data(world.context(), "notes", LABELS, lambda data: None)
    change_data(world.context(), "others", LABELS, lambda data: None)
    assert world.cluster.writes == writes and world.cluster.get(CONFIG_MAP, "others", SYSTEM) is None


def test_one_without_data_is_written_into(world: World) -> None:
    meta = {"name": "notes", "namespace": SYSTEM}
    world.cluster.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta})
    note(world, "mine", [])
    assert noted(world) == {"mine": "yes"}
