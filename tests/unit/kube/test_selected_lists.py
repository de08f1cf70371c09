"""Lists that ask for fields, on API servers that can't, or not in time: named by the failures that are prevented."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from longboat.kube import client
from longboat.kube.client import ApiServer
from longboat.kube.kinds import DISK_BACKUP
from longboat.kube.port import Object, RefusedError, UnavailableError

DAILY = ("spec.policyRef.name=daily",)
ITEMS = [
    {"metadata": {"name": name}, "spec": {"policyRef": {"name": policy}}}
    for name, policy in (("a", "daily"), ("b", "weekly"), ("c", "daily"))
]


class Server(ApiServer):
    """Answers lists, and notes what was asked; ``failure`` is what it says to field selectors."""

    def __init__(self, failure: Exception | None = None) -> None:
        self._fields_again = {}
        self.failure = failure
        self.asked: list[Mapping[str, str]] = []

    def _json(self, method: str, path: str, query: Any = None, *_: Any, **__: Any) -> Object:
        self.asked.append(query)
        if "fieldSelector" not in query:
            return {"metadata": {}, "items": ITEMS}
        if self.failure:
            raise self.failure
        return {"metadata": {}, "items": [ITEMS[0], ITEMS[2]]}

    def names(self, **more: Any) -> str:
        return "".join(each["metadata"]["name"] for each in self.list(DISK_BACKUP, "shop", fields=DAILY, **more))


@pytest.mark.parametrize(
    "failure",
    [
        RefusedError("400", "field label not supported: spec.policyRef.name"),
        RefusedError("400", '"spec.policyRef.name" is not a known field selector: only "metadata.name"'),
        client._TooSlowError("no answer in 10 s"),
    ],
)
def test_a_server_that_cannot_select_costs_time_and_no_backup(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(failure)
    assert [server.names(), server.names()] == ["ac", "ac"]
    assert ["fieldSelector" in each for each in server.asked] == [True, False, False]
    later = client.time.monotonic() + 601
    monkeypatch.setattr(client.time, "monotonic", lambda: later)
    server.failure = None
    assert server.names() == "ac"
    assert "fieldSelector" in server.asked[-1]


@pytest.mark.parametrize("failure", [RefusedError("403", "forbidden"), UnavailableError("429")])
def test_another_failure_is_no_reason_to_read_everything(failure: Exception) -> None:
    server = Server(failure)
    with pytest.raises(type(failure)):
        server.names()
    assert len(server.asked) == 1


def test_what_is_selected_is_not_searched_for_in_chunks() -> None:
    server = Server()
    server.names()
    server.names(cached=True)
    assert server.asked == [
        {"fieldSelector": DAILY[0]},
        {"fieldSelector": DAILY[0], "resourceVersion": "0"},
    ]
