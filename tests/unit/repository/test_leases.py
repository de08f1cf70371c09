"""A lease says what a writer is about to refer to, before it does, and never blocks or outlives it."""

from __future__ import annotations

from longboat.repository import Repository, open_or_create_repository
from longboat.repository.documents import open_document
from longboat.repository.errors import AccessDeniedError
from longboat.repository.layout import Kind
from longboat.repository.leases import Lease, LeaseRecord
from tests.fakes.object_store import MemoryStore

PATH = "cluster/namespace"


def records(store: MemoryStore, repository: Repository) -> list[LeaseRecord]:
    names = sorted(name for name in store.objects if "/leases/" in name)
    return [open_document(repository.keys, Kind.LEASE, store.objects[n][0], LeaseRecord)[1] for n in names]


def test_lease_tells_parent_and_new_packs_with_each_renewal() -> None:
    store = MemoryStore()
    repository = open_or_create_repository(store, PATH, b"k" * 32)
    packs, maps = ["p1"], list[str]()
    with Lease(repository, "disk", "backup", lambda told: (packs[told[0] :], maps[told[1] :])) as lease:
        assert [r.packs for r in records(store, repository)] == [("p1",)]
        packs.append("p2")
        maps.append("m1")
        lease.name_parent("disks/x")
        lease.renew()
        assert [(r.parent, r.packs) for r in records(store, repository)] == [
            (None, ("p1",)),
            ("disks/x", ("p2", "m1")),
            ("disks/x", ()),
        ]
    assert records(store, repository) == []


class KeepingStore(MemoryStore):
    """Credentials that may not delete."""

    def delete(self, name: str) -> None:
        raise AccessDeniedError(name)


def test_lease_that_can_not_be_removed_does_no_harm() -> None:
    store = KeepingStore()
    repository = open_or_create_repository(store, PATH, b"k" * 32)
    with Lease(repository, "disk", "backup"):
        pass
    assert len(records(store, repository)) == 1
