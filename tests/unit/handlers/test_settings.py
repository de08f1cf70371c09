"""Settings from the environment: named by the failures that each test prevents."""

from __future__ import annotations

from datetime import timedelta

import pytest

from longboat.handlers.settings import SettingsError, read_process_settings, read_settings

LEAST = {"LONGBOAT_NAMESPACE": "longboat-system", "LONGBOAT_IMAGE": "longboat:1"}


def test_the_least_environment_is_enough() -> None:
    settings = read_settings(LEAST)
    assert (settings.namespace, settings.image, settings.location) == ("longboat-system", "longboat:1", None)
    assert settings.trash_period == timedelta(days=7)
    assert settings.automatic_snapshots
    assert read_process_settings(LEAST).workers == 8


def test_everything_can_be_set() -> None:
    settings = read_settings(
        LEAST
        | {
            "LONGBOAT_IMAGE_PULL_POLICY": "Never",
            "LONGBOAT_LOCATION": "lon-1",
            "LONGBOAT_TRASH_PERIOD": "2w",
            "LONGBOAT_UNFREEZE_TIMEOUT_SECONDS": "15",
            "LONGBOAT_SNAPSHOT_READY_WITHIN": "3h",
            "LONGBOAT_AUTOMATIC_SNAPSHOTS": "false",
            "LONGBOAT_AUTOMATIC_SNAPSHOT_EVERY": "12h",
            "LONGBOAT_MOVER_USER": "1000",
            "LONGBOAT_MOVERS_AT_ONCE": "3",
            "LONGBOAT_MOVER_RESOURCES": '{"requests": {"cpu": 1}}',
            "LONGBOAT_MOVER_PULL_SECRETS": "a, b",
            "LONGBOAT_RESYNC_SECONDS": "5",
            "LONGBOAT_FULL_RESYNC": "10m",
            "LONGBOAT_STORE_CHECK_EVERY": "1m",
            "LONGBOAT_DELETION_LIMIT": "3",
            "LONGBOAT_AUDIT_PERCENT": "0.5",
            "LONGBOAT_FULL_READ_EVERY": "0",
        }
    )
    assert settings.image_pull_policy == "Never"
    assert settings.location == "lon-1"
    assert settings.trash_period == timedelta(weeks=2)
    assert settings.unfreeze_timeout == timedelta(seconds=15)
    assert settings.snapshot_ready_within == timedelta(hours=3)
    assert not settings.automatic_snapshots
    assert settings.automatic_snapshot_every == timedelta(hours=12)
    assert settings.mover_user == 1000
    assert settings.movers_at_once == 3
    assert settings.mover_resources == {"requests": {"cpu": "1"}}
    assert settings.mover_pull_secrets == ("a", "b")
    assert settings.resync_period == timedelta(seconds=5)
    assert settings.full_resync_period == timedelta(minutes=10)
    assert settings.store_check_period == timedelta(minutes=1)
    assert settings.deletion_limit == 3
    assert (settings.audit_percent, settings.full_read_every) == (0.5, 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LONGBOAT_NAMESPACE", ""),
        ("LONGBOAT_IMAGE_PULL_POLICY", "Sometimes"),
        ("LONGBOAT_TRASH_PERIOD", "soon"),
        ("LONGBOAT_AUTOMATIC_SNAPSHOTS", "yes"),
        ("LONGBOAT_MOVER_USER", "-1"),
        ("LONGBOAT_MOVER_USER", "0"),
        ("LONGBOAT_MOVERS_AT_ONCE", "0"),
        ("LONGBOAT_MOVER_RESOURCES", "cpu=1"),
        ("LONGBOAT_MOVER_RESOURCES", '{"cpu": "1"}'),
        ("LONGBOAT_RESYNC_SECONDS", "0"),
        # A cut is looked after for five minutes: a guest must have thawed itself before.
        ("LONGBOAT_UNFREEZE_TIMEOUT_SECONDS", "241"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        read_settings(LEAST | {name: value})


def test_an_empty_value_means_the_default() -> None:
    assert read_settings(LEAST | {"LONGBOAT_LOCATION": "", "LONGBOAT_TRASH_PERIOD": " "}).trash_period.days == 7
