"""Which repository is pruned or verified when: spread over time, and derived from what is noted down."""

from __future__ import annotations

import base64
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longboat.api import BackupStore
from longboat.mover import Failure, PruneJob, PruneResult, VerifyJob, VerifyResult
from longboat.mover.jobs import merge
from longboat.mover.results import PruneCount, PruneQuestion
from longboat.plan import maintenance as plan
from longboat.plan.conditions import find
from longboat.plan.maintenance import RepositoryRecord, Work, due_runs, next_run, rules_of
from longboat.plan.maintenance_job import grace_of, job_name, mover_of
from longboat.plan.maintenance_slots import LAST_RETRY, slot_after
from longboat.plan.maintenance_status import maintenance_status, with_maintenance
from longboat.plan.mover import MoverSettings, mover_job, mover_secret
from longboat.repository import StoreSettings

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
NONE = PruneCount(objects=0, bytes=0)
ASKED = PruneQuestion(condemned=PruneCount(objects=5, bytes=50), unneeded=PruneCount(objects=6, bytes=60))


def store(annotations: dict[str, str] | None = None, **maintenance: Any) -> BackupStore:
    spec = {
        "s3": {"endpoint": "https://s3.example.com", "bucket": "backups"},
        "credentialsSecretRef": {"name": "s3"},
        "encryption": {"keySecretRef": {"name": "key"}},
        "maintenance": maintenance,
    }
    meta = {"name": "offsite", "generation": 1, "annotations": annotations or {}}
    return BackupStore.model_validate({"metadata": meta, "spec": spec})


def record(number: int = 1, seen: datetime = NOW) -> RepositoryRecord:
    return RepositoryRecord(store="offsite", namespace=f"shop-{number}", namespace_uid=f"uid-{number}", seen=seen)


def prune_result(**more: Any) -> PruneResult:
    counts = dict.fromkeys(("freed", "condemned", "waiting", "later", "leased", "live"), NONE)
    return PruneResult(**({"dry_run": False, "manifests": 1, "leases": 0, "removed": {}} | counts | more))


def verify_result(**more: Any) -> VerifyResult:
    base = {"state": "ok", "share": 4, "next_phase": 7, "backups": 2, "damaged": 0, "damaged_objects": 0}
    return VerifyResult(**(base | {"pages": 1, "frames": 1, "read_bytes": 10, "recorded": 0} | more))


def after(found: RepositoryRecord, work: Work, at: datetime = NOW, its: BackupStore | None = None) -> RepositoryRecord:
    """A record after a run at a moment."""
    begun = plan.begin(found, work, its or store(), at, "token")
    if work == "prune":
        return plan.pruned(begun, prune_result(), at)
    return plan.verified(begun, verify_result(share=begun.verify.attempt.share if begun.verify.attempt else 0), at)


@given(st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)), st.integers(1, 10**6))
def test_slots_of_a_repository_are_a_period_apart(moment: datetime, minutes: int) -> None:
    every = timedelta(minutes=minutes)
    slot = slot_after(moment, every, "prune", "uid")
    assert moment < slot <= moment + every
    assert slot_after(slot, every, "prune", "uid") == slot + every


def test_a_thousand_namespaces_that_are_seen_at_once_do_not_begin_at_once() -> None:
    records = [record(number) for number in range(1000)]
    assert due_runs(records, store(), NOW) == []
    hours = Counter(int((slot_after(NOW, DAY, "prune", each.namespace_uid) - NOW) / HOUR) for each in records)
    assert len(hours) == 24 and max(hours.values()) < 80
    assert len(due_runs(records, store(), NOW + DAY)) == 2000


def test_each_repository_has_one_run_a_period(moment: datetime = NOW) -> None:
    found, runs = record(), list[datetime]()
    while moment < NOW + 10 * DAY:
        if due_runs([found], store(verify={"suspend": True}), moment):
            found = after(found, "prune", moment)
            runs.append(moment)
        moment += timedelta(minutes=10)
    assert len(runs) == 10
    assert {later - earlier for earlier, later in pairwise(runs)} == {DAY}


def test_what_is_suspended_runs_when_it_is_asked_for_only() -> None:
    off = {"prune": {"suspend": True}, "verify": {"suspend": True}}
    assert due_runs([record()], store(**off), NOW + 99 * DAY) == []
    asked = store({plan.REQUESTED["verify"]: "2026-11-23T12:30:00Z"}, **off)
    assert due_runs([record()], asked, NOW) == []
    assert [each.work for each in due_runs([record()], asked, NOW + HOUR)] == ["verify"]
    assert due_runs([after(record(), "verify", NOW + HOUR, asked)], asked, NOW + 2 * HOUR) == []


def test_a_requested_verification_reads_everything_and_others_go_on_where_the_last_one_ended() -> None:
    asked = store({plan.REQUESTED["verify"]: "2026-11-23T11:00:00Z"})
    first = plan.begin(after(record(), "verify", NOW - DAY), "verify", asked, NOW, "").verify.attempt
    assert first is not None and (first.share, first.phase) == (100, 7)
    done = after(record(), "verify", NOW, asked)
    assert done.verify.whole == NOW
    next_ = plan.begin(done, "verify", asked, NOW + DAY, "").verify.attempt
    assert next_ is not None and (next_.share, next_.phase) == (4, 7)


@pytest.mark.parametrize("text", ["now", "2026-11-23", "2026-11-23T12:00:00", ""])
def test_a_request_that_is_no_moment_is_told_and_asks_for_nothing(text: str) -> None:
    asked = store({plan.REQUESTED["prune"]: text})
    assert rules_of(asked, "prune").requested is None
    found = find(with_maintenance([], asked, [record()], NOW), "Pruned")
    assert found is not None and repr(text) in found.message


def test_failures_are_tried_again_ever_later_and_at_once_when_asked_for() -> None:
    found, waits = record(seen=NOW - 3 * DAY), list[timedelta]()
    moment = NOW
    for _ in range(12):
        found = plan.failed(plan.begin(found, "prune", store(), moment, "t"), "prune", FAILURE, moment)
        again = next_run(found, "prune", rules_of(store(), "prune"), moment)
        assert again is not None
        waits.append(again - moment)
        moment = again
    assert waits == sorted(waits) and waits[0] == timedelta(minutes=5) and waits[-1] == LAST_RETRY
    asked = store({plan.REQUESTED["prune"]: moment.isoformat()})
    assert due_runs([found], asked, moment + timedelta(seconds=1))[0].work == "prune"
    assert after(found, "prune", moment).prune.failed is None


FAILURE = Failure(reason="EpochConflict", message="another one", retryable=False)


def test_a_clock_that_was_put_back_does_not_stop_the_upkeep() -> None:
    found = after(record(), "verify", NOW + 400 * DAY)
    due = next_run(found, "verify", rules_of(store(), "verify"), NOW)
    assert due is not None and due <= NOW + DAY


def test_a_run_that_was_noted_down_is_seen_to_whatever_the_store_says_now() -> None:
    found = plan.begin(record(), "verify", store(), NOW, "")
    assert [each.work for each in due_runs([found], store(verify={"suspend": True}), NOW)] == ["verify"]


def test_tokens_of_prunes_are_kept_until_it_is_known_that_another_one_is_the_current_one() -> None:
    """A prune that failed may have written its token: without it the next one would be told that it is a stranger."""
    found = record()
    for token in ("one", "two"):
        found = plan.failed(plan.begin(found, "prune", store(), NOW, token, ["swept"]), "prune", FAILURE, NOW)
    found = plan.begin(found, "prune", store(), NOW, "three", ["swept"])
    attempt = found.prune.attempt
    assert attempt is not None
    assert (attempt.token, attempt.known_tokens) == ("three", ["one", "swept", "two"])
    assert found.tokens == ["one", "two", "three"]
    assert plan.pruned(found, prune_result(), NOW).tokens == ["three"]


def test_a_dry_run_takes_over_no_epoch() -> None:
    dry = store(prune={"dryRun": True})
    found = plan.begin(record().model_copy(update={"tokens": ["mine"]}), "prune", dry, NOW, "new")
    assert found.tokens == ["mine"] == plan.pruned(found, prune_result(dry_run=True), NOW).tokens
    assert found.prune.attempt is not None and not found.prune.attempt.token


def test_leave_is_for_the_figures_that_were_asked_about_however_often_the_run_fails() -> None:
    found = plan.pruned(plan.begin(record(), "prune", store(), NOW, "t"), prune_result(asked=ASKED), NOW)
    answered = store({plan.CONFIRM_PRUNE: found.prune.question or ""})
    for _ in range(3):
        found = plan.begin(found, "prune", answered, NOW, "u")
        assert prune_job(found).allowed == ASKED
        found = plan.failed(found, "prune", FAILURE, NOW)
    assert prune_job(plan.begin(found, "prune", store(), NOW, "u")).allowed is None
    # A question without figures, which an earlier version noted down, is asked once more.
    bare = found.model_copy(update={"prune": found.prune.model_copy(update={"result": prune_result()})})
    assert prune_job(plan.begin(bare, "prune", answered, NOW, "u")).allowed is None


def prune_job(found: RepositoryRecord) -> PruneJob:
    settings = StoreSettings(type="folder", path="/store")
    mover = mover_of(found, "prune", store(), settings, "cluster/uid-1", bytes(32))
    return PruneJob.model_validate_json(json.dumps(mover.job))


def test_what_a_prune_asks_about_is_answered_once() -> None:
    found = plan.begin(record(), "prune", store(), NOW, "t")
    found = plan.pruned(found, prune_result(asked=ASKED, note="no backup refers to most"), NOW)
    code = found.prune.question
    told = find(with_maintenance([], store(), [found], NOW), "Pruned")
    assert code and told is not None and (told.status, told.reason) == ("False", "PruneHeld") and code in told.message
    answered = store({plan.CONFIRM_PRUNE: f"other, {code}"})
    assert due_runs([found], store(), NOW) == []
    assert [each.work for each in due_runs([found], answered, NOW)] == ["prune"]
    again = plan.begin(found, "prune", answered, NOW, "u")
    assert again.prune.attempt is not None and again.prune.attempt.allowed == ASKED
    asks_anew = plan.pruned(again, prune_result(asked=ASKED, note="again"), NOW)
    assert asks_anew.prune.question not in (None, code)
    assert due_runs([asks_anew], answered, NOW) == []


def test_a_job_has_no_volume_no_token_and_its_own_names() -> None:
    names = set()
    for work, model in (("prune", PruneJob), ("verify", VerifyJob)):
        found = plan.begin(record(), work, store(), NOW, "token")  # type: ignore[arg-type]
        credentials = {"access_key_id": "a", "secret_access_key": "s"}
        settings = StoreSettings(type="s3", endpoint="https://s3.example.com", bucket="b", **credentials)
        mover = mover_of(found, work, store(), settings, "cluster/uid-1", bytes(32))  # type: ignore[arg-type]
        job = mover_job(mover, MoverSettings("longboat-system", "image"))
        pod = job["spec"]["template"]["spec"]
        assert [each["name"] for each in pod["volumes"]] == ["config"] and not pod["automountServiceAccountToken"]
        (container,) = pod["containers"]
        assert container["args"][0] == work and "volumeDevices" not in container
        assert pod["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]
        assert job["spec"]["activeDeadlineSeconds"] == 86400
        secret = mover_secret(mover, job | {"metadata": job["metadata"] | {"uid": "u"}})
        plain, hidden = (json.loads(base64.b64decode(secret["data"][key])) for key in ("job.json", "secret.json"))
        assert "masterKey" not in plain and model.model_validate_json(json.dumps(merge(plain, hidden)))
        names |= {job["metadata"]["name"], job_name(found, work, 2), job_name(record(2), work, 1)}  # type: ignore[arg-type]
    assert len(names) == 6 and max(map(len, names)) <= 63


def test_the_grace_period_reaches_the_job_and_is_never_too_short() -> None:
    assert grace_of(store(prune={"gracePeriod": "3d"})) == 3 * DAY
    assert grace_of(store(prune={"gracePeriod": "1m"})) == HOUR


def condition(type_: str, records: list[RepositoryRecord], its: BackupStore | None = None) -> tuple[str, str]:
    found = find(with_maintenance([], its or store(), records, NOW), type_)
    return (found.status, found.reason) if found else ("", "")


def test_conditions_of_a_store_say_the_worst() -> None:
    whole, new = after(after(record(1), "verify"), "prune"), record(2)
    begun = plan.begin(record(3), "verify", store(), NOW, "")
    damaged = plan.verified(begun, verify_result(state="damaged", damaged=2, lost=1), NOW)
    broken = plan.failed(plan.failed(record(4), "verify", FAILURE, NOW), "prune", FAILURE, NOW)
    late = after(record(5), "verify", NOW - 4 * DAY)
    assert condition("Verified", []) == condition("Pruned", []) == ("", "")
    assert condition("Verified", [whole]) == ("True", "Verified") and condition("Pruned", [whole]) == ("True", "Pruned")
    assert condition("Verified", [whole, new]) == ("Unknown", "NotYet") == condition("Pruned", [whole, new])
    assert condition("Verified", [whole, late]) == ("Unknown", "Late")
    assert condition("Verified", [whole, new, broken]) == ("Unknown", "VerifyFailed")
    assert condition("Pruned", [whole, new, broken]) == ("False", "PruneFailed")
    assert condition("Verified", [broken, damaged]) == ("False", "Damaged")
    off = store(prune={"suspend": True}, verify={"suspend": True})
    assert condition("Verified", [whole], off) == ("Unknown", "Suspended")
    assert condition("Verified", [damaged], off) == ("False", "Damaged")
    assert condition("Pruned", [whole], off) == ("False", "Suspended")
    assert condition("Pruned", [whole], store(prune={"dryRun": True})) == ("False", "DryRun")


def test_what_a_prune_could_not_do_is_told_where_the_status_counts_it() -> None:
    note = "3 packs that backups need are hidden by delete markers, which are not ours: remove the markers"
    begun = plan.begin(record(1), "prune", store(), NOW, "token")
    hidden, well = plan.pruned(begun, prune_result(note=note), NOW), after(record(2), "prune")
    told = {
        found.message
        for records in ([hidden, well], [well])
        if (found := find(with_maintenance([], store(), records, NOW), "Pruned"))
    }
    assert [note in each and "shop-1" in each for each in sorted(told, key=len)] == [False, True]
    status = maintenance_status(store(), [hidden, well], NOW)
    assert status.prune is not None and status.prune.postponed == 1


def test_status_counts_repositories_of_which_a_namespace_has_one_for_each_master_key() -> None:
    first, second = (after(after(each, "verify"), "prune") for each in (record(1), record(1)))
    records = [first, second.model_copy(update={"generation": 2})]
    assert maintenance_status(store(), records, NOW).repositories == 2
    found = find(with_maintenance([], store(), records, NOW), "Verified")
    assert found is not None and "in 2 repositories" in found.message and "namespaces" not in found.message


def test_one_repository_is_not_counted_as_several() -> None:
    def said(*records: RepositoryRecord) -> str:
        found = find(with_maintenance([], store(), list(records), NOW), "Verified")
        return found.message if found else ""

    whole = after(record(1), "verify")
    assert "the backups in 1 repository were whole" in said(whole)
    assert said(record(2)).endswith("(of 1 repository)") and said(whole, record(2)).endswith("(of 2 repositories)")


def test_status_sums_up_all_repositories_and_is_of_bounded_size() -> None:
    found = [after(after(record(number), "verify"), "prune") for number in range(300)]
    status = maintenance_status(store(), found, NOW)
    assert status.prune is not None and status.verify is not None
    assert (status.repositories, status.verified, status.freed) == (300, "Yes", "0")
    assert (status.verify.backups, status.verify.oldest_run_time, status.prune.last_run_time) == (600, NOW, NOW)
    never = record(300, seen=NOW - timedelta(days=1))
    new = maintenance_status(store(), [*found, never], NOW)
    assert new.verify is not None and new.verify.oldest_run_time == never.seen
    broken = [plan.failed(each, "prune", FAILURE, NOW) for each in found]
    assert len(json.dumps([each.wire() for each in with_maintenance([], store(), broken, NOW)])) < 2000
    assert len(json.dumps(maintenance_status(store(), broken, NOW).wire())) < 1000


def test_a_record_survives_being_written_down() -> None:
    found = after(after(record(), "verify"), "prune")
    found = plan.with_job(plan.begin(found, "prune", store(), NOW, "t"), "prune", "job-uid")
    assert RepositoryRecord.model_validate_json(json.dumps(found.wire())) == found


def test_when_another_repository_was_made_and_seen_says_nothing_of_the_one_that_is_there() -> None:
    noted = {"repository_id": "a" * 32, "made": NOW, "replaced_for": NOW}
    found, now = record().model_copy(update=noted), NOW + timedelta(days=9)
    same, other = (plan.of_repository(found, each * 32, now) for each in "ab")
    assert same == found
    assert (other.made, other.replaced_for, other.seen) == (None, None, now) and other.repository_id == "b" * 32
