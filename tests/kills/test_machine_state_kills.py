"""The operator is killed between any two writes of a backup of a machine's state: it is stored once."""

from __future__ import annotations

from pathlib import Path

from longboat.kube.kinds import VIRTUAL_MACHINE, VIRTUAL_MACHINE_INSTANCE
from tests.unit.reconcile.backup_world import SHOP, BackupWorld, Grenade, disk
from tests.unit.reconcile.test_machine_state import CLAIM, STATE, with_state


def test_an_operator_killed_at_any_write_backs_the_state_up_once(tmp_path: Path) -> None:
    nth, bomb = 0, Grenade(0)
    while bomb.effects >= nth:
        nth += 1
        folder = tmp_path / str(nth)
        folder.mkdir()
        each, bomb = BackupWorld(folder=folder), Grenade(nth)
        with_state(each)
        # Without other disks, whose kills are tried elsewhere.
        volumes = {"op": "replace", "path": "/spec/template/spec/volumes", "value": []}
        each.cluster.patch(VIRTUAL_MACHINE, "db", [volumes], SHOP)
        each.cluster.patch(VIRTUAL_MACHINE_INSTANCE, "db", [volumes | {"path": "/spec/volumes"}], SHOP)
        each.add_policy("daily")
        each.add_backup()
        each.drive(bomb=bomb)
        assert each.backup().status.phase == "Completed", nth
        assert each.exports == [CLAIM], nth
        assert disk(each, STATE).content == "Archive" and each.leftovers() == [], nth
    assert nth > 20, "the test sees too few writes to be worth anything"
