"""`longboat repo` on a real S3 server: flags, variables, a CA of its own, a backup read without anything else."""

from __future__ import annotations

import base64
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from longboat.cli import repo
from longboat.mover.export_disk import run_export
from longboat.mover.jobs import ExportJob
from longboat.repository import (
    DiskIdentity,
    StoreSettings,
    generate_store_key,
    open_or_create_repository,
    open_store,
    parse_store_key,
    read_disk_manifest,
    reference_to,
    write_backup_manifest,
)
from tests.cluster.s3 import S3Settings

PATH = "cluster-1/namespace-uid"
WHEN = datetime(2026, 11, 22, 3, 30, tzinfo=UTC)


def _backup(settings: StoreSettings, key: str, folder: Path) -> bytes:
    image = os.urandom(3 << 20) + bytes(5 << 20) + b"end"
    (folder / "disk.img").write_bytes(image)
    repository = open_or_create_repository(open_store(settings), PATH, parse_store_key(key))
    job = ExportJob(
        store=settings,
        repository_path=PATH,
        master_key=base64.b64encode(repository.master_key).decode(),
        source_path=str(folder),
        disk=DiskIdentity(disk_key="data"),
        backup_name="db-1",
        created=WHEN,
    )
    result = run_export(job, emit=lambda _: None)
    write_backup_manifest(
        repository, "db-1", WHEN, [reference_to(read_disk_manifest(repository, result.manifest), "data")]
    )
    return image


def test_a_backup_is_found_and_read_with_bucket_and_key_alone(
    s3_server: S3Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix, key = f"repo/{os.urandom(6).hex()}", generate_store_key()
    settings = StoreSettings(
        type="s3",
        endpoint=s3_server.endpoint,
        region=s3_server.region,
        bucket=s3_server.bucket,
        prefix=prefix,
        ca_pem=s3_server.ca_pem,
        access_key_id=s3_server.access_key_id,
        secret_access_key=s3_server.secret_access_key,
    )
    image = _backup(settings, key, tmp_path)
    for name, value in {
        "AWS_ACCESS_KEY_ID": s3_server.access_key_id,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret_access_key,
        "LONGBOAT_ENDPOINT": s3_server.endpoint,
        "LONGBOAT_REGION": s3_server.region,
        "LONGBOAT_BUCKET": s3_server.bucket,
        "LONGBOAT_CA_FILE": s3_server.ca_file,
        "LONGBOAT_KEY": key,
    }.items():
        monkeypatch.setenv(name, value)
    assert repo.main(["list", "--prefix", prefix, "-o", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["repository"], [each["name"] for each in found["backups"]]) == (PATH, ["db-1"])
    assert repo.main(["restore", "db-1", str(tmp_path / "restored"), "--prefix", prefix]) == 0
    assert (tmp_path / "restored").read_bytes() == image
    assert repo.main(["verify", "--share", "100", "--prefix", prefix]) == 0
    assert repo.main(["prune", "--prefix", prefix]) == 0
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert repo.main(["list", "--prefix", prefix]) == 1
    monkeypatch.delenv("LONGBOAT_CA_FILE")
    assert repo.main(["list", "--prefix", prefix]) == 1
    assert "TLS" in capsys.readouterr().err
