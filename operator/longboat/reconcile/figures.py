"""What the tick has seen of all objects, for those who scrape: no scrape asks the API server for anything."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from longboat.api import BackupStore
from longboat.kube.kinds import BACKUP_STORE, VIRTUAL_MACHINE
from longboat.kube.port import Object
from longboat.plan.maintenance import bucket_of
from longboat.plan.metrics import (
    Sample,
    Survey,
    machine_samples,
    orphan_samples,
    policy_samples,
    repository_samples,
    store_samples,
    unfinished_samples,
)
from longboat.reconcile import clock
from longboat.reconcile.context import Context
from longboat.reconcile.maintenance_records import all_records
from longboat.reconcile.objects import namespace_names, readable

log = logging.getLogger(__name__)

Samples = tuple[Sample, ...]
Name = tuple[str, str]
"""Namespace and name of a policy."""
UNREADABLE = (KeyError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True)
class Told:
    """What a policy says, in one version of it; ``tells_usage`` if that includes what its backups occupy."""

    version: str
    samples: Samples
    tells_usage: bool


class Figures:
    """The newest samples; each part is replaced as a whole when a pass over its objects has come to its end.

    Written by the tick's thread alone and read by any.
    """

    def __init__(self) -> None:
        self._policies: dict[Name, Told] | None = None
        self._stores: Samples = ()
        self._unfinished: Samples = ()
        self._repositories: Samples = ()
        self._machines: Samples = ()
        self._stored: dict[tuple[str, ...], int] | None = None
        self._clock: Samples = ()
        self._ticked = 0.0

    @property
    def is_known(self) -> bool:
        """Whether all policies have been seen since the operator began: what is served before would be a part."""
        return self._policies is not None

    def __call__(self, ctx: Context) -> None:
        """Look at the stores, and now and then at the clock: a step of the tick."""
        self._stores = tuple(_of_all(ctx.cluster.list(BACKUP_STORE), store_samples))
        self._clock = (("longboat_clock_skew_seconds", (), abs(clock.skew(ctx).total_seconds())),)

    def repositories(self, ctx: Context) -> None:
        """Look at what prunes have found: a step of each full pass, as that changes once a day."""
        records = all_records(ctx.cluster, ctx.settings.namespace)
        stores = readable(BackupStore, ctx.cluster.list(BACKUP_STORE))
        buckets = {each.name: bucket_of(each) for each in stores}
        self._repositories = tuple(repository_samples(records, namespace_names(ctx.cluster), buckets))

    def machines(self, ctx: Context) -> None:
        """Look which virtual machines are targets of policies: a step of each full pass."""
        if self._policies is not None:
            told = [each.samples for each in self._policies.values()]
            self._machines = tuple(machine_samples(ctx.cluster.list(VIRTUAL_MACHINE), told))

    def policies(self, policies: Iterable[Object], now: float) -> Iterator[Object]:
        """Hand policies on to whoever goes through all of them, and take note of what they say."""
        before, seen = self._policies or {}, dict[Name, Told]()
        for each in policies:
            meta = each["metadata"]
            key, version = (meta["namespace"], meta["name"]), str(meta.get("resourceVersion"))
            known = before.get(key)
            # Most have not changed since the last tick.
            seen[key] = known if known and known.version == version else _told(each, version)
            yield each
        self._policies, self._ticked = seen, now

    def backups(self, backups: Iterable[Object], *, all_of_them: bool) -> Iterator[Object]:
        """Hand DiskBackups on, and take note of what has not ended, and, of all of them, of what they occupy."""
        survey = Survey()
        for each in backups:
            try:
                survey.note(each)
            except UNREADABLE as error:
                log.debug("DiskBackup %s is left out of the metrics: %s", each["metadata"].get("name"), error)
            yield each
        self._unfinished = tuple(unfinished_samples(survey.unfinished))
        if all_of_them:
            self._stored = survey.stored

    def parts(self) -> Iterator[Samples]:
        """Yield everything that is known, in parts; a part that has not changed is the same object as before."""
        policies, stored = self._policies or {}, self._stored
        yield ("longboat_tick_timestamp_seconds", (), self._ticked), *self._stores, *self._unfinished
        yield self._clock
        yield self._repositories
        yield self._machines
        for each in policies.values():
            yield each.samples
        if stored is not None:
            yield tuple(orphan_samples(stored, (name for name, each in policies.items() if each.tells_usage)))

    @property
    def withheld(self) -> frozenset[str]:
        """Metrics that are not to be told yet.

        What is stored would be too little without the backups of policies that are gone, which only a pass over all
        backups finds: rather nothing.
        """
        return frozenset({"longboat_stored_bytes"}) if self._stored is None else frozenset()


def _told(policy: Object, version: str) -> Told:
    samples = _of(policy, policy_samples)
    return Told(version, samples, bool(samples) and (policy.get("status") or {}).get("usage") is not None)


def _of_all(objects: Iterable[Object], samples: Callable[[Object], Iterator[Sample]]) -> Iterator[Sample]:
    for each in objects:
        yield from _of(each, samples)


def _of(obj: Object, samples: Callable[[Object], Iterator[Sample]]) -> Samples:
    try:
        return tuple(samples(obj))
    except UNREADABLE as error:
        # Its own reconciler tells what is wrong with it.
        log.debug("%s is left out of the metrics: %s", obj["metadata"].get("name"), error)
        return ()
