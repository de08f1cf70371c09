"""Where `longboat repo` finds its store: in flags, variables or a file; mistakes are told."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from longboat.cli.repo_access import UsageError, store_settings
from longboat.cli.repo_arguments import parser
from longboat.repository import StoreSettings


def _settings(*arguments: str, **environment: str) -> StoreSettings:
    return store_settings(parser().parse_args(["list", *arguments]), environment)


def test_the_store_comes_from_flags_variables_or_a_file(tmp_path: Path) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    (tmp_path / "ca.pem").write_text("certificate")
    found = _settings("--bucket", "b", "--prefix", "p", AWS_ENDPOINT_URL="https://s", AWS_REGION="r", **keys)
    assert (found.endpoint, found.region, found.bucket, found.prefix) == ("https://s", "r", "b", "p")
    found = _settings(
        LONGBOAT_ENDPOINT="https://t", LONGBOAT_BUCKET="c", AWS_CA_BUNDLE=str(tmp_path / "ca.pem"), **keys
    )
    assert (found.endpoint, found.bucket, found.ca_pem) == ("https://t", "c", "certificate")
    (tmp_path / "store.json").write_text('{"type": "s3", "endpoint": "https://u", "bucket": "d"}')
    found = _settings("--store", str(tmp_path / "store.json"), "--bucket", "e", **keys)
    assert (found.endpoint, found.bucket) == ("https://u", "e")
    assert _settings("--folder", str(tmp_path), AWS_REGION="r").path == str(tmp_path)


def test_other_services_have_their_own_variables(tmp_path: Path) -> None:
    (tmp_path / "google.json").write_text('{"client_email": "a@b", "private_key": "k"}')
    mixed = {"AWS_ENDPOINT_URL": "https://s", "AWS_SESSION_TOKEN": "t", "AWS_ACCESS_KEY_ID": "a"}
    google = mixed | {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "google.json")}
    found = _settings("--type", "gcs", "--bucket", "b", **google)
    assert (found.url, found.endpoint, found.access_key_id) == ("gs://b", "", "")
    azure = mixed | {"AZURE_STORAGE_ACCOUNT": "acme", "AZURE_STORAGE_KEY": base64.b64encode(b"k").decode()}
    found = _settings(LONGBOAT_STORE_TYPE="azure", LONGBOAT_BUCKET="c", LONGBOAT_PREFIX="p", **azure)
    assert (found.url, found.endpoint) == ("azure://acme/c/p", "")
    assert _settings("--type", "azure", "--account", "other", "--bucket", "c", **azure).account == "other"


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        ((), {}, "endpoint"),
        (("--type", "gcs", "--bucket", "b"), {}, "GOOGLE_APPLICATION_CREDENTIALS"),
        (("--type", "azure", "--bucket", "b"), {}, "AZURE_STORAGE_ACCOUNT"),
        (("--endpoint", "http://plain", "--bucket", "b"), {}, "plain HTTP"),
        (("--endpoint", "https://s", "--bucket", "b"), {}, "AWS_ACCESS_KEY_ID"),
        (("--endpoint", "https://s", "--bucket", "b"), {"AWS_SESSION_TOKEN": "t"}, "temporary credentials"),
        (("--store", "/nowhere"), {}, "--store /nowhere"),
        (("--folder", "/x", "--prefix", "../up"), {}, "--prefix"),
        (("--ca-file", "/nowhere", "--endpoint", "https://s", "--bucket", "b"), {}, "--ca-file"),
    ],
)
def test_a_store_that_cannot_be_meant_is_told(
    arguments: tuple[str, ...], environment: dict[str, str], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        _settings(*arguments, **environment)
