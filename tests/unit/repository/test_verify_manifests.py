"""Verification calls whole only what a restore takes."""

from __future__ import annotations

from longboat.repository import read_disk_manifest, verify
from longboat.repository.backups import write_disk_manifest
from tests.unit.repository.prune_world import World, built, hide, world

__all__ = ["built", "world"]


def test_a_disk_manifest_in_the_place_of_a_backups_own_is_not_called_whole(world: World) -> None:
    """A restore and a prune compare the object's id, and refuse it."""
    stored = read_disk_manifest(world.repository, world.manifests["three"])
    hide(world, stored.name)
    write_disk_manifest(world.repository, stored.manifest)
    report = verify(world.repository, share=0, now=world.store.now)
    states = {each.name: each.state for each in report.backups}
    assert report.state == "damaged" and states["three"] == "damaged" and set(states.values()) == {"ok", "damaged"}
