"""The chart's alerts: each names metrics and labels that there are, and fires when it should and only then."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from longboat.handlers.metrics_page import Page
from longboat.kube.kinds import BACKUP_POLICY, BACKUP_STORE, DISK_BACKUP, VIRTUAL_MACHINE
from longboat.plan.metrics import METRICS
from longboat.reconcile.figures import Figures
from longboat.reconcile.queue import WorkQueue
from longboat.reconcile.routing import Owners
from longboat.reconcile.tick import Tick
from scripts.generated_chart import render
from tests.unit.promql import Series, evaluate, result_labels, selectors
from tests.unit.reconcile.policy_world import SHOP, World

TOP = Path(__file__).parents[2]
[GROUP] = yaml.safe_load((TOP / "charts/longboat/files/alerts.yaml").read_text())["groups"]
RULES: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in GROUP["rules"]}
LABELS = {metric.name: metric.labels for metric in METRICS}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_alert_asks_for_metrics_and_labels_that_there_are(rule: dict[str, Any]) -> None:
    expression = promql.parse(rule["expr"])
    for selector in selectors(expression):
        assert selector.name in LABELS, selector.name
        assert {each.name for each in selector.matchers.matchers} <= set(LABELS[selector.name])
    told = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
    assert told <= result_labels(expression, LABELS), "a label that the result does not have is told as nothing"


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    page = (TOP / "docs/how-to/alerts.md").read_text()
    assert re.findall("^## (.*)$", page, re.MULTILINE) == [*RULES]
    for name, rule in RULES.items():
        assert rule["annotations"]["runbook_url"] == f"RUNBOOKS#{name.lower()}"
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_chart_renders_the_alerts_as_they_are() -> None:
    values = ("--values", str(TOP / "charts/longboat/ci/monitoring-values.yaml"))
    [found] = [each for each in render(TOP / "charts/longboat", *values) if each["kind"] == "PrometheusRule"]
    [group] = found["spec"]["groups"]
    assert [rule["alert"] for rule in group["rules"]] == [*RULES]
    assert group["rules"][0]["annotations"]["runbook_url"] == (
        "https://docs.example.com/longboat/alerts#longboatbackupoverdue"
    )
    assert "{{ $labels.namespace }}" in group["rules"][0]["annotations"]["summary"]


class Shop(World):
    """A world whose operator is scraped."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.add_vm("db", "data")
        self.add_store()
        self.add_policy()
        self.run()
        self.restart()

    def restart(self) -> None:
        self.figures = Figures()
        self.tick = Tick(self.context(), WorkQueue(lambda key: None), Owners(), (self.figures,), figures=self.figures)

    def scrape(self) -> Series:
        self.tick.once()
        self.figures.machines(self.context())
        families = text_string_to_metric_families(Page(self.figures).text().decode())
        return {(each.name, frozenset(each.labels.items())): each.value for its in families for each in its.samples}

    def firing(self, earlier: Series | None = None) -> set[str]:
        """The alerts whose expression holds now, whatever they wait for."""
        now, series = self.clock().timestamp(), self.scrape()
        return {name for name, rule in RULES.items() if evaluate(rule["expr"], now, series, earlier)}

    def finish(self, name: str, phase: str = "Completed") -> None:
        """A run that has just ended; one that is good holds what the policy is about."""
        self.add("DiskBackup", name, {"policyRef": {"name": "daily"}})
        vm = self.cluster.get(VIRTUAL_MACHINE, "db", SHOP)
        assert vm is not None
        target = {"kind": "VirtualMachine", "name": "db", "uid": vm["metadata"]["uid"]}
        self.set_status(name, phase=phase, completedAt=self.clock().isoformat(), manifest=name, disks=[], target=target)
        self.run()

    def set_store(self, **status: Any) -> None:
        store = self.cluster.get(BACKUP_STORE, "offsite")
        assert store is not None
        self.cluster.update_status(store | {"status": status})

    def later(self, **parts: float) -> None:
        """Time passes, and the policies are looked at."""
        self.clock.by(**parts)
        self.run()


@pytest.fixture
def shop() -> Shop:
    return Shop()


def condition(type_: str, status: str) -> dict[str, str]:
    return {
        "type": type_,
        "status": status,
        "reason": "Any",
        "message": "",
        "lastTransitionTime": "2026-01-07T10:17:00Z",
    }


def test_machine_of_which_a_disk_is_in_no_backup_is_told_of_although_its_runs_end_well(shop: Shop) -> None:
    shop.finish("good")
    left_out = {"name": "tpm-efi.state", "phase": "Unsupported", "reason": "NoSnapshotSupport", "message": "no"}
    found = shop.cluster.get(DISK_BACKUP, "good", SHOP)
    assert found is not None
    shop.cluster.update_status(found | {"status": found["status"] | {"disks": [left_out]}})
    shop.run()
    assert shop.firing() == {"LongboatDisksLeftOut"}
    shop.clock.by(minutes=1)
    shop.finish("whole")
    assert shop.firing() == set()


def test_what_is_fresh_fires_nothing(shop: Shop) -> None:
    shop.finish("good")
    shop.set_store(conditions=[condition("Available", "True")], lastCheckTime="2026-01-07T10:17:00Z")
    assert shop.firing() == set()


def test_new_policy_has_time_until_its_first_slot_and_then_it_never_succeeded(shop: Shop) -> None:
    assert shop.firing() == set()
    shop.edit(startingDeadline="1m")
    shop.later(days=2)
    assert shop.firing() == {"LongboatBackupNeverSucceeded"}


def test_stale_backup_is_overdue_by_its_own_schedule(shop: Shop) -> None:
    shop.finish("good")
    shop.clock.by(hours=25)
    assert shop.firing() == set(), "a daily backup of 25 hours ago is nothing yet"
    shop.clock.by(hours=14)
    assert shop.firing() == {"LongboatBackupOverdue"}
    shop.restart()
    assert shop.firing() == {"LongboatBackupOverdue"}, "a restart of the operator hides it"


def test_suspended_policy_is_not_overdue_but_not_forgotten(shop: Shop) -> None:
    shop.edit(suspend=True)
    shop.later(days=3)
    assert shop.firing() == set()
    shop.later(days=8)
    assert shop.firing() == {"LongboatPolicySuspendedTooLong"}


def test_deleted_policy_stops_to_alert(shop: Shop) -> None:
    shop.clock.by(days=3)
    assert "LongboatBackupNeverSucceeded" in shop.firing()
    shop.cluster.delete(BACKUP_POLICY, "daily", SHOP)
    assert shop.firing() == {"LongboatVMUnprotected"}


def test_failure_is_told_for_an_hour(shop: Shop) -> None:
    shop.finish("good")
    shop.clock.by(minutes=1)
    before = shop.scrape()
    shop.finish("bad", phase="PartiallyFailed")
    assert shop.firing(before) == {"LongboatBackupFailed"}
    assert shop.firing(shop.scrape()) == set()


def test_restart_is_no_failure_and_hides_none(shop: Shop) -> None:
    shop.finish("good")
    shop.clock.by(minutes=1)
    shop.finish("bad", phase="Failed")
    before = shop.scrape()
    shop.restart()
    assert shop.firing(before) == set()
    shop.finish("worse", phase="Failed")
    shop.restart()
    assert shop.firing(before) == {"LongboatBackupFailed"}


def test_backup_that_does_not_end_is_stuck_until_it_is_gone(shop: Shop) -> None:
    shop.finish("good")
    shop.add("DiskBackup", "hangs", {"policyRef": {"name": "daily"}})
    shop.clock.by(hours=25)
    assert shop.firing() == {"LongboatBackupStuck"}
    shop.cluster.delete(DISK_BACKUP, "hangs", SHOP)
    shop.restart()
    assert shop.firing() == set()


def test_policy_whose_machine_is_gone_is_stalled_and_not_overdue(shop: Shop) -> None:
    shop.finish("good")
    shop.cluster.delete(VIRTUAL_MACHINE, "db", SHOP)
    shop.later(days=5)
    assert shop.firing() == {"LongboatPolicyStalled"}


def test_store_that_is_away_or_holds_damage_is_told(shop: Shop) -> None:
    shop.set_store(conditions=[condition("Available", "False")])
    assert shop.firing() == {"LongboatStoreUnavailable"}
    upkeep = {
        "verify": {"damaged": 2, "lost": 1, "failing": 0},
        "prune": {"failing": 1, "lastRunTime": "2026-01-07T10:17:00Z"},
    }
    shop.set_store(conditions=[condition("Available", "True")], maintenance=upkeep)
    assert shop.firing() == {"LongboatBackupsDamaged", "LongboatMaintenanceFailing"}
    # Those that were healed by the next backup, or deleted, are damaged until they have expired: nobody has to act.
    upkeep = {"verify": {"damaged": 2, "lost": 0, "failing": 0}}
    shop.set_store(conditions=[condition("Available", "True")], maintenance=upkeep)
    assert shop.firing() == set()


@pytest.mark.parametrize(
    ("type_", "reason", "alert"),
    [
        ("BackupsNotSeen", "BackupsNotSeen", "LongboatBackupsNotSeen"),
        ("EpochConflict", "EpochConflict", "LongboatEpochConflict"),
        ("Pruned", "PruneHeld", "LongboatPruneHeld"),
        ("Pruned", "NotListed", "LongboatUpkeepUnknown"),
        ("Verified", "Late", "LongboatUpkeepUnknown"),
        ("MasterKeysRenewed", "RenewalFailed", "LongboatMasterKeysNotRenewed"),
    ],
)
def test_store_that_only_says_in_a_condition_what_is_wrong_is_told(
    shop: Shop, type_: str, reason: str, alert: str
) -> None:
    shop.set_store(conditions=[condition("Available", "True"), condition(type_, "Unknown") | {"reason": reason}])
    assert shop.firing() == {alert}
    shop.set_store(conditions=[condition("Available", "True"), condition("Verified", "True")])
    assert shop.firing() == set()


@pytest.mark.parametrize("reason", ["NotYet", "Renewing", "NotListed", "MasterKeysRenewed"])
def test_new_master_keys_that_are_on_their_way_are_no_alarm(shop: Shop, reason: str) -> None:
    renewal = condition("MasterKeysRenewed", "False") | {"reason": reason}
    shop.set_store(conditions=[condition("Available", "True"), renewal])
    assert shop.firing() == set()


def test_store_that_fills_up_is_told_before_it_is_full(shop: Shop) -> None:
    now = shop.clock().timestamp()

    def firing(*used: float) -> set[str]:
        series = shop.scrape()
        for number, size in enumerate(used):
            labels = frozenset({("store", "offsite"), ("namespace", f"shop-{number}")})
            series = {**series, ("longboat_store_used_bytes", labels): size}
        return {name for name in RULES if evaluate(RULES[name]["expr"], now, series)}

    assert firing(1e15) == set(), "nobody has said how much there is"
    capacity = [{"op": "add", "path": "/spec/capacity", "value": "1.5Ti"}]
    shop.cluster.patch(BACKUP_STORE, "offsite", capacity)
    assert firing() == firing(0.5 * 2**40, 0.7 * 2**40) == set()
    assert firing(0.6 * 2**40, 0.7 * 2**40) == {"LongboatStoreFillingUp"}


def test_locks_that_are_not_extended_are_told_whatever_is_in_the_way(shop: Shop) -> None:
    good = condition("Available", "True")
    for reason in ("AccessDenied", "LocksNotLookedAt"):
        shop.set_store(conditions=[good, condition("LocksNotExtended", "True") | {"reason": reason}])
        assert shop.firing() == {"LongboatLocksNotExtended"}
    shop.set_store(conditions=[good, condition("LocksNotExtended", "False")])
    assert shop.firing() == set()


def test_when_locks_were_looked_at_is_told_of_buckets_with_locks_alone(shop: Shop) -> None:
    name = "longboat_store_locks_kept_timestamp_seconds"
    shop.set_store(locksKeptTime="2026-01-07T10:17:00Z")
    assert name not in {each for each, _ in shop.scrape()}
    lock = [{"op": "add", "path": "/spec/s3/objectLock", "value": {"mode": "Governance", "days": 2}}]
    shop.cluster.patch(BACKUP_STORE, "offsite", lock)
    moment = datetime(2026, 1, 7, 10, 17, tzinfo=UTC).timestamp()
    assert shop.scrape()[name, frozenset({("store", "offsite")})] == moment


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_has_jumped_is_told(shop: Shop, hours: int) -> None:
    shop.finish("good")
    assert shop.firing() == set()
    plain = shop.cluster.now
    shop.cluster.now = lambda: plain() + timedelta(hours=hours)
    shop.restart()
    assert shop.firing() == {"LongboatClockSkew"}


def test_policy_whose_first_run_failed_is_told_before_its_next_slot_is_missed(shop: Shop) -> None:
    shop.finish("bad", phase="Failed")
    assert shop.firing() == {"LongboatPolicyUnprotected"}
    shop.clock.by(minutes=1)
    shop.finish("good")
    assert shop.firing() == set()


def test_policy_that_has_lost_its_only_backup_is_told_long_before_it_is_overdue(shop: Shop) -> None:
    shop.finish("lost")
    shop.set_status("lost", conditions=[condition("DataMissing", "True")])
    shop.run()
    assert shop.firing() == {"LongboatDataMissing", "LongboatPolicyUnprotected"}


def test_lost_backups_are_told_until_they_are_deleted(shop: Shop) -> None:
    shop.finish("good")
    shop.finish("lost")
    shop.set_status("lost", conditions=[condition("DataMissing", "True")])
    shop.run()
    assert shop.firing() == {"LongboatDataMissing"}
    shop.cluster.delete(DISK_BACKUP, "lost", SHOP)
    shop.run()
    assert shop.firing() == set()


def test_suspicion_is_critical_until_the_backups_have_expired(shop: Shop) -> None:
    shop.finish("good")
    shop.finish("suspect")
    shop.set_status("suspect", disks=[{"name": "data", "phase": "Completed", "suspectedBy": "other"}])
    shop.run()
    assert shop.firing() == {"LongboatChangeTrackingMismatch"}
    shop.cluster.delete(DISK_BACKUP, "suspect", SHOP)
    shop.run()
    assert shop.firing() == set()


def test_machine_that_nobody_backs_up_is_told_until_somebody_does(shop: Shop) -> None:
    shop.add_vm("web", "data")
    assert shop.firing() == {"LongboatVMUnprotected"}
    shop.add_policy("web", target={"virtualMachine": {"name": "web"}})
    shop.run("web")
    assert shop.firing() == set()


def test_operator_that_is_down_or_stuck_is_told(shop: Shop) -> None:
    series = shop.scrape()
    for name, now, its in (
        ("LongboatOperatorDown", 0.0, {}),
        ("LongboatOperatorStuck", shop.clock().timestamp() + 700, series),
    ):
        assert evaluate(RULES[name]["expr"], now, its), name
    assert not evaluate(RULES["LongboatOperatorDown"]["expr"], 0.0, series)
