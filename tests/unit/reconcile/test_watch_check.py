"""A watch that died without a word: found, made up for, and replaced; and nobody else is suspected."""

from __future__ import annotations

from typing import Any

from longboat.kube.kinds import DISK_SNAPSHOT
from longboat.reconcile.queue import Key, WorkQueue
from longboat.reconcile.routing import Owners
from longboat.reconcile.watch_check import WatchCheck
from tests.unit.reconcile.policy_world import SHOP, World


class Setting:
    """A world with a check in it; ``told`` objects are those of which the watch has told."""

    def __init__(self) -> None:
        self.world, self.owners, self.time = World(), Owners(), 0.0
        self.worked: list[Key] = []
        self.queue = WorkQueue(self.worked.append)
        self.check = WatchCheck(self.queue, self.owners, lambda: self.time)

    def snapshot(self, name: str, told: bool, **status: Any) -> None:
        made = self.world.add("DiskSnapshot", name, {"disk": {"persistentVolumeClaim": "a"}})
        if told:
            self.owners.note(made)
        if status:
            self.world.cluster.update_status(made | {"status": status})

    def look(self, seconds: float = 31) -> list[str]:
        self.worked.clear()
        self.time += seconds
        self.world.clock.by(seconds=seconds)
        self.check(self.world.context())
        while self.queue.run_one():
            pass
        return [key.name for key in self.worked]


def test_what_a_dead_watch_did_not_tell_of_is_worked_on_within_a_minute() -> None:
    setting = Setting()
    setting.snapshot("told", True)
    setting.snapshot("missed", False)
    assert setting.look(29) == []
    assert setting.look() == ["missed"]
    assert setting.check.silent() is None


def test_a_watch_that_is_silent_for_two_looks_is_replaced_by_a_restart() -> None:
    setting = Setting()
    setting.snapshot("one", False)
    assert setting.look() == ["one"]
    setting.snapshot("two", False)
    assert setting.look(1) == []
    assert setting.look(40) == ["two"]
    assert DISK_SNAPSHOT.name in (setting.check.silent() or "")


def test_a_watch_that_tells_again_is_left_alone() -> None:
    setting = Setting()
    setting.snapshot("missed", False)
    setting.look()
    setting.snapshot("told", True)
    assert setting.look() == []
    setting.snapshot("missed-again", False)
    setting.look()
    assert setting.check.silent() is None


def test_what_is_young_or_finished_is_no_sign_of_a_dead_watch() -> None:
    setting = Setting()
    setting.snapshot("finished", False, phase="Ready", observedGeneration=1)
    setting.look(60)
    setting.snapshot("young", False)
    setting.time += 60
    setting.check(setting.world.context())
    assert setting.worked == []
    assert setting.check.silent() is None


def test_looks_take_no_more_than_two_percent_of_a_core() -> None:
    setting = Setting()
    inner = setting.world.cluster.list

    def slow(*arguments: Any, **named: Any) -> Any:
        setting.time += 1.0
        return inner(*arguments, **named)

    setting.world.cluster.list = slow  # type: ignore[method-assign]
    setting.look()
    setting.snapshot("missed", False)
    assert setting.look(140) == []
    assert setting.look(20) == ["missed"]
    assert setting.worked[0].namespace == SHOP
