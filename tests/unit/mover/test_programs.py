"""The programs as a Job runs them: files in, one JSON termination message and an exit code out, never a traceback."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from longboat.mover import EXIT_FAILED, EXIT_OK, EXIT_RETRY, EXIT_USAGE, export_disk, restore_disk
from longboat.mover.errors import JobError
from longboat.mover.jobs import ExportJob, load_job, merge
from longboat.mover.progress import Progress
from longboat.mover.results import MAX_MESSAGE_BYTES, Failure, failure_of, message_bytes
from longboat.repository import StoreSettings, open_or_create_repository, open_store

from .disks import BLOCK, PATH, STORE_KEY, write_image


class World:
    """A folder with a store, a repository in it, a disk, and job files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "store").mkdir()
        settings = StoreSettings(type="folder", path=str(folder / "store"))
        key = open_or_create_repository(open_store(settings), PATH, STORE_KEY).master_key
        self.secret = {"masterKey": base64.b64encode(key).decode()}
        self.common = {
            "store": settings.model_dump(by_alias=True, mode="json"),
            "repositoryPath": PATH,
            "terminationPath": str(folder / "termination"),
        }
        self.export = {
            **self.common,
            "sourcePath": str(write_image(folder / "source", {0: b"data" * 999}, 9 * BLOCK)),
            "disk": {"diskKey": "d"},
            "backupName": "one",
            "created": "2026-11-01T00:00:00Z",
        }

    def arguments(self, job: dict[str, Any], secret: dict[str, Any] | None = None) -> list[str]:
        """Write the job's files and return the program's arguments."""
        (self.folder / "job.json").write_text(json.dumps(job))
        (self.folder / "secret.json").write_text(json.dumps(secret or self.secret))
        return ["--job", str(self.folder / "job.json"), "--secret", str(self.folder / "secret.json")]

    def message(self) -> dict[str, Any]:
        """Return the termination message."""
        message: dict[str, Any] = json.loads((self.folder / "termination").read_bytes())
        return message


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_export_then_restore_by_job_files(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_disk.main(world.arguments(world.export)) == EXIT_OK
    exported = world.message()
    assert (exported["ok"], exported["mode"], exported["fullReason"]) == (True, "Full", "NoParent")
    assert exported["logicalBytes"] == 9 * BLOCK
    target = world.folder / "target"
    target.mkdir()
    job = {**world.common, "manifest": exported["manifest"], "targetPath": str(target)}
    assert restore_disk.main(world.arguments(job)) == EXIT_OK
    assert (target / "disk.img").read_bytes() == (world.folder / "source" / "disk.img").read_bytes()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    last = {"bytesDone": 9 * BLOCK, "bytesTotal": 9 * BLOCK}
    assert [line["progress"].items() >= last.items() for line in lines if "progress" in line] == [True, True]
    assert lines[-1]["result"]["writtenBytes"] == world.message()["writtenBytes"]


@pytest.mark.parametrize(
    ("change", "secret", "reason"),
    [
        ({"sourcePath": "/nonexistent"}, {}, "SourceMissing"),
        ({"sourcePath": "/proc"}, {}, "NoDiskImage"),
        ({"repositoryPath": "cluster/other"}, {}, "RepositoryNotFound"),
        ({"blockSize": 5000}, {}, "InvalidJob"),
        ({"blockSize": 1 << 30}, {}, "InvalidJob"),
        ({}, {"masterKey": base64.b64encode(b"w" * 32).decode()}, "WrongKey"),
        ({"store": {"type": "folder", "path": "/nonexistent"}}, {}, "BucketNotFound"),
    ],
)
def test_expected_failure_is_one_constant_reason_without_traceback(
    world: World, capsys: pytest.CaptureFixture[str], change: dict[str, Any], secret: dict[str, Any], reason: str
) -> None:
    code = export_disk.main(world.arguments({**world.export, **change}, {**world.secret, **secret}))
    assert (world.message()["reason"], world.message()["retryable"], code) == (reason, False, EXIT_FAILED)
    assert "Traceback" not in capsys.readouterr().err


def test_store_that_does_not_answer_is_worth_a_retry(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from longboat.repository.errors import UnreachableError

    def unreachable(_: object) -> None:
        raise UnreachableError("no connection")

    monkeypatch.setattr(export_disk, "open_store", unreachable)
    assert export_disk.main(world.arguments(world.export)) == EXIT_RETRY
    assert world.message()["reason"] == "StoreUnreachable"


def test_wrong_arguments_are_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert export_disk.main([]) == EXIT_USAGE
    assert "--job" in capsys.readouterr().err


def test_broken_job_is_told_with_field_but_without_secrets(world: World) -> None:
    job = {**world.export, "created": "yesterday", "store": {"type": "folder", "path": "relative"}}
    arguments = world.arguments(job, {"masterKey": "c2VjcmV0"})
    with pytest.raises(JobError) as caught:
        load_job(ExportJob, Path(arguments[1]), Path(arguments[3]))
    message = str(caught.value)
    assert all(field in message for field in ("created", "masterKey", "store"))
    assert "c2VjcmV0" not in message


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_job_file_that_is_no_object_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.json").write_text(text)
    with pytest.raises(JobError, match="expected a"):
        load_job(ExportJob, tmp_path / "job.json", None)


def test_secret_is_merged_into_the_job_key_by_key() -> None:
    merged = merge({"store": {"bucket": "b", "region": "r"}, "a": 1}, {"store": {"accessKeyId": "k"}, "masterKey": "m"})
    assert merged == {"store": {"bucket": "b", "region": "r", "accessKeyId": "k"}, "a": 1, "masterKey": "m"}


def test_secrets_are_not_in_the_jobs_representation(world: World) -> None:
    arguments = world.arguments(world.export)
    job = load_job(ExportJob, Path(arguments[1]), Path(arguments[3]))
    assert world.secret["masterKey"] not in repr(job)


def test_long_message_is_cut_to_what_the_kubelet_keeps() -> None:
    data = message_bytes(Failure(reason="X", message="ü" * 9000, retryable=False))
    assert len(data) <= MAX_MESSAGE_BYTES
    assert json.loads(data)["message"].endswith("…")


def test_unexpected_error_is_internal_and_worth_a_retry() -> None:
    assert failure_of(ZeroDivisionError("x")) == Failure(
        reason="InternalError", message="ZeroDivisionError: x", retryable=True
    )


def test_progress_is_printed_at_most_every_two_seconds() -> None:
    lines: list[str] = []
    now = [0.0]
    progress = Progress(100, lines.append, lambda: now[0], lambda: 7)
    for second in range(9):
        now[0] = second / 2
        progress.add(done=20, read=10)
    progress.finish()
    assert len(lines) == 3
    assert json.loads(lines[-1]) == {
        "progress": {"bytesDone": 100, "bytesTotal": 100, "bytesRead": 90, "bytesStored": 7}
    }


def test_told_to_stop_reports_interrupted_and_leaves_no_manifest(world: World) -> None:
    fifo = world.folder / "source" / "disk.img"
    size = 256 << 20
    with fifo.open("wb") as image:
        while image.tell() < size:
            image.write(os.urandom(1 << 20))
    program = "import sys; from longboat.mover.export_disk import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *world.arguments({**world.export, "workers": 1})],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": "operator"},
    )
    deadline = time.monotonic() + 30
    while not list((world.folder / "store").glob("**/packs/*/*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == EXIT_RETRY
    assert process.stderr is not None and "Traceback" not in process.stderr.read().decode()
    process.stderr.close()
    assert (world.message()["reason"], world.message()["retryable"]) == ("Interrupted", True)
    assert not list((world.folder / "store").glob("**/disks/*/*"))
