"""The prune program as a Job runs it: a result that says what was deleted and why, and an epoch that fences it."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from longboat.mover import EXIT_FAILED, EXIT_OK, PruneResult, prune
from longboat.mover.jobs import PruneJob
from longboat.repository import StoreSettings, WriteOnceReport, open_store, open_with_master_key, read_epoch
from longboat.repository.errors import ClockSkewError, LateManifestError
from tests.fakes.object_store import MemoryStore

from .disks import BLOCK, PATH, SETTINGS, export, repository_in, write_image
from .test_programs import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def job(key: bytes, **more: Any) -> PruneJob:
    """Return a job with a token."""
    common = {"store": SETTINGS, "repositoryPath": PATH, "masterKey": base64.b64encode(key).decode()}
    return PruneJob.model_validate({**common, "token": "mine", **more})


def test_prune_by_job_files_advances_the_epoch(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert prune.main(world.arguments({**world.common, "token": "first"})) == EXIT_OK
    assert world.message()["freed"] == {"objects": 0, "bytes": 0}
    key = json.loads((world.folder / "secret.json").read_text())["masterKey"]
    store = open_store(StoreSettings(type="folder", path=str(world.folder / "store")))
    epoch = read_epoch(open_with_master_key(store, PATH, base64.b64decode(key)))
    assert epoch is not None and epoch.token == "first"
    again = {**world.common, "token": "second", "knownTokens": ["first"]}
    assert prune.main(world.arguments(again)) == EXIT_OK
    assert "result" in json.loads(capsys.readouterr().out.splitlines()[-1])


def test_prune_of_another_operator_is_refused(world: World) -> None:
    assert prune.main(world.arguments({**world.common, "token": "first"})) == EXIT_OK
    assert prune.main(world.arguments({**world.common, "token": "second"})) == EXIT_FAILED
    assert world.message()["reason"] == "EpochConflict"


@pytest.mark.parametrize(("change", "said"), [({}, "token"), ({"token": "t", "graceSeconds": 60}, "graceSeconds")])
def test_job_that_is_not_complete_is_refused(
    world: World, change: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prune.main(world.arguments({**world.common, **change})) == EXIT_FAILED
    result = json.loads(capsys.readouterr().out)["result"]
    assert (result["reason"], said in result["message"]) == ("InvalidJob", True)


def test_result_says_what_goes_now_and_later(tmp_path: Path) -> None:
    store, lines = MemoryStore(), list[str]()
    key = repository_in(store).master_key
    result = export(store, key, write_image(tmp_path, {0: b"x" * BLOCK}, 2 * BLOCK), "one")
    del store.objects[f"{PATH}/{result.manifest}"]
    ticks = iter(range(0, 10000, 3))

    def run(**more: Any) -> PruneResult:
        return prune.run_prune(
            job(key, knownTokens=["mine"], **more),
            store,
            emit=lines.append,
            now=lambda: store.now,
            clock=lambda: next(ticks),
        )

    assert run().later.objects == 2
    store.advance(timedelta(days=2))
    held = run()
    assert "--allow-most" in held.note and held.condemned.objects == 0 and held.asked is not None
    allowed = held.asked.model_dump(mode="json", by_alias=True)
    assert run(dryRun=True, allowed=allowed).condemned.objects == 2
    less = {**allowed, "unneeded": {"objects": 1, "bytes": 1}}
    assert run(allowed=less).asked == held.asked
    assert run(allowed=allowed).condemned == run().waiting
    store.advance(timedelta(days=2))
    done = run()
    assert done.removed["DataPack"].objects == done.removed["MapPack"].objects == 1
    assert done.freed.bytes == sum(count.bytes for count in done.removed.values())
    assert {json.loads(line)["progress"]["step"] for line in lines} >= {"packs"}


def test_a_job_moves_blocks_only_within_a_budget_and_not_where_objects_are_locked() -> None:
    assert prune.repack_rules(job(b"k" * 32)) is None
    rules = prune.repack_rules(job(b"k" * 32, repackBytes=7, goneAfterSeconds=86400))
    assert rules is not None and (rules.budget, rules.gone_after, rules.living) == (7, timedelta(days=1), 0)
    living = prune.repack_rules(job(b"k" * 32, repackBytes=7, repackLivingPercent=60))
    assert living is not None and living.living == 0.6
    store = SETTINGS.model_copy(update={"lock_mode": "Governance"})
    assert prune.repack_rules(job(b"k" * 32, repackBytes=7, store=store)) is None


def test_what_many_claims_need_fits_into_a_termination_message() -> None:
    result = prune.largest({f"claim-{number:03}-{'x' * 200}": number for number in range(500)})
    assert len(json.dumps(result)) < 2100 and sum(result.values()) == sum(range(500))
    assert max(result.values()) == result[""], "the rest is told as well"
    assert prune.largest({}) == {}


def test_clock_of_the_machine_that_is_off_is_an_error(tmp_path: Path) -> None:
    store = MemoryStore()
    key = repository_in(store).master_key
    with pytest.raises(ClockSkewError):
        prune.run_prune(job(key), store, now=lambda: datetime(2020, 1, 1, tzinfo=UTC))


def test_a_job_on_a_closed_repository_ends_at_what_was_written_later(tmp_path: Path) -> None:
    store = MemoryStore()
    key = repository_in(store).master_key
    export(store, key, write_image(tmp_path, {0: b"x" * BLOCK}, 2 * BLOCK), "late")
    common = {"dryRun": True, "token": ""}
    closed = store.now - timedelta(hours=1)
    with pytest.raises(LateManifestError):
        prune.run_prune(job(key, **common, closed=closed), store, now=lambda: store.now)
    assert prune.run_prune(job(key, **common), store, now=lambda: store.now).manifests == 1


def test_manifests_that_somebody_hid_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    key = repository_in(store).master_key
    monkeypatch.setattr(prune, "keep_write_once", lambda *_, **__: WriteOnceReport(unexplained=3))
    store.now = datetime.now(UTC)
    assert "3 manifests are hidden" in prune.run_prune(job(key), store, emit=lambda _: None).note
