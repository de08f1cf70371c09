"""The verify program as a Job runs it: a result for the operator, a line for each finding, a report for people."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from longboat.mover import EXIT_FAILED, EXIT_OK, VerifyResult, export_disk, verify
from longboat.mover.results import MAX_MESSAGE_BYTES, message_bytes
from longboat.repository import StoreSettings, open_or_create_repository, open_store, write_tombstone

from .disks import PATH, STORE_KEY
from .test_programs import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    assert export_disk.main(world.arguments(world.export)) == EXIT_OK
    return world


def test_sound_repository(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    report = world.folder / "report.json"
    assert verify.main(world.arguments({**world.common, "share": 100, "reportPath": str(report)})) == EXIT_OK
    message = world.message()
    assert (message["ok"], message["state"], message["backups"], message["frames"]) == (True, "ok", 1, 1)
    assert json.loads(report.read_text())["backups"][0]["name"] == "one"
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["backup"]["state"] for line in lines if "backup" in line] == ["ok"]
    assert lines[-1]["result"] == message


def test_damage_is_a_result_and_no_failure_of_the_program(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    [pack] = (world.folder / "store").rglob("packs/*/*")
    pack.unlink()
    assert verify.main(world.arguments(world.common)) == EXIT_OK
    message = world.message()
    assert (message["state"], message["damaged"], message["hurt"], message["recorded"]) == ("damaged", 1, ["one"], 1)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["damage"]["object"].rsplit("/", 1)[1] for line in lines if "damage" in line] == [pack.name]


def test_a_deleted_backup_is_not_counted_among_the_lost_ones_that_somebody_has_to_see_to(world: World) -> None:
    [pack] = (world.folder / "store").rglob("packs/*/*")
    pack.unlink()
    assert verify.main(world.arguments(world.common)) == EXIT_OK
    assert [world.message()[key] for key in ("damaged", "lost", "lostInTrash")] == [1, 1, 0]
    place = open_store(StoreSettings(type="folder", path=str(world.folder / "store")))
    write_tombstone(open_or_create_repository(place, PATH, STORE_KEY), "one", datetime.now(UTC), "test")
    assert verify.main(world.arguments(world.common)) == EXIT_OK
    assert [world.message()[key] for key in ("damaged", "lost", "lostInTrash")] == [1, 0, 1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"share": 101}, "InvalidJob"),
        ({"backups": ["two"]}, "BackupNotFound"),
        ({"reportPath": "/nowhere/report"}, "InvalidJob"),
    ],
)
def test_bad_job_fails_with_its_reason(world: World, change: dict[str, object], reason: str) -> None:
    assert verify.main(world.arguments({**world.common, **change})) == EXIT_FAILED
    if "share" not in change:  # Without a valid job nobody knows where the message should go.
        assert world.message()["reason"] == reason


def test_result_with_long_names_fits_a_termination_message() -> None:
    result = VerifyResult(
        state="damaged",
        share=100,
        next_phase=1 << 31,
        backups=10**6,
        damaged=10**6,
        hurt=tuple(["n" * 253] * verify._NAMED),
        damaged_objects=10**6,
        pages=10**9,
        frames=10**9,
        read_bytes=10**15,
        recorded=10**3,
        note="e" * 5000,
    )
    assert len(message_bytes(result)) <= MAX_MESSAGE_BYTES
