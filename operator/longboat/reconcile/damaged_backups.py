"""Which backups are hurt by damage in the store: where one of them is the newest of a disk, a whole one has to stay."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

from longboat.api import DiskBackup
from longboat.plan.names import disk_key
from longboat.plan.policy import is_lost
from longboat.plan.retention import Decision, Rule, good_disks, spare_whole
from longboat.reconcile import trash
from longboat.reconcile.context import Context
from longboat.reconcile.repositories import StoreProblemError
from longboat.reconcile.store_access import problem_of
from longboat.repository import Repository, RepositoryError
from longboat.repository.damage import read_damage
from longboat.repository.hurt import backups_hurt_by

log = logging.getLogger(__name__)

Hurt = dict[str, frozenset[str]]
"""By a DiskBackup's name the identities of its disks that refer to what is damaged."""


def spared(ctx: Context, runs: Sequence[DiskBackup], decisions: Sequence[Decision], rule: Rule) -> list[Decision]:
    """Return the decisions with those backups kept that count as the last whole ones of a disk.

    Without damage documents this costs one listing for each repository in which something is due. Raises
    StoreProblemError if a store does not tell of its damage.
    """
    due = {disk for each in decisions if not each.keep for disk in each.point.disks}
    # What the store does not hold any more stands in for nothing, either, nor what a verification could not read: the
    # documents of damage name packs only, and a manifest is the smallest thing that a whole backup hangs on.
    hurt: Hurt = {run.name: good_disks(run) if is_lost(run) else _suspect_disks(run) for run in runs}
    for its in _by_repository([run for run in runs if good_disks(run) & due]).values():
        for name, disks in _hurt_in(ctx, its, due).items():
            hurt[name] = hurt.get(name, frozenset()) | disks
    return spare_whole(decisions, hurt, rule, ctx.now()) if any(hurt.values()) else list(decisions)


def _suspect_disks(run: DiskBackup) -> frozenset[str]:
    """Return the disks that may hold blocks that are older than the rest, as their CSI driver left out changes."""
    return frozenset(
        disk_key(disk.claim.uid, disk.volume_handle or "")
        for disk in run.status.disks or ()
        if disk.suspected_by and disk.claim is not None
    )


def _by_repository(runs: Sequence[DiskBackup]) -> Mapping[str, list[DiskBackup]]:
    found: dict[str, list[DiskBackup]] = {}
    for run in runs:
        if run.status.store is not None:
            found.setdefault(run.status.store.model_dump_json(exclude={"location"}), []).append(run)
    return found


def _hurt_in(ctx: Context, runs: Sequence[DiskBackup], disks: set[str]) -> Hurt:
    try:
        repository = trash.own_repository(ctx, runs[0]).repository
    except StoreProblemError as problem:
        # A store that is away does not stop what lies in others; what is due in itself waits for it anyway.
        log.warning("%s: damage in a store is not known: %s", runs[0].namespace, problem)
        return {}
    try:
        return _look(repository, runs, disks)
    except RepositoryError as error:
        raise problem_of(error) from error


def _look(repository: Repository, runs: Sequence[DiskBackup], disks: set[str]) -> Hurt:
    damage = read_damage(repository)
    if not damage:
        return {}
    makers = {
        disk: {repository.keys.name_hash(name) for name in backups_hurt_by(repository, disk, damage)} for disk in disks
    }
    found = {run.name: frozenset(disk for disk, maker in _made(run) if maker in makers.get(disk, ())) for run in runs}
    return {name: hurt for name, hurt in found.items() if hurt}


def _made(run: DiskBackup) -> Iterator[tuple[str, str]]:
    """Yield the identity of each disk and the hash of the backup that made its manifest, which may be another one."""
    for disk in run.status.disks or ():
        if disk.claim is not None and disk.manifest is not None:
            yield disk_key(disk.claim.uid, disk.volume_handle or ""), disk.manifest.rsplit("-", 1)[-1]
