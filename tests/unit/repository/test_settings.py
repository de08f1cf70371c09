"""Settings that could not work, or could reach what they must not, are refused with the field's name."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from longboat.repository import StoreProblem, StoreSettings, check_store
from longboat.repository.check import check_open_store
from longboat.repository.settings import forbidden_host
from tests.fakes.object_store import MemoryStore

S3 = {
    "type": "s3",
    "endpoint": "https://objects.example.net",
    "bucket": "backups",
    "accessKeyId": "id",
    "secretAccessKey": "hidden",
}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"endpoint": "http://objects.example.net"}, "endpoint"),
        ({"endpoint": "objects.example.net"}, "endpoint"),
        ({"endpoint": "https://objects.example.net/bucket"}, "endpoint"),
        ({"endpoint": "https://169.254.169.254"}, "endpoint"),
        ({"endpoint": "https://[fe80::1]"}, "endpoint"),
        ({"endpoint": "https://[::ffff:169.254.169.254]"}, "endpoint"),
        ({"endpoint": "https://metadata.google.internal"}, "endpoint"),
        ({"bucket": ""}, "bucket"),
        ({"accessKeyId": ""}, "accessKeyId"),
        ({"prefix": "../other"}, "prefix"),
        ({"prefix": "/a"}, "prefix"),
        ({"type": "folder"}, "path"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_unusable_settings_name_the_field(change: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        StoreSettings.model_validate({**S3, **change})


def test_settings_survive_json_and_hide_secrets() -> None:
    settings = StoreSettings.model_validate(S3)
    assert StoreSettings.model_validate_json(settings.model_dump_json(by_alias=True)) == settings
    assert "hidden" not in repr(settings) + str(settings) + settings.describe()


@pytest.mark.parametrize("host", ["10.1.2.3", "192.168.1.1", "objects.example.net", "fd00::1", "127.0.0.1"])
def test_private_addresses_are_allowed(host: str) -> None:
    assert not forbidden_host(host)


def test_name_that_resolves_to_a_metadata_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = [(2, 1, 6, "", ("169.254.169.254", 0))]
    monkeypatch.setattr("longboat.repository.check.socket.getaddrinfo", lambda *_, **__: answer)
    found = check_store(StoreSettings.model_validate(S3))
    assert (found.problem, "169.254.169.254" in found.message) == (StoreProblem.SETTINGS, True)


class OverwritingStore(MemoryStore):
    """Ignores If-None-Match, as some servers do."""

    def put_new(self, name: str, data: bytes | bytearray | memoryview) -> str:
        self.objects.pop(name, None)
        return super().put_new(name, data)


class UnconditionalStore(MemoryStore):
    """Ignores If-Match."""

    def put_if_match(self, name: str, data: bytes | bytearray | memoryview, etag: str) -> str:
        self.objects.pop(name, None)
        return super().put_new(name, data)


def test_store_without_conditional_writes_is_refused() -> None:
    assert check_open_store(OverwritingStore()).problem is StoreProblem.CREATE_ONLY
    assert check_open_store(UnconditionalStore()).problem is StoreProblem.CONDITIONAL
