"""What the operator asks of Kubernetes and KubeVirt, and how it may fail.

Everything is synchronous: kopf runs synchronous handlers in threads of its own. A call never waits longer than its
time-out (10 s unless said otherwise), and never repeats itself: what reconciles comes back anyway.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol

from longboat.kube.kinds import Kind

Object = dict[str, Any]
"""An object as the API server sends it: apiVersion, kind, metadata and the rest."""
Operation = dict[str, Any]
"""One operation of a JSON patch (RFC 6902): op, path and value."""


class KubeError(Exception):
    """Base of the family: the message names the call and says what the API server answered."""


class NotFoundError(KubeError):
    """The object, or its kind, does not exist."""


class AlreadyExistsError(KubeError):
    """Something of this name exists."""


class ConflictError(KubeError):
    """The object has changed since it was read, or a patch does not fit it (`test` failed, path gone). Read again."""


class RefusedError(KubeError):
    """The API server will not have it as it is (invalid, forbidden, over quota): asking again does not help.

    ``answer`` is what it said, without the call: that is for conditions, which users read.
    """

    def __init__(self, message: str, answer: str = "") -> None:
        super().__init__(message)
        self.answer = answer or message


class UnavailableError(KubeError):
    """No answer in time, or one that says to come back (429, 5xx)."""


class Cluster(Protocol):
    """Reads and writes objects. Every method may raise UnavailableError."""

    def get(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        """Return the object, or None if it, or its kind, does not exist."""

    def list(
        self,
        kind: Kind,
        namespace: str = "",
        labels: Mapping[str, str] | None = None,
        fields: Sequence[str] = (),
        *,
        cached: bool = False,
    ) -> Iterator[Object]:
        """Yield the objects with all of these labels and fields; of all namespaces if none is named.

        They come in chunks of 500, fewer if they are big, with fields in one: those are for the few among many.
        ``fields`` are "path=value" or "path!=value" (an absent field is ""), of those that the kind's model calls
        selectable. ``cached`` fields may be a moment old: enough to find work, not to decide what is deleted. Yields
        nothing if the kind does not exist.
        """

    def create(self, obj: Object) -> Object:
        """Create the object. Raises AlreadyExistsError, RefusedError, NotFoundError (no such namespace or kind)."""

    def patch(self, kind: Kind, name: str, operations: Sequence[Operation], namespace: str = "") -> Object:
        """Apply a JSON patch. Raises NotFoundError, ConflictError (it does not fit), RefusedError."""

    def update_status(self, obj: Object) -> Object:
        """Replace the status; metadata.resourceVersion must be that of the object read.

        Raises NotFoundError, ConflictError (changed since), RefusedError.
        """

    def delete(self, kind: Kind, name: str, namespace: str = "", *, uid: str | None = None) -> bool:
        """Delete the object, its dependents in the background; return whether it was there.

        With ``uid`` only the very object that was looked at is deleted: another of the same name raises ConflictError.
        """

    def logs(self, pod: str, namespace: str, *, tail: int = 20) -> str:
        """Return the last lines that a pod's only container wrote; empty if there are none (yet)."""

    def server_time(self) -> datetime:
        """Return what the clock of the API server says, in whole seconds."""

    def event(self, about: Object, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Record an Event about an object; never fails."""


class VirtualMachines(Protocol):
    """KubeVirt's subresources. Every method may raise UnavailableError (also when virt-api gave up waiting)."""

    def freeze(self, name: str, namespace: str, unfreeze_timeout: str) -> None:
        """Freeze the guest's file systems; the guest thaws itself after the time-out (such as "30s").

        Raises NotFoundError, ConflictError (not running), RefusedError. A freeze that failed may still happen: thaw.
        """

    def unfreeze(self, name: str, namespace: str) -> None:
        """Thaw the guest's file systems. Raises NotFoundError, ConflictError (not running), RefusedError."""

    def add_volume(self, name: str, namespace: str, volume: Object, *, dry_run: bool = False) -> None:
        """Attach a volume to a running virtual machine, and keep it in its spec (`addvolume`).

        Raises NotFoundError, ConflictError (name or claim taken), RefusedError (no hot-plug in this cluster).
        """
