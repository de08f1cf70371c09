"""The operator's settings from its environment, as the chart sets it.

LONGBOAT_NAMESPACE and LONGBOAT_IMAGE are required. Optional, with their defaults: LONGBOAT_IMAGE_PULL_POLICY
(IfNotPresent), LONGBOAT_LOCATION, LONGBOAT_TRASH_PERIOD (7d), LONGBOAT_UNFREEZE_TIMEOUT_SECONDS (30; 5 to 240),
LONGBOAT_SNAPSHOT_READY_WITHIN (12h), LONGBOAT_AUTOMATIC_SNAPSHOTS (true), LONGBOAT_AUTOMATIC_SNAPSHOT_EVERY (1d),
LONGBOAT_CHANGED_BLOCKS (true), LONGBOAT_BASE_SNAPSHOT_LONGEST (35d), LONGBOAT_AUDIT_PERCENT (1; 0 to 100),
LONGBOAT_FULL_READ_EVERY (30; 0: never), LONGBOAT_MOVER_USER (107; not 0: movers never run as root),
LONGBOAT_MOVER_RESOURCES (JSON, {}), LONGBOAT_MOVER_PULL_SECRETS (names, comma separated), LONGBOAT_MOVERS_AT_ONCE (10),
LONGBOAT_MOVER_SERVICE_ACCOUNT (default), LONGBOAT_RESYNC_SECONDS (10), LONGBOAT_FULL_RESYNC (5m),
LONGBOAT_STORE_CHECK_EVERY (5m), LONGBOAT_DELETION_LIMIT (10), LONGBOAT_WORKERS (8), LONGBOAT_LOG_LEVEL (INFO),
LONGBOAT_METRICS_PORT (0: no metrics). Durations are a whole number and m, h, d or w.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from longboat.api.common import parse_duration
from longboat.reconcile.context import Settings

T = TypeVar("T")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class SettingsError(Exception):
    """A variable of the environment is missing or wrong; the message names it and what was expected."""


@dataclass(frozen=True)
class ProcessSettings:
    """What concerns the process, not the reconcilers."""

    workers: int
    log_level: str
    metrics_port: int
    """0: none are served."""


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Return the reconcilers' settings; cluster_id is left empty. Raises SettingsError."""
    read = _Reader(environment)
    return Settings(
        namespace=read.required("LONGBOAT_NAMESPACE"),
        image=read.required("LONGBOAT_IMAGE"),
        image_pull_policy=read(
            "LONGBOAT_IMAGE_PULL_POLICY", "IfNotPresent", _one_of("Always", "IfNotPresent", "Never")
        ),
        location=read("LONGBOAT_LOCATION", "", str) or None,
        trash_period=read("LONGBOAT_TRASH_PERIOD", "7d", parse_duration),
        unfreeze_timeout=timedelta(seconds=read("LONGBOAT_UNFREEZE_TIMEOUT_SECONDS", "30", _whole(5, 240))),
        snapshot_ready_within=read("LONGBOAT_SNAPSHOT_READY_WITHIN", "12h", parse_duration),
        automatic_snapshots=read("LONGBOAT_AUTOMATIC_SNAPSHOTS", "true", _one_of("true", "false")) == "true",
        automatic_snapshot_every=read("LONGBOAT_AUTOMATIC_SNAPSHOT_EVERY", "1d", parse_duration),
        mover_user=read("LONGBOAT_MOVER_USER", "107", _whole(1, 2**31 - 1)),
        mover_resources=read("LONGBOAT_MOVER_RESOURCES", "{}", _resources),
        mover_pull_secrets=read("LONGBOAT_MOVER_PULL_SECRETS", "", _names),
        movers_at_once=read("LONGBOAT_MOVERS_AT_ONCE", "10", _whole(1, 1000)),
        mover_service_account=read("LONGBOAT_MOVER_SERVICE_ACCOUNT", "default", str),
        changed_blocks=read("LONGBOAT_CHANGED_BLOCKS", "true", _one_of("true", "false")) == "true",
        base_snapshot_longest=read("LONGBOAT_BASE_SNAPSHOT_LONGEST", "35d", parse_duration),
        audit_percent=read("LONGBOAT_AUDIT_PERCENT", "1", _percent),
        full_read_every=read("LONGBOAT_FULL_READ_EVERY", "30", _whole(0, 10_000)),
        resync_period=timedelta(seconds=read("LONGBOAT_RESYNC_SECONDS", "10", _whole(1, 3600))),
        full_resync_period=read("LONGBOAT_FULL_RESYNC", "5m", parse_duration),
        store_check_period=read("LONGBOAT_STORE_CHECK_EVERY", "5m", parse_duration),
        deletion_limit=read("LONGBOAT_DELETION_LIMIT", "10", _whole(1, 100_000)),
    )


def read_process_settings(environment: Mapping[str, str]) -> ProcessSettings:
    """Return the settings of the process. Raises SettingsError."""
    read = _Reader(environment)
    return ProcessSettings(
        workers=read("LONGBOAT_WORKERS", "8", _whole(1, 64)),
        log_level=read("LONGBOAT_LOG_LEVEL", "INFO", _one_of(*LEVELS)),
        metrics_port=read("LONGBOAT_METRICS_PORT", "0", _whole(0, 65_535)),
    )


class _Reader:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def required(self, name: str) -> str:
        value = self._environment.get(name, "").strip()
        if not value:
            raise SettingsError(
                f"{name} is not set; the chart sets it, and so must whoever starts the operator by hand"
            )
        return value

    def __call__(self, name: str, default: str, parse: Callable[[str], T]) -> T:
        # An empty value is what a template makes of an unset one.
        text = self._environment.get(name, "").strip() or default
        try:
            return parse(text)
        except ValueError as error:
            raise SettingsError(f"{name}: {error}") from None


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is none of {', '.join(choices)}")
        return text

    return parse


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise ValueError(f"{text!r} is no whole number from {least} to {most}")
        return int(text)

    return parse


def _percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    # Also what is no number at all (nan) is not between the two.
    if not 0 <= value <= 100:
        raise ValueError(f"{text!r} is no number from 0 to 100")
    return value


def _resources(text: str) -> dict[str, dict[str, str]]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{text!r} is no JSON: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
        raise ValueError(f'{text!r} is not like {{"requests": {{"cpu": "1"}}, "limits": {{"memory": "1Gi"}}}}')
    return {kind: {name: str(amount) for name, amount in each.items()} for kind, each in found.items()}


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
