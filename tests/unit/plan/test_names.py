"""Names of runs: two that differ in anything have different names, and each is one that Kubernetes takes."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from longboat.plan.names import backup_name

SLOT = datetime(2026, 11, 22, 3, 30, tzinfo=UTC)
DNS_LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")


def test_runs_of_many_machines_never_share_a_name() -> None:
    names = {backup_name("daily", f"machine-{number}", SLOT) for number in range(20_000)}
    assert len(names) == 20_000


def test_policies_of_like_names_do_not_block_each_other() -> None:
    # Long names are cut off, so that the hash alone tells these runs apart.
    policies = ("p" * 50 + str(number) for number in range(20_000))
    assert len({backup_name(policy, "u", SLOT) for policy in policies}) == 20_000


def test_the_name_of_a_run_is_a_dns_label_however_long_its_policys_is() -> None:
    for policy in ("p", "p" * 253, "a.b" * 80, "p" * 37 + ".x"):
        assert DNS_LABEL.match(backup_name(policy, "u", SLOT)), policy
