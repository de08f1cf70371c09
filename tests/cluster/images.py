"""Container images without a registry: built by buildah, kept as OCI archives in the cache, imported by containerd."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.paths import CHECKOUT, PACKAGE, cache_dir, content_key, locked
from tests.cluster.progress import ClusterError, say

DEBIAN_RELEASE = "bookworm"
# Beyond Debian's essential packages: what a Containerfile of a Python program needs to install its requirements.
BASE_PACKAGES = ("ca-certificates", "python3", "python3-pip", "python3-venv")
_EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
_BASE_CONTAINERFILE = "FROM scratch\nADD rootfs.tar /\n"
_PAUSE_CONTAINERFILE = 'FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause"]\n'
_CERTIFICATES = "/etc/ssl/certs"
# Settings of pip that say where packages come from; others, like local folders, mean nothing inside a build.
_PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout")
# Several checkouts share the cache.
_KEPT_ARCHIVES = 8
_KEY_LENGTH = len(content_key())


@dataclass(frozen=True)
class Image:
    """An image's name in containerd and the OCI archive that holds it."""

    reference: str
    archive: Path


def ensure_base() -> Image:
    """A Debian with Python, the base of the project's image on a machine without a registry."""
    key = content_key(DEBIAN_RELEASE.encode(), repr(BASE_PACKAGES).encode(), _BASE_CONTAINERFILE.encode())
    image = _image("longboat-base", key)
    if not image.archive.exists():
        with locked("base-image"), tempfile.TemporaryDirectory(prefix="longboat-base-") as context:
            if not image.archive.exists():
                _make_rootfs(Path(context) / "rootfs.tar")
                _build(_BASE_CONTAINERFILE, Path(context), image)
    return image


def ensure_pause() -> Image:
    """The container that holds a pod's namespaces: a static program that waits to be ended."""
    source = (PACKAGE / "build" / "pause.c").read_bytes()
    image = _image("longboat-pause", content_key(source, _PAUSE_CONTAINERFILE.encode()))
    if not image.archive.exists():
        with tempfile.TemporaryDirectory(prefix="longboat-pause-") as context:
            output = str(Path(context) / "pause")
            _run(["gcc", "-Os", "-static", "-o", output, str(PACKAGE / "build" / "pause.c")])
            _build(_PAUSE_CONTAINERFILE, Path(context), image)
    return image


def build_image(name: str, containerfile: Path, inputs: Sequence[str], context: Path = CHECKOUT) -> Image:
    """Build a Containerfile whose base is the argument BASE, over the local base.

    `inputs` are the files and folders under `context` that the build may see; the image is keyed by their content,
    so that an unchanged build costs nothing. Its name is localhost/<name>:<key>.
    """
    base = ensure_base()
    with tempfile.TemporaryDirectory(prefix="longboat-build-") as temporary:
        copied = Path(temporary) / "context"
        _copy_inputs(context, inputs, copied)
        text = containerfile.read_text()
        image = _image(name, content_key(base.reference.encode(), text.encode(), content_of(copied)))
        if not image.archive.exists():
            _ensure_stored(base)
            _build(text, copied, image, base)
            forget_old_archives(name)
    return image


def _image(name: str, key: str) -> Image:
    return Image(f"localhost/{name}:{key}", cache_dir() / "images" / f"{name}-{key}.tar")


def _copy_inputs(context: Path, inputs: Sequence[str], target: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for each in inputs:
        source, destination = context / each, target / each
        destination.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, destination, ignore=ignored)
        else:
            shutil.copy(source, destination)


def content_of(folder: Path) -> bytes:
    """Names, permissions and contents below a folder, in one order whatever the file system's."""
    parts = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            parts += [f"{path.relative_to(folder)} {path.stat().st_mode:o}".encode(), path.read_bytes()]
    return content_key(*parts).encode()


def _make_rootfs(target: Path) -> None:
    say(f"making the base image: Debian {DEBIAN_RELEASE} with Python (about a minute)")
    excluded = [f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED]
    include = f"--include={','.join(BASE_PACKAGES)}"
    command = ["mmdebstrap", "--mode=root", "--variant=minbase", "--quiet", *excluded, *_apt_options(), include]
    _run([*command, DEBIAN_RELEASE, str(target), *_apt_sources()])


def _apt_sources() -> list[str]:
    """The host's own package sources if they are of the same release, else mmdebstrap's default mirror."""
    candidates = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*.sources")]
    return [str(path) for path in candidates if path.exists() and f"{DEBIAN_RELEASE}-security" in path.read_text()]


def _apt_options() -> list[str]:
    """The host's ways through a proxy, or of trusting its mirror's dates, hold for the image as well."""
    dumped = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout.splitlines()
    wanted = ("Acquire::http", "Acquire::https", "Acquire::Check-")
    return [f"--aptopt={line}" for line in dumped if line.startswith(wanted) and not line.endswith('"";')]


def _ensure_stored(base: Image) -> None:
    """Have the base in buildah's storage; cheap when it is there."""
    if subprocess.run([*_buildah(), "inspect", base.reference], capture_output=True, check=False).returncode:
        _run([*_buildah(), "pull", "--quiet", f"oci-archive:{base.archive}"])


def _build(text: str, context: Path, image: Image, base: Image | None = None) -> None:
    """Build and export under a temporary name, so that an archive that is there is whole."""
    say(f"building image {image.reference}")
    image.archive.parent.mkdir(parents=True, exist_ok=True)
    temporary = image.archive.with_suffix(f".{os.getpid()}")
    with _pip_configuration() as pip_configuration:
        (context / "Containerfile").write_text(text)
        command = [
            *_buildah(),
            "build-using-dockerfile",
            "--quiet",
            "--layers",
            "--pull-never",
            "--tag",
            image.reference,
        ]
        command += [
            "--volume",
            f"{_CERTIFICATES}:{_CERTIFICATES}:ro",
            "--volume",
            f"{pip_configuration}:/etc/pip.conf:ro",
        ]
        command += ["--build-arg", f"BASE={base.reference}"] if base else []
        _run([*command, "--file", str(context / "Containerfile"), str(context)])
    _run(
        [
            *_buildah(),
            "push",
            "--quiet",
            "--compression-format=zstd",
            "--compression-level=1",
            image.reference,
            f"oci-archive:{temporary}:{image.reference}",
        ]
    )
    temporary.rename(image.archive)


def _buildah() -> list[str]:
    """Buildah with a storage of its own; its overlay driver copies least, but cannot stand on an overlay."""
    storage = cache_dir() / "buildah"
    storage.mkdir(parents=True, exist_ok=True)
    kind = subprocess.check_output(["stat", "--file-system", "--format=%T", str(storage)], text=True).strip()
    driver = "vfs" if kind in ("overlayfs", "tmpfs") else "overlay"
    places = ["--root", str(storage / driver), "--runroot", str(storage / f"{driver}-run")]
    # What it mounts, also when it is killed, is seen in a mount namespace of its own only.
    separate = ["env", "BUILDAH_ISOLATION=chroot", "unshare", "--mount"]
    return [*separate, "buildah", *places, "--storage-driver", driver]


@contextmanager
def _pip_configuration() -> Iterator[Path]:
    """A pip.conf for builds that says where the host's pip gets packages from; gone after the build."""
    with tempfile.TemporaryDirectory(prefix="longboat-pip-") as folder:
        path = Path(folder) / "pip.conf"
        listed = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
        )
        path.write_text(pip_configuration(listed.stdout))
        path.chmod(0o644)
        yield path


def pip_configuration(listed: str) -> str:
    """Turn what `pip config list` prints (later lines win) into a pip.conf, with certificates where builds see them."""
    settings = {"cert": f"{_CERTIFICATES}/ca-certificates.crt"}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        key = name.rsplit(".", 1)[-1].replace("_", "-")
        if key in _PIP_SETTINGS:
            settings[key] = str(ast.literal_eval(value))
    return "[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items())


def forget_old_archives(name: str) -> None:
    """Each change of the source makes an archive; keep the newest few, and leave images alone whose name is longer."""
    found = cache_dir().glob(f"images/{name}-{'?' * _KEY_LENGTH}.tar")
    archives = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
    for old in archives[_KEPT_ARCHIVES:]:
        old.unlink(missing_ok=True)


def _run(command: list[str]) -> None:
    """Run a command; what it printed is shown only if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise ClusterError(f"`{' '.join(command)}` failed:\n{(done.stdout + done.stderr)[-4000:]}")
