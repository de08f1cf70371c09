"""The ports on the real API server, through the official client's transport."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import urlencode

import urllib3
from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config

from longboat.kube.fields import matches
from longboat.kube.kinds import EVENT, NAMESPACE, POD, VIRTUAL_MACHINE, VIRTUAL_MACHINE_INSTANCE, Kind, kind_of
from longboat.kube.port import (
    AlreadyExistsError,
    ConflictError,
    KubeError,
    NotFoundError,
    Object,
    Operation,
    RefusedError,
    UnavailableError,
)

log = logging.getLogger(__name__)

CHUNK, SMALLEST_CHUNK = 500, 5
# Bytes of an answer. Objects may be of 1.5 MB, and who may create them may create many: what is longer is not read, and
# lists are asked for in smaller pieces instead.
LONGEST_ANSWER = 16 << 20
# Seconds after which field selectors are tried again that were refused, or took too long.
FIELDS_AGAIN = 600.0
# What API servers say to a field selector that a CRD does not offer: from Kubernetes 1.31 on, and before.
FIELDS_REFUSED = ("field label not supported", "not a known field selector")
TIMEOUT = 10.0
# virt-api itself gives up on the launcher after 10 s; its answer must still be read.
SUBRESOURCE_TIMEOUT = 15.0
SUBRESOURCES = "subresources.kubevirt.io/v1"


def connect(kubeconfig: str | None = None, context: str | None = None) -> kubernetes_client.ApiClient:
    """Return a connection: in a pod by its service account, else by the kubeconfig (the default one if None)."""
    configuration = kubernetes_client.Configuration()
    # A request that failed is seen again by the next reconcile; silent repetition would only hide the fault.
    configuration.retries = False
    try:
        if kubeconfig or context:
            raise kubernetes_config.ConfigException
        kubernetes_config.load_incluster_config(client_configuration=configuration)
    except kubernetes_config.ConfigException:
        kubernetes_config.load_kube_config(kubeconfig, context=context, client_configuration=configuration)
    return kubernetes_client.ApiClient(configuration)


class _TooSlowError(UnavailableError):
    """The API server has the request, and did not answer in time."""


class _TooLongError(UnavailableError):
    """The answer is longer than what is read."""


class ApiServer:
    """Cluster and VirtualMachines (see port) on an API server."""

    def __init__(self, api: kubernetes_client.ApiClient, component: str = "longboat") -> None:
        self._api = api
        self._component = component
        self._fields_again: dict[Kind, float] = {}

    def get(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        try:
            return self._json("GET", kind.path(namespace, name))
        except NotFoundError:
            return None

    def list(
        self,
        kind: Kind,
        namespace: str = "",
        labels: Mapping[str, str] | None = None,
        fields: Sequence[str] = (),
        *,
        cached: bool = False,
    ) -> Iterator[Object]:
        query = {}
        if labels:
            query["labelSelector"] = ",".join(f"{key}={value}" for key, value in labels.items())
        if fields and time.monotonic() >= self._fields_again.get(kind, 0.0):
            try:
                yield from self._selected(kind, namespace, query, fields, cached)
                return
            except _TooLongError:
                # It is this list alone that is long.
                pass
            except (RefusedError, _TooSlowError) as error:
                if isinstance(error, RefusedError) and not any(text in error.answer for text in FIELDS_REFUSED):
                    raise
                # What can't be selected, or not in time, is read in chunks: that is slow, and as right.
                self._fields_again[kind] = time.monotonic() + FIELDS_AGAIN
        pages = self._pages(kind, namespace, query, CHUNK)
        yield from (each for each in pages if matches(each, fields))

    def _selected(
        self, kind: Kind, namespace: str, query: dict[str, str], fields: Sequence[str], cached: bool
    ) -> tuple[Object, ...]:
        # Without a limit: with one, API servers before 1.34 don't use their cache, and look for the limit's worth of
        # matches in everything that is stored.
        version = {"resourceVersion": "0"} if cached else {}
        return tuple(self._pages(kind, namespace, query | {"fieldSelector": ",".join(fields)} | version))

    def _pages(self, kind: Kind, namespace: str, query: dict[str, str], limit: int = 0) -> Iterator[Object]:
        while True:
            try:
                page = self._json("GET", kind.path(namespace), query=query | ({"limit": str(limit)} if limit else {}))
            except NotFoundError:
                return
            except _TooLongError:
                if limit <= SMALLEST_CHUNK:
                    raise
                limit //= 10
                continue
            for item in page.get("items") or ():
                # Items of a list come without their own apiVersion and kind.
                yield {"apiVersion": kind.api_version, "kind": kind.name} | item
            if not (token := page["metadata"].get("continue")):
                return
            query = query | {"continue": token}

    def create(self, obj: Object) -> Object:
        return self._json("POST", kind_of(obj).path(obj["metadata"].get("namespace", "")), body=obj)

    def patch(self, kind: Kind, name: str, operations: Sequence[Operation], namespace: str = "") -> Object:
        return self._json(
            "PATCH", kind.path(namespace, name), body=[*operations], content="application/json-patch+json"
        )

    def update_status(self, obj: Object) -> Object:
        meta = obj["metadata"]
        return self._json("PUT", kind_of(obj).path(meta.get("namespace", ""), meta["name"], "status"), body=obj)

    def delete(self, kind: Kind, name: str, namespace: str = "", *, uid: str | None = None) -> bool:
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            self._json("DELETE", kind.path(namespace, name), body=options)
        except NotFoundError:
            return False
        return True

    def logs(self, pod: str, namespace: str, *, tail: int = 20) -> str:
        try:
            data = self._request("GET", POD.path(namespace, pod, "log"), query={"tailLines": str(tail)})
        except (NotFoundError, RefusedError):
            # A container that has not started yet has no log; the API server calls that a bad request.
            return ""
        return data.decode("utf-8", "replace")

    def server_time(self) -> datetime:
        # Which object is asked for matters to nobody: every answer is dated.
        _, headers = self._answer("GET", NAMESPACE.path("", "kube-system"))
        try:
            return parsedate_to_datetime(headers["Date"])
        except (KeyError, ValueError) as error:
            raise UnavailableError(f"the API server does not say what time it is: {error}") from error

    def event(self, about: Object, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        try:
            self.create(_event(about, kind, reason, message, self._component))
        except (KubeError, KeyError) as error:
            log.warning("the event %s about %s was not recorded: %s", reason, about["metadata"].get("name"), error)

    def freeze(self, name: str, namespace: str, unfreeze_timeout: str) -> None:
        self._subresource(VIRTUAL_MACHINE_INSTANCE, namespace, name, "freeze", {"unfreezeTimeout": unfreeze_timeout})

    def unfreeze(self, name: str, namespace: str) -> None:
        self._subresource(VIRTUAL_MACHINE_INSTANCE, namespace, name, "unfreeze", None)

    def add_volume(self, name: str, namespace: str, volume: Object, *, dry_run: bool = False) -> None:
        body = volume | ({"dryRun": ["All"]} if dry_run else {})
        self._subresource(VIRTUAL_MACHINE, namespace, name, "addvolume", body)

    def _subresource(self, kind: Kind, namespace: str, name: str, verb: str, body: Object | None) -> None:
        path = f"/apis/{SUBRESOURCES}/namespaces/{namespace}/{kind.plural}/{name}/{verb}"
        try:
            self._request("PUT", path, body=body, timeout=SUBRESOURCE_TIMEOUT)
        except AlreadyExistsError as error:
            raise ConflictError(str(error)) from None

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content: str = "application/json",
    ) -> Object:
        data: Object = json.loads(self._request(method, path, query, body, content))
        return data

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content: str = "application/json",
        timeout: float = TIMEOUT,
    ) -> bytes:
        return self._answer(method, path, query, body, content, timeout)[0]

    def _answer(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content: str = "application/json",
        timeout: float = TIMEOUT,
    ) -> tuple[bytes, Mapping[str, str]]:
        # KubeVirt's subresources produce nothing and refuse to be asked for JSON alone (406).
        headers = {"Accept": "application/json, */*", "User-Agent": "longboat"}
        if body is not None:
            headers["Content-Type"] = content
        self._api.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = self._api.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        try:
            response = self._api.call_api(method, url, headers, body, _request_timeout=timeout)
            data = _read(response.response)
        except urllib3.exceptions.ReadTimeoutError as error:
            raise _TooSlowError(f"{method} {path}: no answer from the API server in {timeout:.0f} s") from error
        except (urllib3.exceptions.HTTPError, kubernetes_client.ApiException, OSError) as error:
            raise UnavailableError(f"{method} {path}: no answer from the API server: {error}") from error
        if len(data) > LONGEST_ANSWER:
            raise _TooLongError(f"{method} {path}: the answer is longer than {LONGEST_ANSWER} bytes")
        if response.status >= 300:
            raise _failure(method, path, response.status, data)
        return data, response.response.headers


def _read(response: urllib3.BaseHTTPResponse) -> bytes:
    """Return what was answered, a byte more than the longest if it is longer: the rest of it is never sent."""
    pieces, length = [], 0
    while length <= LONGEST_ANSWER and (piece := response.read(min(1 << 20, LONGEST_ANSWER + 1 - length))):
        pieces.append(piece)
        length += len(piece)
    if length > LONGEST_ANSWER:
        response.close()
    else:
        response.release_conn()
    return b"".join(pieces)


def _failure(method: str, path: str, status: int, data: bytes) -> KubeError:
    try:
        answer = json.loads(data)
        reason, message, details = answer.get("reason", ""), answer.get("message") or "", answer.get("details")
    except (ValueError, AttributeError):
        reason, message, details = "", data.decode("utf-8", "replace").strip(), None
    text = f"{method} {path}: {status} {message[:2000]}"
    if reason == "AlreadyExists":
        return AlreadyExistsError(text)
    # A JSON patch that does not fit (a failed `test`, a path that is not there) is answered with 422 and no details;
    # an object that is invalid comes with details (apiserver 1.36, patch.go and errors.go).
    if status == 409 or (status == 422 and method == "PATCH" and not details):
        return ConflictError(text)
    if status == 404:
        return NotFoundError(text)
    if status in (401, 408, 429) or status >= 500:
        return UnavailableError(text)
    return RefusedError(text, message[:1000])


def _event(about: Object, kind: str, reason: str, message: str, component: str) -> Object:
    meta = about["metadata"]
    now = datetime.now(UTC)
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.name,
        # Events about cluster-scoped objects lie in the namespace default, as Kubernetes itself does it.
        "metadata": {
            "name": f"{meta['name'][:220]}.{int(now.timestamp() * 1e6):x}",
            "namespace": meta.get("namespace") or "default",
        },
        "involvedObject": {
            "apiVersion": about["apiVersion"],
            "kind": about["kind"],
            "name": meta["name"],
            "namespace": meta.get("namespace"),
            "uid": meta.get("uid"),
        },
        "type": kind,
        "reason": reason,
        "message": message[:1024],
        "source": {"component": component},
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
