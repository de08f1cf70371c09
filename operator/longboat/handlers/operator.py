"""kopf's side of the operator: events become keys in the queue, nothing else.

No handler patches anything, so that kopf adds neither finalizers nor annotations; no timers, daemons or indexes, whose
cost grows with the number of objects.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, cast

import kopf

from longboat.api import KINDS
from longboat.api.common import GROUP, VERSION
from longboat.handlers import runtime
from longboat.handlers.settings import SettingsError
from longboat.kube.kinds import VOLUME_SNAPSHOT
from longboat.kube.port import KubeError
from longboat.plan.names import MANAGED_BY, MANAGER

LIVENESS = "http://0.0.0.0:8080/healthz"
# No Jobs: kopf would watch those of every namespace, for which the operator has no right, and needs none. Who waits for
# a Job looks at it every few seconds, for its progress.
CHILDREN = (VOLUME_SNAPSHOT,)
_OURS = f"{MANAGED_BY}={MANAGER}"


@kopf.on.login()
def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """Return kopf's credentials, read anew each time: the pod's service account, or else the kubeconfig."""
    account = kopf.login_with_service_account(**kwargs)
    return _by_address(account, os.environ) if account else kopf.login_with_kubeconfig(**kwargs)


def _by_address(account: kopf.ConnectionInfo, environment: Mapping[str, str]) -> kopf.ConnectionInfo:
    # kopf asks for kubernetes.default.svc. The address that the kubelet gives every pod, and the official client uses,
    # also works where the cluster's DNS does not: backups must not depend on it.
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        return account
    return dataclasses.replace(account, server=f"https://{f'[{host}]' if ':' in host else host}:{port}")


# What is not expected ends the process, whose restart says so to whoever watches pods.
@kopf.on.startup(errors=kopf.ErrorsMode.PERMANENT)
def startup(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    """Set kopf up and start the operator."""
    configure(settings)
    try:
        memo.runtime = runtime.start()
    except SettingsError as error:
        raise kopf.PermanentError(str(error)) from None
    except KubeError as error:
        raise kopf.TemporaryError(str(error), delay=2) from None


@kopf.on.cleanup()
def cleanup(memo: kopf.Memo, **_: Any) -> None:
    """Stop the operator."""
    if "runtime" in memo:
        _runtime(memo).stop()


@kopf.on.probe(id="tick")
def tick_age(memo: kopf.Memo, **_: Any) -> str:
    """Answer the liveness probe: alive is who ticks, and is told of what happens."""
    if problem := _runtime(memo).trouble():
        raise kopf.PermanentError(problem)
    return f"{_runtime(memo).tick.age():.1f}"


# Not blocking, and asynchronous for it: a thread for each event would cost more than the event.
async def changed(*, event: kopf.RawEvent, memo: Any, param: Any = None, **_: Any) -> None:
    """Hand on an event about an object of ours."""
    # What comes from a list carries no kind of its own.
    obj = cast(dict[str, Any], {**event["object"], "kind": param})
    _runtime(memo).changed(obj, event["type"])


async def child_changed(*, event: kopf.RawEvent, memo: Any, **_: Any) -> None:
    """Hand on an event about something made for an object of ours."""
    _runtime(memo).child_changed(cast(dict[str, Any], event["object"]), event["type"])


for _kind in KINDS:
    _name = _kind.model_fields["kind"].default
    kopf.on.event(GROUP, VERSION, _kind.plural, id=_kind.plural, param=_name)(changed)
for _child in CHILDREN:
    _group, _, _version = _child.api_version.partition("/")
    kopf.on.event(_group, _version, _child.plural, id=_child.plural, labels={MANAGED_BY: MANAGER})(child_changed)


def configure(settings: kopf.OperatorSettings) -> None:
    """Set what kopf leaves open: watches that cannot die unnoticed, and no traces on objects."""
    settings.posting.enabled = False
    settings.persistence.finalizer = f"{GROUP}/unused"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP)
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    # The API server sends a bookmark each minute: a connection without any is dead.
    settings.watching.inactivity_timeout = 150
    # Objects of users may be a megabyte each, and a page of them is read at once.
    settings.watching.chunk_size = 100
    settings.networking.request_timeout = 60
    settings.networking.connect_timeout = 10
    settings.queueing.idle_timeout = 1
    settings.process.ultimate_exiting_timeout = 25
    for child in CHILDREN:
        group, version = child.api_version.split("/")
        settings.watching.label_selectors[group, version, child.plural] = _OURS


def run(liveness: str = LIVENESS) -> None:
    """Run until a signal comes, and answer the liveness probe at this URL."""
    # One replica, which is not started before the other has ended: peering would only pause, not fence.
    kopf.run(clusterwide=True, standalone=True, liveness_endpoint=liveness)


def _runtime(memo: kopf.Memo) -> runtime.Runtime:
    return cast(runtime.Runtime, memo.runtime)
