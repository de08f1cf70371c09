"""What is on the Grafana dashboard: what the metrics say of protection, runs, stores and what they hold.

Every query sums up by the labels that it shows, so that those which a scrape adds (pod, instance) make no second line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

OF_NAMESPACE, OF_STORE = 'namespace=~"$namespace"', 'store=~"$store"'


@dataclass(frozen=True)
class Panel:
    """One panel: its queries by their legends; ``unit`` is Grafana's name of one."""

    kind: str
    title: str
    queries: dict[str, str]
    unit: str = "short"
    about: str = ""
    width: int = 12
    height: int = 8
    steps: tuple[tuple[str, float | None], ...] = (("green", None),)
    """Colours, each with the value from which on it holds."""
    value: str = "Value"
    """What heads the values of a table."""


def stat(title: str, query: str, unit: str = "short", *, bad_from: float | None = 1, about: str = "") -> Panel:
    """Return one number, red from a value on."""
    steps = (("green", None), *([("red", bad_from)] if bad_from is not None else []))
    return Panel("stat", title, {"": query}, unit, about, width=4, height=4, steps=steps)


def lines(title: str, queries: dict[str, str], unit: str = "short", about: str = "", **more: Any) -> Panel:
    """Return lines over time."""
    return Panel("timeseries", title, queries, unit, about, **more)


def table(title: str, query: str, unit: str, value: str, about: str = "", **more: Any) -> Panel:
    """Return a table of what holds now, the largest first; ``value`` heads the column of values."""
    return Panel("table", title, {"": query}, unit, about, value=value, **more)


def bars(title: str, queries: dict[str, str], unit: str, about: str = "", **more: Any) -> Panel:
    """Return a bar for each of what holds now."""
    return Panel("bargauge", title, queries, unit, about, **more)


def _counted(condition: str) -> str:
    """Return a query for how many there are, 0 if there are none."""
    return f"count({condition}) or vector(0)"


_FULL = (("green", None), ("orange", 0.7), ("red", 0.85))
_SUCCESS = "longboat_policy_target_last_success_timestamp_seconds"
_USED, _CAPACITY = f"longboat_store_used_bytes{{{OF_STORE}}}", f"longboat_store_capacity_bytes{{{OF_STORE}}}"

ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "At a glance",
        (
            stat(
                "Policies without protection",
                _counted(f"max by (namespace, policy) (longboat_policy_protected{{{OF_NAMESPACE}}}) == 0"),
                about="Of some target there is no good backup as recent as the schedule promises.",
            ),
            stat(
                "Targets overdue",
                _counted(
                    "max by (namespace, policy, kind, target)"
                    f" (longboat_policy_target_overdue_timestamp_seconds{{{OF_NAMESPACE}}}) < time()"
                ),
            ),
            stat(
                "Machines without a policy",
                _counted(f"max by (namespace, vm) (longboat_vm_protected{{{OF_NAMESPACE}}}) == 0"),
            ),
            stat(
                "Backups failed in 24 h",
                "sum(increase("
                f'longboat_backups_total{{{OF_NAMESPACE},result=~"Failed|PartiallyFailed"}}[24h])) or vector(0)',
            ),
            stat(
                "Backups lost",
                f"sum(max by (namespace, policy) (longboat_backups_data_missing{{{OF_NAMESPACE}}})) or vector(0)",
                about="Their data is not in the store any more, and nobody deleted them.",
            ),
            stat(
                "Stores not available",
                _counted(f"max by (store) (longboat_store_up{{{OF_STORE}}}) == 0"),
            ),
        ),
    ),
    (
        "Protection",
        (
            table(
                "Oldest last good backups",
                f"topk(50, time() - max by (namespace, policy, kind, target) ({_SUCCESS}{{{OF_NAMESPACE}}} > 0))",
                "s",
                "Age",
                "How old the newest good backup of each target is.",
            ),
            table(
                "Targets that never had a good backup",
                f"max by (namespace, policy, kind, target) ({_SUCCESS}{{{OF_NAMESPACE}}} == 0)",
                "short",
                "Backups",
            ),
            table(
                "Machines without a policy",
                f"max by (namespace, vm) (longboat_vm_protected{{{OF_NAMESPACE}}} == 0)",
                "short",
                "Policies",
                width=8,
            ),
            table(
                "Policies that can't go on",
                f"max by (namespace, policy, reason) (longboat_policy_stalled{{{OF_NAMESPACE}}} == 1)",
                "short",
                "Stalled",
                width=8,
            ),
            table(
                "Suspended policies",
                f"time() - max by (namespace, policy) (longboat_policy_suspended_timestamp_seconds{{{OF_NAMESPACE}}})",
                "s",
                "Since",
                width=8,
            ),
        ),
    ),
    (
        "Backups",
        (
            lines(
                "Ended in each hour",
                {"{{result}}": f"sum by (result) (increase(longboat_backups_total{{{OF_NAMESPACE}}}[1h]))"},
            ),
            lines(
                "Read and stored",
                {
                    "read": f"sum(rate(longboat_backup_read_bytes_total{{{OF_NAMESPACE}}}[1h]))",
                    "stored": f"sum(rate(longboat_backup_transferred_bytes_total{{{OF_NAMESPACE}}}[1h]))",
                },
                "Bps",
                "What backups read from disks, and what they added to stores.",
            ),
            lines(
                "Under way",
                {"{{namespace}}": f"sum by (namespace) (longboat_backups_unfinished{{{OF_NAMESPACE}}})"},
            ),
            table(
                "How long they took, on average of a week",
                "topk(50, sum by (namespace, policy)"
                f" (increase(longboat_backup_duration_seconds_sum{{{OF_NAMESPACE}}}[7d]))"
                " / sum by (namespace, policy)"
                f" (increase(longboat_backup_duration_seconds_count{{{OF_NAMESPACE}}}[7d])))",
                "s",
                "Duration",
            ),
            table(
                "Under way for the longest time",
                "topk(20, time() - max by (namespace, policy)"
                f" (longboat_backup_oldest_unfinished_timestamp_seconds{{{OF_NAMESPACE}}}))",
                "s",
                "Since",
            ),
            table(
                "Change tracking that was found wrong",
                f"max by (namespace, policy) (longboat_change_tracking_mismatches{{{OF_NAMESPACE}}} > 0"
                f" or longboat_suspect_backups{{{OF_NAMESPACE}}} > 0)",
                "short",
                "Backups",
            ),
        ),
    ),
    (
        "Stores",
        (
            lines(
                "What lies in them",
                {
                    "{{store}} used": f"sum by (store) ({_USED})",
                    "{{store}} needed": f"sum by (store) (longboat_repository_live_bytes{{{OF_STORE}}})",
                    "{{store}} capacity": f"max by (store) ({_CAPACITY})",
                },
                "bytes",
                "As the last prune of each repository found it; capacity is spec.capacity.",
            ),
            bars(
                "Share of the capacity that is used",
                {"{{store}}": f"sum by (store) ({_USED}) / on (store) max by (store) ({_CAPACITY})"},
                "percentunit",
                "Of stores with spec.capacity.",
                width=6,
                steps=_FULL,
            ),
            table(
                "Full in",
                f"(max by (store) ({_CAPACITY}) - on (store) sum by (store) ({_USED}))"
                f" / on (store) (deriv(sum by (store) ({_USED})[14d:1h]) > 0)",
                "s",
                "If it goes on as in the last 14 days",
                width=6,
            ),
            table(
                "Warnings",
                f"max by (store, reason) (longboat_store_warning{{{OF_STORE}}} == 1)",
                "short",
                "Holds",
                width=8,
            ),
            bars(
                "Backups that can't be restored whole",
                {"{{store}}": f"max by (store) (longboat_store_lost_backups{{{OF_STORE}}})"},
                "short",
                width=8,
                steps=(("green", None), ("red", 1)),
            ),
            bars(
                "Oldest verification",
                {
                    "{{store}}": "time() - max by (store)"
                    f" (longboat_store_verify_oldest_timestamp_seconds{{{OF_STORE}}})"
                },
                "s",
                "Of the repository that has not been verified for the longest time.",
                width=8,
            ),
            lines(
                "What prunes remove",
                {
                    "{{store}} freed": f"max by (store) (longboat_store_prune_freed_bytes{{{OF_STORE}}})",
                    "{{store}} waiting": f"max by (store) (longboat_store_prune_waiting_bytes{{{OF_STORE}}})",
                },
                "bytes",
            ),
            lines(
                "Repositories whose upkeep fails",
                {
                    "{{store}} prune": f"max by (store) (longboat_store_prune_failing{{{OF_STORE}}})",
                    "{{store}} verify": f"max by (store) (longboat_store_verify_failing{{{OF_STORE}}})",
                },
            ),
        ),
    ),
    (
        "What is charged for",
        (
            lines(
                "Needed by namespace",
                {
                    "{{namespace}}": "topk(20, sum by (namespace)"
                    f" (longboat_repository_live_bytes{{{OF_NAMESPACE},{OF_STORE}}}))"
                },
                "bytes",
            ),
            table(
                "Needed by disk",
                f"topk(100, sum by (namespace, claim) (longboat_claim_live_bytes{{{OF_NAMESPACE},{OF_STORE}}}))",
                "bytes",
                "Needed",
            ),
            table(
                "Stored by policy",
                f"topk(100, sum by (namespace, policy) (longboat_stored_bytes{{{OF_NAMESPACE},{OF_STORE}}}))",
                "bytes",
                "Stored",
                "What its kept backups have added; what others use as well counts where it was stored first.",
            ),
            table(
                "Stored by machine",
                f"topk(100, sum by (namespace, vm) (longboat_stored_bytes{{{OF_NAMESPACE},{OF_STORE}}}))",
                "bytes",
                "Stored",
            ),
        ),
    ),
    (
        "The operator",
        (
            stat(
                "Last look at all policies",
                "time() - max(longboat_tick_timestamp_seconds)",
                "s",
                bad_from=600,
            ),
            stat("Clock skew", "max(longboat_clock_skew_seconds)", "s", bad_from=300),
            stat(
                "Backups kept",
                f"sum(max by (namespace, policy) (longboat_backups_kept{{{OF_NAMESPACE}}}))",
                bad_from=None,
            ),
            table(
                "Version",
                "max by (version) (longboat_build_info)",
                "short",
                "Running",
                width=12,
                height=4,
            ),
        ),
    ),
)
