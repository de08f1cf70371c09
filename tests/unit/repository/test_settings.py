"""Settings that could not work, or could reach what they must not, are refused with the field's name."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from longboat.plan.mover import split_secret
from longboat.repository import StoreProblem, StoreSettings, check_store
from longboat.repository.check import check_open_store
from longboat.repository.settings import SECRETS, forbidden_host, loopback_host
from tests.fakes.object_store import MemoryStore

S3 = {
    "type": "s3",
    "endpoint": "https://objects.example.net",
    "bucket": "backups",
    "accessKeyId": "id",
    "secretAccessKey": "hidden",
}


GCS = {"type": "gcs", "bucket": "backups", "serviceAccountKey": '{"client_email": "a", "private_key": "hidden"}'}
AZURE = {"type": "azure", "account": "longboat", "bucket": "backups", "accountKey": "hidden"}
TOKEN = {"accountKey": "", "sasToken": "sig=hidden"}
PRINCIPAL = {"accountKey": "", "tenantId": "t", "clientId": "c", "clientSecret": "hidden"}


@pytest.mark.parametrize(
    ("settings", "change", "field"),
    [
        (GCS, {"bucket": ""}, "bucket"),
        (GCS, {"serviceAccountKey": ""}, "serviceAccountKey"),
        (GCS, {"serviceAccountKey": "[]"}, "client_email, private_key"),
        (GCS, {"serviceAccountKey": '{"client_email": "a"}'}, "private_key"),
        (GCS, {"endpoint": "http://storage.example.net"}, "endpoint"),
        (GCS, {"endpoint": "https://metadata.google.internal"}, "endpoint"),
        (AZURE, {"account": ""}, "account"),
        (AZURE, {"bucket": ""}, "bucket"),
        (AZURE, {"accountKey": ""}, "exactly one"),
        (AZURE, {"sasToken": "sig=x"}, "exactly one"),
        (AZURE, {"accountKey": "", "clientId": "c"}, "all three"),
        (AZURE, {"endpoint": "https://169.254.169.254"}, "endpoint"),
    ],
)
def test_unusable_settings_of_other_buckets_name_the_field(
    settings: dict[str, object], change: dict[str, object], field: str
) -> None:
    with pytest.raises(ValidationError, match=field):
        StoreSettings.model_validate({**settings, **change})


@pytest.mark.parametrize("settings", [GCS, AZURE, AZURE | TOKEN, AZURE | PRINCIPAL])
def test_no_secret_of_any_bucket_is_shown(settings: dict[str, str]) -> None:
    made = StoreSettings.model_validate(settings)
    assert StoreSettings.model_validate_json(made.model_dump_json(by_alias=True)) == made
    assert "hidden" not in repr(made) + made.describe() + made.url
    assert "hidden" not in made.model_dump_json(exclude=set(SECRETS))
    assert "hidden" not in json.dumps(split_secret({"store": settings})[0])


def test_a_place_has_one_word() -> None:
    assert StoreSettings.model_validate(S3 | {"prefix": "prod"}).url == "s3://backups/prod"
    assert StoreSettings.model_validate(GCS).describe() == "gs://backups"
    assert StoreSettings.model_validate(AZURE).url == "azure://longboat/backups"
    assert StoreSettings.model_validate(AZURE).service_endpoint == "https://longboat.blob.core.windows.net"
    assert StoreSettings(type="folder", path="/a", prefix="b").describe() == "folder /a/b"


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
        ({"endpoint": "https://2852039166"}, "endpoint"),
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


@pytest.mark.parametrize(
    "host",
    [
        "10.1.2.3",
        "192.168.1.1",
        "objects.example.net",
        "fd00::1",
        "0x.example.net",
        "1234.example.net",
        "::ffff:a01:203",
    ],
)
def test_private_addresses_are_allowed(host: str) -> None:
    assert not forbidden_host(host)
    assert not loopback_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.169.254.",
        "2852039166",
        "0xa9fea9fe",
        "0XA9FEA9FE",
        "169.16689662",
        "0251.0376.0251.0376",
        "0xa9.0xfe.0xa9.0xfe",
        "[::ffff:169.254.169.254]",
        "::169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "fe80::1%eth0",
        "0.0.0.0",
        "0",
        "[::]",
        "224.0.0.1",
        "100.100.100.200",
        "METADATA.google.internal.",
    ],
)
def test_metadata_address_is_found_however_it_is_written(host: str) -> None:
    assert forbidden_host(host)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "0x7f000001", "2130706433", "::1", "[::ffff:127.0.0.1]", "LOCALHOST", "a.localhost."]
)
def test_loopback_is_found_however_it_is_written(host: str) -> None:
    assert loopback_host(host)


def test_name_that_resolves_to_a_metadata_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = [(2, 1, 6, "", ("169.254.169.254", 0))]
    monkeypatch.setattr("longboat.repository.check.socket.getaddrinfo", lambda *_, **__: answer)
    found = check_store(StoreSettings.model_validate(S3))
    assert (found.problem, "169.254.169.254" in found.message) == (StoreProblem.SETTINGS, True)


def test_name_that_resolves_to_the_pod_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = [(2, 1, 6, "", ("127.0.0.1", 0))]
    monkeypatch.setattr("longboat.repository.check.socket.getaddrinfo", lambda *_, **__: answer)
    found = check_store(StoreSettings.model_validate(S3))
    assert (found.problem, "127.0.0.1" in found.message) == (StoreProblem.SETTINGS, True)


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
