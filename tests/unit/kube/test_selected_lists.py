"""Lists that ask for fields, on API servers that can't, or not in time, and lists of big objects."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pytest
import urllib3

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


# Big objects


class Fat(ApiServer):
    """Holds objects of which no more than 30 fit into an answer."""

    def __init__(self, count: int) -> None:
        self._fields_again = {}
        self.stored = [ITEMS[0] | {"metadata": {"name": str(number)}} for number in range(count)]
        self.asked: list[str] = []

    def _json(self, method: str, path: str, query: Any = None, *_: Any, **__: Any) -> Object:
        begin, limit = int(query.get("continue", 0)), int(query.get("limit", len(self.stored)))
        self.asked.append("selected" if "fieldSelector" in query else query["limit"])
        if len(page := self.stored[begin : begin + limit]) > 30:
            raise client._TooLongError("too long")
        more = {"continue": str(begin + limit)} if begin + limit < len(self.stored) else {}
        return {"metadata": more, "items": page}


@pytest.mark.parametrize("fields", [(), DAILY])
def test_fat_objects_of_one_user_are_read_few_at_a_time(fields: tuple[str, ...]) -> None:
    server = Fat(150)
    names = [each["metadata"]["name"] for each in server.list(DISK_BACKUP, "shop", fields=fields)]
    assert names == [str(number) for number in range(150)]
    assert server.asked == [*(["selected"] if fields else []), "500", "50", *["5"] * 30]
    # The lists of others are selected as before.
    server.stored, server.asked = server.stored[:20], []
    assert len(list(server.list(DISK_BACKUP, "bank", fields=DAILY))) == 20 and server.asked == ["selected"]


def test_an_answer_that_is_too_long_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LONGEST_ANSWER", 3 << 20)
    for length in (0, 5, 3 << 20):
        assert len(client._read(urllib3.HTTPResponse(io.BytesIO(b"x" * length), preload_content=False))) == length
    body = io.BytesIO(b"x" * (9 << 20))
    assert len(client._read(urllib3.HTTPResponse(body, preload_content=False))) == (3 << 20) + 1
    assert body.closed
