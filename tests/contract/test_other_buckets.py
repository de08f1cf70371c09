"""Azure and Google Cloud Storage: what each refuses in words of its own, and credentials that may only create."""

from __future__ import annotations

import base64
import os

import pytest

from longboat.repository import StoreProblem, StoreSettings, check_store, open_or_create_repository, open_store
from longboat.repository.errors import AccessDeniedError, BucketNotFoundError, ObjectExistsError, StoreError
from longboat.repository.object_store import put_fresh, put_once
from tests.contract import azurite, gcs_server


@pytest.fixture
def azure(azure_server: StoreSettings) -> StoreSettings:
    return azure_server.model_copy(update={"prefix": f"contract/{os.urandom(6).hex()}"})


@pytest.fixture
def gcs(gcs_stand_in: StoreSettings) -> StoreSettings:
    return gcs_stand_in.model_copy(update={"prefix": f"contract/{os.urandom(6).hex()}"})


def with_token(settings: StoreSettings, permissions: str) -> StoreSettings:
    """Return the settings with a token of these permissions instead of the account's key."""
    token = azurite.sas_token(settings, permissions)
    return settings.model_copy(update={"account_key": "", "sas_token": token})


@pytest.mark.parametrize(
    ("change", "problems", "remedy"),
    [
        ({"bucket": "no-such-container"}, {StoreProblem.BUCKET}, "create it"),
        # Azurite calls a wrong key AuthorizationFailure, Azure AuthenticationFailed.
        (
            {"account_key": base64.b64encode(bytes(64)).decode()},
            {StoreProblem.CREDENTIALS, StoreProblem.DENIED},
            "Secret",
        ),
        ({"ca_pem": ""}, {StoreProblem.TLS}, "CA bundle"),
        ({"account_key": "no base64"}, {StoreProblem.SETTINGS}, "credentials"),
        ({"endpoint": "https://127.0.0.1:9"}, {StoreProblem.UNREACHABLE}, "host and port"),
    ],
)
def test_what_is_wrong_with_a_container_is_told_apart(
    azure: StoreSettings, change: dict[str, str], problems: set[StoreProblem], remedy: str
) -> None:
    found = check_store(azure.model_copy(update=change))
    assert found.problem in problems and remedy in found.message, found.message
    assert azure.account_key not in found.message


@pytest.mark.parametrize(
    ("change", "problem", "remedy"),
    [
        ({"bucket": "no-such-bucket"}, StoreProblem.BUCKET, "create it"),
        ({"ca_pem": ""}, StoreProblem.TLS, "CA bundle"),
        ({"service_account_key": "{}"}, StoreProblem.SETTINGS, "credentials"),
        ({"endpoint": "https://127.0.0.1:9"}, StoreProblem.UNREACHABLE, "host and port"),
    ],
)
def test_what_is_wrong_with_a_bucket_of_google_is_told_apart(
    gcs: StoreSettings, change: dict[str, str], problem: StoreProblem, remedy: str
) -> None:
    found = check_store(gcs.model_copy(update=change))
    assert (found.problem, remedy in found.message) == (problem, True), found.message


@pytest.mark.parametrize("kind", ["azure", "gcs"])
def test_a_missing_container_never_looks_like_an_empty_store(kind: str, request: pytest.FixtureRequest) -> None:
    settings: StoreSettings = request.getfixturevalue(kind)
    broken = open_store(settings.model_copy(update={"bucket": "no-such-bucket"}))
    for operation in (
        lambda: broken.head("a"),
        lambda: broken.get("a", 1),
        lambda: list(broken.list("packs/")),
        lambda: broken.delete("a"),
        lambda: open_or_create_repository(broken, "c/n", b"k" * 32),
    ):
        with pytest.raises(BucketNotFoundError):
            operation()


def test_a_token_that_may_only_create_creates_and_neither_overwrites_nor_removes(azure: StoreSettings) -> None:
    creator = open_store(with_token(azure, "rcl"))
    etag = creator.put_new("a", b"first")
    with pytest.raises(ObjectExistsError):
        creator.put_new("a", b"second")
    put_once(creator, "a", b"first")
    put_fresh(creator, "b", b"first")
    for refused in (lambda: creator.put_if_match("a", b"second", etag), lambda: creator.delete("a")):
        with pytest.raises(AccessDeniedError):
            refused()
    assert creator.get("a", 10) == b"first"
    assert check_store(with_token(azure, "rcl")).ok
    open_or_create_repository(creator, "c/n", b"k" * 32)


def test_a_token_that_may_only_read_writes_nothing(azure: StoreSettings) -> None:
    open_store(azure).put_new("a", b"first")
    reader = open_store(with_token(azure, "rl"))
    assert reader.get("a", 10) == b"first"
    with pytest.raises(StoreError):
        reader.put_new("b", b"second")
    assert [info.name for info in reader.list("")] == ["a"]


def test_an_expired_token_is_told(azure: StoreSettings) -> None:
    token = with_token(azure, "rcl").sas_token.replace("se=2", "se=1")
    found = check_store(azure.model_copy(update={"account_key": "", "sas_token": token}))
    assert found.problem in {StoreProblem.DENIED, StoreProblem.CREDENTIALS}, found.message
    assert token not in found.message


def test_an_object_creator_of_google_is_told_that_the_object_exists(
    gcs: StoreSettings, gcs_bucket: gcs_server.Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcs_bucket, "may_overwrite", False)
    creator = open_store(gcs)
    generation = creator.put_new("a", b"first")
    with pytest.raises(ObjectExistsError):
        creator.put_new("a", b"second")
    put_once(creator, "a", b"first")
    for refused in (lambda: creator.put_if_match("a", b"second", generation), lambda: creator.delete("a")):
        with pytest.raises(AccessDeniedError):
            refused()
    assert check_store(gcs).ok


def test_a_tag_that_is_no_generation_matches_nothing(gcs: StoreSettings) -> None:
    store = open_store(gcs)
    store.put_new("a", b"first")
    assert store.get("a", 10) == b"first"
    assert store.head("a").etag.isdigit()
