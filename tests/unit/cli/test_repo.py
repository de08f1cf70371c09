"""Backups are read with nothing but the store and its key; mistakes are told, and nothing is overwritten unasked."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import pytest

from longboat.cli import repo
from longboat.cli.repo_arguments import parser
from longboat.cli.repo_output import expiry_text
from longboat.cli.repo_progress import Bar
from longboat.repository import (
    generate_store_key,
    open_or_create_repository,
    open_store,
    parse_store_key,
    write_tombstone,
)
from longboat.repository.bucket_clients import Patience
from tests.unit.mover.test_restore_qcow2 import read_qcow2

from .repo_world import BLOG, SHOP, SIZE, STATE, WHEN, Capture, World, world

__all__ = ["world"]


def test_list_tells_namespaces_backups_and_what_is_deleted(world: World, capsys: Capture) -> None:
    write_tombstone(world.shop, "db-1", WHEN, "kubectl")
    assert world("list", "-o", "json") == 0
    shop, blog = json.loads(capsys.readouterr().out)
    assert (shop["clusterId"], shop["namespaceUid"], shop["namespaces"]) == ("cluster-1", "aaaa-shop", ["shop"])
    (backup,) = shop["backups"]
    assert backup["sizeBytes"] == 2 * SIZE and backup["consistency"] == "Application"
    assert [disk["disk"] for disk in backup["disks"]] == ["data", "root"]
    assert backup["deleted"] == {"at": "2026-11-22T03:30:00Z", "by": "kubectl"}
    assert blog["backups"][0]["deleted"] is None
    assert world("list") == 0
    table = capsys.readouterr().out
    assert "Repository cluster-1/aaaa-shop (namespace shop)" in table
    assert "30d, last 3" in table and "320Ki" in table


def test_list_can_be_narrowed_to_a_namespace_or_a_repository(world: World, capsys: Capture) -> None:
    assert world("list", "-n", "blog", "-o", "json") == 0
    assert [each["repository"] for each in json.loads(capsys.readouterr().out)] == [BLOG]
    for name in (SHOP, "aaaa-shop", "aaaa"):
        assert world("list", "--repository", name, "-o", "json") == 0
        assert [each["repository"] for each in json.loads(capsys.readouterr().out)] == [SHOP]
    assert world("list", "--repository", "zzz") == 2
    assert "there are: cluster-1/aaaa-shop" in capsys.readouterr().err


def test_a_damaged_manifest_hides_no_other_backup(world: World, capsys: Capture) -> None:
    world.backup(world.shop, SHOP, "db-2", "data")
    folder = world.folder / "store/prod" / SHOP / "backups" / world.shop.keys.name_hash("db-1")
    next(folder.iterdir()).write_bytes(b"LONGBOAT")
    assert world("list", "--repository", SHOP, "-o", "json") == 1
    (shop,) = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in shop["backups"] if each["complete"]] == ["db-2"]
    assert "backups/" in shop["problems"][0]


def test_a_repository_under_another_key_hides_no_other_one(world: World, capsys: Capture) -> None:
    other = parse_store_key(generate_store_key())
    open_or_create_repository(open_store(world.settings), "cluster-1/cccc-other", other)
    assert world("list", "-o", "json") == 1
    found = json.loads(capsys.readouterr().out)
    assert [len(each["backups"]) for each in found] == [1, 1, 0]
    assert "wrapped for" in found[2]["problems"][0]
    assert world("restore", "db-1", world.folder / "out", "--disk", "data") == 0


def test_show_tells_all_of_a_backup(world: World, capsys: Capture) -> None:
    assert world("show", "db-1") == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("claim-data", "Application", "policy:         daily", "160Ki (163840 bytes)"))
    assert world("show", "db-1", "-o", "json") == 0
    data = json.loads(capsys.readouterr().out)
    assert [each["claimName"] for each in (disk["disk"] for disk in data["diskManifests"])] == [
        "claim-data",
        "claim-root",
    ]
    assert data["metadata"]["status"]["virtualMachine"] == "db"


def test_a_disk_is_restored_into_a_file(world: World, capsys: Capture) -> None:
    target = world.folder / "data.img"
    assert world("restore", "db-1", target, "--disk", "data", "--size", "1Mi") == 0
    assert target.read_bytes() == world.images["db-1 data"] + bytes((1 << 20) - SIZE)
    assert "read back and compared" in capsys.readouterr().out
    assert world("restore", "web-1", target, "--force", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["sizeBytes"] == SIZE == target.stat().st_size


def test_the_state_of_a_machine_comes_as_a_tar_archive(world: World) -> None:
    world.backup(world.shop, SHOP, "win-1", "root", STATE)
    target = world.folder / "state.tar"
    assert world("restore", "win-1", target, "--disk", STATE) == 0
    with tarfile.open(target) as archive:
        file = archive.extractfile("disk.img")
        assert file and file.read() == world.images[f"win-1 {STATE}"]


def test_the_recovery_secret_opens_everything(world: World) -> None:
    secret, target = world.write("recovery", world.pair.secret + "\n"), world.folder / "root.img"
    assert world("restore", "db-1", target, "--disk", "root", key=secret) == 0
    assert target.read_bytes() == world.images["db-1 root"]


def test_a_disk_is_exported_as_raw_and_as_qcow2(world: World) -> None:
    raw, qcow2 = world.folder / "root.raw", world.folder / "root.qcow2"
    assert world("export", "db-1", raw, "--disk", "root", "--format", "raw") == 0
    assert world("export", "db-1", qcow2, "--disk", "root") == 0
    assert raw.read_bytes() == world.images["db-1 root"] == read_qcow2(qcow2.read_bytes())


@pytest.mark.parametrize("command", ["restore", "export"])
def test_nothing_is_overwritten_without_asking(
    world: World, command: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = world.write("precious", "precious")
    assert world(command, "web-1", target) == 2
    assert "--force" in capsys.readouterr().err

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    assert world(command, "web-1", target) == 2
    assert target.read_text() == "precious"
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert world(command, "web-1", target) == 0
    assert "Overwrite the file" in capsys.readouterr().err
    assert target.read_bytes() != b"precious"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("restore", "db-1", "{}/out"), "2 disks, name one of: data, root"),
        (("restore", "db-1", "{}/out", "--disk", "x"), "has no disk 'x'"),
        (("restore", "web-1", "{}"), "expected a block device, or the name of a file"),
        (("restore", "web-1", "{}/no/out"), "does not exist"),
        (("restore", "web-1", "{}/out", "--size", "1Ki"), "is less"),
        (("restore", "web-1", "{}/out", "--size", "many"), "--size"),
        (("key", "rotate"), "at least one is needed"),
        (("key", "rotate", "--new-key-file", "{}/none"), "--new-key-file"),
        (("key", "rotate", "--recovery-recipient", "longboat-key-1-x"), "expected a recovery public key"),
    ],
)
def test_mistakes_are_usage_errors(world: World, capsys: Capture, arguments: tuple[str, ...], words: str) -> None:
    assert world(*(each.format(world.folder) for each in arguments)) == 2
    assert words in capsys.readouterr().err
    assert not (world.folder / "out").exists()


@pytest.mark.parametrize("command", [("show", "none"), ("restore", "none", "/tmp/none")])
def test_an_unknown_backup_is_told(world: World, capsys: Capture, command: tuple[str, ...]) -> None:
    assert world(*command) == 1
    assert "no backup 'none'" in capsys.readouterr().err


def test_a_wrong_key_is_told(world: World, capsys: Capture) -> None:
    assert world("show", "db-1", key=world.write("wrong", generate_store_key())) == 1
    assert "the store key given is" in capsys.readouterr().err
    assert world("show", "db-1", key=world.write("misspelt", world.key[:-1])) == 2
    assert world("show", "db-1", key=world.folder / "none") == 2
    assert world.key not in capsys.readouterr().err


def test_a_damaged_pack_is_told_with_its_place_and_leaves_no_file(world: World, capsys: Capture) -> None:
    for pack in (world.folder / "store/prod" / BLOG).glob("packs/*/*"):
        data = bytearray(pack.read_bytes())
        data[70] ^= 1
        pack.write_bytes(data)
    assert world("restore", "web-1", world.folder / "out") == 1
    assert "can't be restored from byte 0 on" in capsys.readouterr().err
    assert not (world.folder / "out").exists()


def test_a_store_that_is_away_is_worth_another_try(
    world: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["list", "--endpoint", "https://127.0.0.1:9", "--bucket", "b", "--key-file", str(world.key_file)]
    environment = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    patient = Patience(connect=1, request=1, retries=0, retry_for=1)
    monkeypatch.setattr(repo, "open_store", lambda settings: open_store(settings, patient))
    assert repo.run(parser().parse_args(arguments), environment) == 3
    assert "no connection" in capsys.readouterr().err


def test_expiry_is_told_in_words() -> None:
    assert expiry_text({"retention": {"keepFor": "7d"}, "hold": True}) == "7d, held"
    assert (
        expiry_text({"expiresAt": "2026-12-01T00:00:00Z", "retention": {"keepFor": "7d"}}) == "at 2026-12-01T00:00:00Z"
    )
    assert expiry_text(None) == expiry_text({}) == expiry_text({"retention": 3}) == "-"


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    now = [0.0]
    terminal, plain = Terminal(), io.StringIO()
    for out in (terminal, plain):
        now[0] = 0.0
        bar = Bar("restore", out, lambda: now[0])
        for second in range(1, 21):
            now[0] = second
            bar.show(second * 1024, 20 * 1024)
        bar.close()
    assert terminal.getvalue().count("\r") == 20 and "[###############...............] 50 %" in terminal.getvalue()
    assert plain.getvalue().splitlines() == [
        "restore: 50 %, 10Ki of 20Ki, 1Ki/s, 10 s left",
        "restore: 100 %, 20Ki of 20Ki, 1Ki/s",
    ]


def _process(world: World, *arguments: str, code: str = "") -> subprocess.Popen[str]:
    store = ["--folder", str(world.folder / "store"), "--prefix", "prod", "--key-file", str(world.key_file)]
    program = f"{code}\nimport sys\nfrom longboat.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", program, "repo", *arguments, *store],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": "operator"},
    )


def test_neither_kopf_nor_the_kubernetes_client_is_needed(world: World) -> None:
    block = "import sys; sys.modules['kubernetes'] = sys.modules['kopf'] = None"
    process = _process(world, "list", code=block)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "db-1" in out


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_restore_leaves_no_file_and_goes_on(world: World, told: signal.Signals) -> None:
    target = world.folder / "out"
    # Who is started in the background is born deaf to Ctrl-C.
    deaf = "import os, signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    slow = "read = os.pread\nos.pread = lambda *a: (time.sleep(1), read(*a))[1]"
    process = _process(world, "restore", "web-1", str(target), code=deaf + slow)
    deadline = time.monotonic() + 60
    while not list(world.folder.glob(".out.longboat-partial")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(told)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err and "run it again" in err
    assert not target.exists()
    assert world("restore", "web-1", target) == 0
    assert target.read_bytes() == world.images["web-1 data"]
