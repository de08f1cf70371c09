"""Prune and verify by themselves, on real parts: what has expired goes, damage is told, and a backup heals it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from longboat.repository import StoreSettings
from tests.cluster.cluster import Cluster
from tests.e2e.upkeep import OFF, Upkeep
from tests.e2e.workloads import Namespace, claim, of_backup
from tests.installation import ensure_store, store

pytestmark = pytest.mark.cluster
NAME = "upkeep"
MIB = 1 << 20


@pytest.fixture
def upkeep(longboat: Cluster, namespace: Namespace) -> Iterator[Upkeep]:
    """A BackupStore of the test's own, in which nothing runs but what it asks for."""
    bucket = store(longboat, NAME)["spec"]["s3"] | {"prefix": NAME}
    ensure_store(longboat, NAME, default=False, s3=bucket, maintenance=OFF)
    remote = longboat.s3_settings()
    settings = StoreSettings(
        type="s3",
        endpoint=remote.endpoint,
        region=remote.region,
        bucket=remote.bucket,
        prefix=NAME,
        access_key_id=remote.access_key_id,
        secret_access_key=remote.secret_access_key,
        ca_pem=remote.ca_pem,
    )
    yield Upkeep(longboat, namespace, NAME, settings)
    longboat.kubectl("delete", "backupstore", NAME, "--wait=false")


def test_expired_data_goes_and_damage_is_told_and_healed(upkeep: Upkeep, namespace: Namespace) -> None:
    namespace.apply(claim("disk"))
    before = namespace.write("disk", seed=1, mebibytes=16)
    namespace.policy("daily", "disk", storeRef={"name": NAME})
    kept = namespace.backup("daily")
    of_kept = upkeep.files("packs")
    namespace.write("disk", seed=2, mebibytes=4, offset=32 * MIB)
    namespace.kubectl("delete", "diskbackup", namespace.backup("daily")["metadata"]["name"], "--timeout=60s")
    (gone,) = set(upkeep.files("packs")) - set(of_kept)

    upkeep.days_pass()
    condemned = upkeep.run("prune")
    assert condemned["waitingBytes"] > 2 * MIB and gone.exists(), condemned
    upkeep.days_pass()
    freed = upkeep.run("prune")
    assert freed["freedBytes"] > 2 * MIB and not gone.exists(), freed
    assert upkeep.files("packs") == of_kept

    damaged = bytearray(of_kept[0].read_bytes())
    damaged[MIB] ^= 0xFF
    namespace.restore("restored", of_backup(kept))
    assert namespace.checksum("restored") == before
    of_kept[0].write_bytes(damaged)
    upkeep.run("verify")
    assert (upkeep.verified(kept), upkeep.reason("Verified")) == ("Damaged", "Damaged")
    assert "disk disk:" in namespace.condition("diskbackup", kept["metadata"]["name"], "Verified")("Damaged")["message"]

    healing = namespace.backup("daily")
    upkeep.run("verify")
    assert (upkeep.verified(healing), upkeep.verified(kept)) == ("Yes", "Recoverable")
