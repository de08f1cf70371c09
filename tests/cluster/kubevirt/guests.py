"""Real virtual machines for tests and the demo: made from PVCs, booted, and looked into through the guest agent.

A guest under emulation keeps a core busy while it boots, so that only one boots at a time on a machine.
"""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.cluster.cluster import Cluster
from tests.cluster.kubevirt import images
from tests.cluster.kubevirt.guestdisk import SIZE_MIB
from tests.cluster.paths import locked
from tests.cluster.progress import ClusterError, wait_until

ROOT_SIZE = f"{SIZE_MIB}Mi"
# An idle machine needs an eighth of it; other tests and builds may run at the same time.
_BOOT_SECONDS = 240.0
_STOP_SECONDS = 60.0
_SUBRESOURCES = "/apis/subresources.kubevirt.io/v1"
_QEMU_USER = 107
_VIRSH = "virsh -q -c qemu+unix:///session?socket=/var/run/libvirt/virtqemud-sock"
# Runs in virt-launcher: starts a program in the guest and prints its status once it has ended. $1 domain, $2 request.
_EXEC_SCRIPT = f"""
pid=$({_VIRSH} qemu-agent-command "$1" "$2" | jq .return.pid) && [ -n "$pid" ] || exit 1
question='{{"execute": "guest-exec-status", "arguments": {{"pid": '$pid'}}}}'
while status=$({_VIRSH} qemu-agent-command "$1" "$question"); do
  [ "$(echo "$status" | jq .return.exited)" = true ] && echo "$status" && exit 0
  sleep 0.1
done
exit 1
"""


@dataclass(frozen=True)
class Disk:
    """A disk of a guest: `name` is its name in the VM and the serial that the guest sees, `claim` its PVC."""

    name: str
    claim: str
    bus: str = "virtio"


@dataclass(frozen=True)
class ExecResult:
    """What a program in the guest left."""

    exit_code: int
    stdout: str
    stderr: str


def claim(
    name: str,
    size: str,
    *,
    mode: str = "Block",
    storage_class: str = "reflink",
    source: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A PVC manifest; `source` is its dataSource."""
    spec: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "volumeMode": mode, "storageClassName": storage_class}
    spec["resources"] = {"requests": {"storage": size}}
    if source:
        spec["dataSource"] = dict(source)
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def fill(cluster: Cluster, namespace: str, claim_name: str, script: str, mode: str = "Block") -> None:
    """Run a shell script on a PVC in a Job under the restricted security standard, and wait for its end.

    The PVC is the device /dev/disk or, with mode Filesystem, the folder /volume; GUEST_DISK of `images` is there, too.
    """
    name = f"fill-{claim_name}"
    cluster.kubectl(
        "apply", f"--namespace={namespace}", "--filename=-", stdin=json.dumps(_job(name, claim_name, script, mode))
    )
    try:
        cluster.kubectl("wait", f"--namespace={namespace}", "--for=condition=Complete", "--timeout=120s", f"job/{name}")
    except ClusterError as error:
        pods = cluster.kubectl("describe", "pods", f"--namespace={namespace}", f"--selector=job-name={name}")
        raise ClusterError(f"PVC {namespace}/{claim_name} was not filled: {error}\n{pods}") from error
    cluster.kubectl("delete", f"--namespace={namespace}", f"job/{name}", "--wait=true", "--cascade=foreground")


def _job(name: str, claim_name: str, script: str, mode: str) -> dict[str, Any]:
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container: dict[str, Any] = {"name": "fill", "image": images.guest_disk_image(), "imagePullPolicy": "Never"}
    container |= {"command": ["sh", "-ec", script], "securityContext": security}
    if mode == "Block":
        container["volumeDevices"] = [{"name": "disk", "devicePath": "/dev/disk"}]
    else:
        container["volumeMounts"] = [{"name": "disk", "mountPath": "/volume"}]
    user = {"runAsNonRoot": True, "runAsUser": _QEMU_USER, "runAsGroup": _QEMU_USER, "fsGroup": _QEMU_USER}
    pod: dict[str, Any] = {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container]}
    pod["securityContext"] = user | {"seccompProfile": {"type": "RuntimeDefault"}}
    pod["volumes"] = [{"name": "disk", "persistentVolumeClaim": {"claimName": claim_name}}]
    spec = {"backoffLimit": 0, "template": {"spec": pod}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


def make_disk(cluster: Cluster, namespace: str, name: str, size: str, *, storage_class: str = "reflink") -> None:
    """Create an empty block PVC for a disk."""
    _apply(cluster, namespace, claim(name, size, storage_class=storage_class))


def make_root_disk(cluster: Cluster, namespace: str, name: str, *, storage_class: str = "reflink") -> None:
    """Create a block PVC and copy the guest's disk onto it."""
    _apply(cluster, namespace, claim(name, ROOT_SIZE, storage_class=storage_class))
    fill(cluster, namespace, name, f"dd if={images.GUEST_DISK} of=/dev/disk bs=1M conv=sparse,notrunc,fsync")


def make_file_disk(
    cluster: Cluster, namespace: str, name: str, size: str, image_bytes: int, *, storage_class: str = "reflink"
) -> None:
    """Create a filesystem PVC of `size` with an empty disk.img of `image_bytes`, which must fit in."""
    _apply(cluster, namespace, claim(name, size, mode="Filesystem", storage_class=storage_class))
    fill(cluster, namespace, name, f"truncate -s {image_bytes} /volume/disk.img", mode="Filesystem")


def _apply(cluster: Cluster, namespace: str, *objects: Mapping[str, Any]) -> None:
    manifests = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    cluster.kubectl("apply", f"--namespace={namespace}", "--filename=-", stdin=json.dumps(manifests))


class Guest:
    """A virtual machine of the cluster, by namespace and name; it need not exist yet."""

    def __init__(self, cluster: Cluster, namespace: str, name: str) -> None:
        self.cluster, self.namespace, self.name = cluster, namespace, name

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.cluster.kubectl(f"--namespace={self.namespace}", *arguments, stdin=stdin)

    def create(self, disks: Sequence[Disk], *, memory: str = "128Mi", labels: Mapping[str, str] | None = None) -> None:
        """Create the VM, stopped; its first disk is the one it boots from."""
        _apply(self.cluster, self.namespace, self.manifest(disks, memory=memory, labels=labels or {}))

    def manifest(self, disks: Sequence[Disk], *, memory: str, labels: Mapping[str, str]) -> dict[str, Any]:
        """The VirtualMachine as it is applied."""
        devices = {
            "autoattachPodInterface": False,
            "autoattachGraphicsDevice": False,
            "rng": {},
            "disks": [{"name": disk.name, "serial": disk.name, "disk": {"bus": disk.bus}} for disk in disks],
        }
        volumes = [{"name": disk.name, "persistentVolumeClaim": {"claimName": disk.claim}} for disk in disks]
        domain = {"cpu": {"cores": 1}, "memory": {"guest": memory}, "devices": devices}
        template = {"spec": {"terminationGracePeriodSeconds": 30, "domain": domain, "volumes": volumes}}
        return {
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachine",
            "metadata": {"name": self.name, "labels": dict(labels)},
            "spec": {"runStrategy": "Manual", "template": template},
        }

    def start(self) -> None:
        """Start the VM and wait until its agent answers; guests boot one after the other."""
        with locked("guest-boot"):
            self._put("virtualmachines", "start", {})
            self.wait_for_agent()

    def stop(self) -> None:
        """Shut the guest down and wait until nothing of it runs."""
        self._put("virtualmachines", "stop", {})
        wait_until(lambda: not self.instance(), _STOP_SECONDS, f"{self} to stop", 0.3)

    def restart(self) -> None:
        """Shut the guest down and boot it again."""
        self.stop()
        self.start()

    def delete(self) -> None:
        """Delete the VM, running or not, and wait until it is gone; its PVCs stay."""
        self.kubectl("delete", f"virtualmachine/{self.name}", "--ignore-not-found", "--wait=true")

    def wait_for_agent(self) -> None:
        """Wait until the guest agent is connected and a program can be run in the guest."""
        try:
            wait_until(self._has_agent, _BOOT_SECONDS, f"the agent of {self}", 0.3)
        except ClusterError as error:
            conditions = self.instance().get("status", {}).get("conditions", [])
            said = [f"{each['type']}: {each['message']}" for each in conditions if each.get("message")]
            raise ClusterError(f"{error}; {'; '.join(said)}") from error
        self.run("true")

    def instance(self) -> dict[str, Any]:
        """The VirtualMachineInstance, or {} while there is none."""
        found = self.kubectl("get", f"virtualmachineinstance/{self.name}", "--ignore-not-found", "--output=json")
        return dict(json.loads(found)) if found else {}

    def _has_agent(self) -> bool:
        status = self.instance().get("status", {})
        if status.get("phase") == "Failed":
            raise ClusterError(f"{self} failed: {status}")
        return any(
            each["type"] == "AgentConnected" and each["status"] == "True" for each in status.get("conditions", [])
        )

    def execute(self, command: Sequence[str], stdin: bytes = b"") -> ExecResult:
        """Run a program in the guest and wait for its end; raises ClusterError if that could not be asked for.

        While the guest is frozen its agent runs nothing. Output beyond 16 MiB is cut off.
        """
        arguments: dict[str, Any] = {"path": command[0], "arg": list(command[1:]), "capture-output": True}
        if stdin:
            arguments["input-data"] = base64.b64encode(stdin).decode()
        request = json.dumps({"execute": "guest-exec", "arguments": arguments})
        answer = self.in_launcher(["sh", "-c", _EXEC_SCRIPT, "sh", self._domain, request])
        result = json.loads(answer)["return"]
        output = [base64.b64decode(result.get(name, "")).decode(errors="replace") for name in ("out-data", "err-data")]
        # A program that a signal ended has no exit code; it gets the shell's.
        return ExecResult(result.get("exitcode", 128 + result.get("signal", 0)), output[0], output[1])

    def run(self, script: str) -> str:
        """Run a shell script in the guest and return its output; raises ClusterError if it fails."""
        result = self.execute(["/bin/sh", "-ec", script])
        if result.exit_code:
            raise ClusterError(f"`{script}` in {self} exited with {result.exit_code}: {result.stdout}{result.stderr}")
        return result.stdout

    def agent(self, command: str) -> Any:
        """Send a command without arguments to the guest agent, e.g. guest-fsfreeze-status, and return its answer."""
        request = json.dumps({"execute": command})
        words = [*shlex.split(_VIRSH), "qemu-agent-command", self._domain, request]
        return json.loads(self.in_launcher(words))["return"]

    def freeze(self, unfreeze_after: str = "30s") -> None:
        """Freeze the guest's file systems; KubeVirt thaws them itself after that time ("0s": never)."""
        self._put("virtualmachineinstances", "freeze", {"unfreezeTimeout": unfreeze_after})

    def thaw(self) -> None:
        self._put("virtualmachineinstances", "unfreeze", {})

    def is_frozen(self) -> bool:
        """What the guest agent says, at once; the status of the instance lags behind by up to ten seconds."""
        return bool(self.agent("guest-fsfreeze-status") == "frozen")

    def attach(self, disk: Disk) -> None:
        """Hot-plug a disk, kept in the VM, and wait until the guest can see it."""
        self._put("virtualmachines", "addvolume", _volume_request(disk))
        wait_until(lambda: self.volume(disk.name).get("phase") == "Ready", 60, f"disk {disk.name} of {self}", 0.3)
        wait_until(lambda: disk.name in self.disks(), 30, f"{self} to see disk {disk.name}", 0.3)

    def detach(self, name: str) -> None:
        """Unplug a hot-plugged disk and wait until it is gone from the instance."""
        self._put("virtualmachines", "removevolume", {"name": name})
        wait_until(lambda: not self.volume(name), 60, f"disk {name} of {self} to go", 0.3)

    def volume(self, name: str) -> dict[str, Any]:
        """The entry of a volume in the instance's status.volumeStatus, or {}."""
        volumes = self.instance().get("status", {}).get("volumeStatus", [])
        return next((dict(each) for each in volumes if each["name"] == name), {})

    def disks(self) -> dict[str, str]:
        """The disks that the guest sees: {serial: device}, e.g. {"data": "/dev/vdb"}."""
        lines = [line.split() for line in self.run("disks").splitlines()]
        return {serial: f"/dev/{device}" for device, _, serial in lines}

    def device_digest(self, volume: str) -> str:
        """SHA-256 of a block volume's content, hot-plugged or not, read past all caches beside the running guest."""
        folder = "/var/run/kubevirt/hotplug-disks" if "hotplugVolume" in self.volume(volume) else "/dev"
        script = f"dd if={folder}/{shlex.quote(volume)} bs=1M iflag=direct status=none | sha256sum"
        return self.in_launcher(["sh", "-c", script]).split()[0]

    def in_launcher(self, command: Sequence[str]) -> str:
        """Run a command in the container that holds libvirt and QEMU, and return its output."""
        return self.kubectl("exec", self._launcher(), "--container=compute", "--", *command)

    def _launcher(self) -> str:
        selector = f"--selector=kubevirt.io=virt-launcher,vm.kubevirt.io/name={self.name}"
        running = "--field-selector=status.phase=Running"
        pods = self.kubectl("get", "pods", selector, running, "--output=name").split()
        if not pods:
            raise ClusterError(f"{self} has no running virt-launcher pod: is it started?")
        return pods[-1]

    @property
    def _domain(self) -> str:
        return f"{self.namespace}_{self.name}"

    def _put(self, kind: str, action: str, body: Mapping[str, Any]) -> None:
        path = f"{_SUBRESOURCES}/namespaces/{self.namespace}/{kind}/{self.name}/{action}"
        self.cluster.kubectl("replace", f"--raw={path}", "--filename=-", stdin=json.dumps(body))

    def __str__(self) -> str:
        return f"VM {self.namespace}/{self.name}"


def _volume_request(disk: Disk) -> dict[str, Any]:
    attached = {"name": disk.name, "serial": disk.name, "disk": {"bus": disk.bus}}
    return {
        "name": disk.name,
        "disk": attached,
        "volumeSource": {"persistentVolumeClaim": {"claimName": disk.claim}},
    }
