"""Two default stores are told; alone, as every policy that names no store waits meanwhile."""

from __future__ import annotations

import pytest

from tests import installation
from tests.e2e.test_bad_input import seen
from tests.e2e.workloads import Namespace, Object, claim

pytestmark = pytest.mark.cluster
WITHOUT_STORE: Object = {
    "target": {"disk": {"persistentVolumeClaim": "disk"}},
    "schedule": {"daily": {}},
    "retention": {"keepFor": "7d"},
}


def test_two_default_stores_are_told_on_both_and_on_policies_that_name_none(namespace: Namespace) -> None:
    namespace.apply(claim("disk"))
    second = installation.store(namespace.cluster, "second-default")
    second["spec"] |= {
        "credentialsSecretRef": {"name": "offsite-s3"},
        "encryption": {"keySecretRef": {"name": "offsite-key"}},
    }
    second["spec"]["s3"]["caBundleRef"] = {"name": "offsite-ca"}
    installation.apply(namespace.cluster, second)
    try:
        namespace.apply(namespace.ours("BackupPolicy", "which-store", WITHOUT_STORE))
        found = namespace.condition("backuppolicy", "which-store", "Ready")("SeveralDefaultStores")
        seen("two default stores", "BackupPolicy: SeveralDefaultStores", found["message"])
    finally:
        namespace.cluster.kubectl("delete", "backupstore", "second-default")
    namespace.condition("backuppolicy", "which-store", "Ready")("Scheduled")
