"""Starting and stopping a cluster: one at a time per cluster, and whole or not at all."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from tests.cluster import binaries, cgroups, controlplane, host, images, network, node, processes
from tests.cluster.cluster import Cluster
from tests.cluster.csi import DRIVER_NAME, cleanup
from tests.cluster.images import Image
from tests.cluster.network import Link
from tests.cluster.paths import CHECKOUT, PACKAGE, cache_dir, content_key, locked, locked_by_all
from tests.cluster.progress import ClusterError, say, wait_until

_OF_TESTS = "started-by-tests"
_CSI_MANIFESTS = PACKAGE / "csi" / "manifests.yaml"


def build(kubevirt: bool = True) -> None:
    """Put every part into the cache, so that later starts are quick and need no network."""
    for module in binaries.ALL:
        binaries.ensure(module)
    importlib.import_module("tests.cluster.csi.stubs").ensure_stubs(cache_dir())
    for image in (images.ensure_pause(), images.ensure_base()):
        say(f"image {image.reference}")
    if kubevirt:
        _kubevirt_parts().ensure_built(cache_dir())


def _kubevirt_parts() -> ModuleType:
    """The package that builds and installs KubeVirt, loaded only when it is wanted."""
    return importlib.import_module("tests.cluster.kubevirt")


def up(cluster: Cluster, kubevirt: bool = True, renew: bool = False) -> None:
    """Have the cluster run: at once if it does already, else from the cache; a broken one is replaced.

    With `renew`, one that was started from other parts than this checkout would use is replaced, too.
    Raises ClusterError naming what is missing or did not come up; then nothing keeps running.
    """
    host.check_node_host()
    with locked(f"cluster-{cluster.identity}"):
        if _is_usable(cluster, renew):
            cluster.remote.start()
        else:
            _stop(cluster)
            build(kubevirt)
            with _all_or_nothing(cluster):
                _start(cluster, kubevirt)
        if kubevirt:
            _install_kubevirt(cluster)
        publish(cluster)
    say(f"cluster {cluster.name} is up: export KUBECONFIG={cluster.kubeconfig}")


@contextmanager
def used(cluster: Cluster) -> Iterator[None]:
    """Have the cluster run, beside other processes that use it; the last one cleans it away, unless it ran before."""
    with locked_by_all(f"users-{cluster.identity}") as is_last:
        with locked(f"first-user-{cluster.identity}"):
            if is_current(cluster):
                # Another process may be installing KubeVirt, for minutes: who needs it waits, nobody else.
                cluster.remote.start()
                publish(cluster)
            else:
                up(cluster, kubevirt=False, renew=True)
                (cluster.state / _OF_TESTS).touch()
        try:
            yield
        finally:
            if is_last() and (cluster.state / _OF_TESTS).exists():
                clean(cluster)


def _is_usable(cluster: Cluster, renew: bool) -> bool:
    if not cluster.is_known():
        return False
    if not is_healthy(cluster):
        say(f"cluster {cluster.name} is broken or was not started to the end: replacing it")
        return False
    if _record(cluster)["fingerprint"] == fingerprint():
        return True
    say(f"cluster {cluster.name} runs with other versions than this checkout's" + (": replacing it" if renew else ""))
    return not renew


def is_healthy(cluster: Cluster) -> bool:
    """Whether the cluster was started to the end, runs, and its API server answers."""
    try:
        cluster.node_pid()
        url = str(_record(cluster)["url"])
        context = controlplane.client_context(cluster.state / "pki")
    except (ClusterError, OSError, ValueError, KeyError):
        return False
    # Replacing a cluster that others use is worse than waiting for an answer of a busy machine.
    return any(controlplane.is_ready(url, context) for _ in range(3))


def is_current(cluster: Cluster) -> bool:
    """Whether the cluster is healthy and was started from this checkout's parts."""
    return is_healthy(cluster) and _record(cluster)["fingerprint"] == fingerprint()


def fingerprint(package: Path = PACKAGE) -> str:
    """Changes when a cluster should be started anew to have this checkout's parts, KubeVirt's and the guest's too."""
    sources = [path for path in sorted(package.rglob("*")) if path.is_file() and path.suffix not in (".md", ".pyc")]
    parts = [part for path in sources for part in (str(path.relative_to(package)).encode(), path.read_bytes())]
    return content_key(*parts, *[module.key().encode() for module in binaries.ALL])


def _record(cluster: Cluster) -> dict[str, object]:
    """What is written when the cluster is up."""
    return dict(json.loads((cluster.state / "ready.json").read_text()))


def _write_record(cluster: Cluster, **values: object) -> None:
    (cluster.state / "ready.json").write_text(json.dumps(values))


def publish(cluster: Cluster) -> None:
    """Put the kubeconfig where users look for it."""
    cluster.kubeconfig.parent.mkdir(exist_ok=True)
    temporary = cluster.kubeconfig.with_suffix(".new")
    temporary.touch(mode=0o600)
    temporary.write_bytes((cluster.state / "kubeconfig").read_bytes())
    temporary.rename(cluster.kubeconfig)


@contextmanager
def _all_or_nothing(cluster: Cluster) -> Iterator[None]:
    """Take down what was started if the rest fails, but keep the logs."""
    try:
        yield
    except BaseException:
        kept = cache_dir() / "failed" / cluster.state.name
        shutil.rmtree(kept, ignore_errors=True)
        if (cluster.state / "logs").exists():
            shutil.copytree(cluster.state / "logs", kept)
            say(f"the cluster did not come up; the logs of its services are kept in {kept}")
        _stop(cluster)
        raise


def _start(cluster: Cluster, kubevirt: bool) -> None:
    """Start the node and bring the API to where pods with volumes can run; images load at the same time."""
    say(f"starting cluster {cluster.name}")
    pause = images.ensure_pause()
    link = _start_node(cluster, pause)
    with ThreadPoolExecutor(2) as pool:
        loading = pool.submit(_load_images, cluster, pause, kubevirt)
        remote = pool.submit(cluster.remote.start, [link.host])
        _bring_up_api(cluster, link)
        remote.result()
        loading.result()
    _write_record(cluster, fingerprint=fingerprint(), url=_url(link))


def _url(link: Link) -> str:
    return f"https://{link.node}:{node.API_PORT}"


def _start_node(cluster: Cluster, pause: Image) -> Link:
    """Make the node's namespaces and its link; the lock keeps two clusters from choosing the same network."""
    with locked("network"):
        link = network.choose_link(network.host_networks(), _preferred_link(cluster))
        cluster.state.mkdir(parents=True, mode=0o700)
        programs = node.Programs(binaries.ensure(binaries.KUBERNETES), binaries.ensure(binaries.SNAPSHOT_METADATA))
        node.write_files(cluster.state, cluster.identity, link, programs, pause.reference)
        cgroups.create(cluster.identity)
        _launch(cluster.state)
        wait_until((cluster.state / "marks" / "init").exists, 20, _init_failure(cluster.state), interval=0.02)
        network.connect(cluster.identity, link, cluster.node_pid())
    return link


def _preferred_link(cluster: Cluster) -> int:
    """The one the object store listens on already, so that it need not be started again."""
    prefix = str(network.Link(0).network)[: len("10.89.")]
    known = [address for address in cluster.remote.addresses() if address.startswith(prefix)]
    return int(known[0].split(".")[2]) if known else int(cluster.identity, 16) % 256


def _launch(state: Path) -> None:
    with (state / "logs" / "init.log").open("ab") as log:
        subprocess.run(
            node.start_command(state),
            cwd=CHECKOUT,
            env=node.start_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=True,
        )


def _init_failure(state: Path) -> str:
    return f"the node's process 1 did not set up mounts and network; see {state / 'logs' / 'init.log'}"


def _load_images(cluster: Cluster, pause: Image, kubevirt: bool) -> None:
    socket = Path(f"/proc/{cluster.node_pid()}/root{node.CONTAINERD_SOCKET}")
    wait_until(socket.exists, 30, "containerd")
    archives = [pause.archive, images.ensure_base().archive]
    archives += _kubevirt_parts().image_archives(cache_dir()) if kubevirt else []
    for archive in archives:
        cluster.load_image(archive)
    say(f"{len(archives)} image archives loaded")


def _bring_up_api(cluster: Cluster, link: Link) -> None:
    context = controlplane.client_context(cluster.state / "pki")
    wait_until(lambda: controlplane.is_ready(_url(link), context), 60, "API server")
    _mark(cluster, "api")
    say("API server is ready")
    files = [f"--filename={path}" for path in _snapshot_definitions()]
    cluster.kubectl("apply", "--server-side", *files)
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", *files)
    _mark(cluster, "crds")
    cluster.kubectl("apply", "--server-side", f"--filename={_CSI_MANIFESTS}")
    service = json.dumps(node.snapshot_metadata_service(cluster.state))
    cluster.kubectl("apply", "--server-side", "--filename=-", stdin=service)
    _wait_for_node(cluster)


def _snapshot_definitions() -> list[Path]:
    """The files of the CRDs of snapshots, and of changed blocks."""
    snapshots = binaries.ensure(binaries.KUBERNETES) / "snapshot-crds"
    metadata = binaries.ensure(binaries.SNAPSHOT_METADATA) / "snapshot-metadata-crds"
    return sorted(snapshots.glob("*snapshot.storage.k8s.io_*.yaml")) + sorted(
        metadata.glob("cbt.storage.k8s.io_*.yaml")
    )


def _mark(cluster: Cluster, name: str) -> None:
    """Tell the node that services which wait for this may start."""
    (cluster.state / "marks" / name).touch()


def _wait_for_node(cluster: Cluster) -> None:
    """Wait until pods with volumes can run: node, CSI driver and default service account."""
    wait_until(lambda: bool(_names(cluster, "nodes")), 60, "the kubelet to register its node", 0.3)
    cluster.kubectl("label", "node", node.NODE_NAME, "node-role.kubernetes.io/control-plane=", "--overwrite")
    wait_until(lambda: DRIVER_NAME in _drivers(cluster), 60, "the CSI driver to register with the kubelet", 0.3)
    cluster.kubectl("wait", "--for=condition=Ready", "--timeout=60s", f"node/{node.NODE_NAME}")
    wait_until(lambda: "default" in _names(cluster, "serviceaccounts"), 30, "the default service account", 0.3)
    say(f"node {node.NODE_NAME} is ready")


def _names(cluster: Cluster, kind: str) -> list[str]:
    return cluster.kubectl("get", kind, "--output=jsonpath={.items[*].metadata.name}").split()


def _drivers(cluster: Cluster) -> str:
    return cluster.kubectl("get", "csinodes", "--output=jsonpath={.items[*].spec.drivers[*].name}")


def _install_kubevirt(cluster: Cluster) -> None:
    """Install it unless that was done; what was not loaded or built before is loaded and built then."""
    record = _record(cluster)
    if not record.get("kubevirt"):
        _kubevirt_parts().install(cluster)
        _write_record(cluster, **(record | {"kubevirt": True}))


def stop(cluster: Cluster) -> None:
    """End the cluster and remove every trace of it but the remote object store; harmless if it does not run."""
    if _stopped(cluster):
        say(f"cluster {cluster.name} is stopped; the remote object store stays")


def _stopped(cluster: Cluster) -> bool:
    """Stop the cluster; return whether there was one."""
    with locked(f"cluster-{cluster.identity}"):
        known = cluster.is_known()
        _stop(cluster)
    return known


def _stop(cluster: Cluster) -> None:
    """Killing the node's process 1 ends all others and, with them, mounts and network; the rest is global state."""
    pids = processes.find(node.marker(cluster.state))
    processes.kill_all(node.marker(cluster.state))
    processes.wait_gone(pids)
    network.disconnect(cluster.identity)
    cleanup.detach_all(cluster.state / "csi")
    cgroups.remove(cluster.identity)
    shutil.rmtree(cluster.state, ignore_errors=True)
    if cluster.state.exists():
        raise ClusterError(f"{cluster.state} cannot be removed: something is still mounted or in use there")
    cluster.kubeconfig.unlink(missing_ok=True)


def clean(cluster: Cluster) -> None:
    """Stop the cluster and delete its remote object store with all that was backed up there."""
    known = _stopped(cluster)
    cluster.remote.remove()
    if known:
        say(f"cluster {cluster.name} is stopped; its remote object store is removed")
