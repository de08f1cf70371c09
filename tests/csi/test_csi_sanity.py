"""The driver must be one that any CSI sidecar and kubelet can work with: csi-sanity says whether it is."""

import json
import subprocess

import pytest

from tests.cluster.csi.sanity import ensure_sanity
from tests.cluster.csi.stubs import default_cache
from tests.csi.driver import MIB, Driver


@pytest.mark.parametrize("access", ["mount", "block"])
def test_csi_sanity_finds_nothing(own_driver: Driver, access: str) -> None:
    folder, report = own_driver.folder, own_driver.folder / "report.json"
    options = {
        "csi.endpoint": own_driver.socket,
        # Folders that csi-sanity makes and removes itself, inside the mount namespace of the driver.
        "csi.mountdir": folder / "mount",
        "csi.stagingdir": folder / "stage",
        "csi.testvolumesize": 64 * MIB,
        "csi.testvolumeexpandsize": 96 * MIB,
        "csi.testvolumeaccesstype": access,
        "ginkgo.json-report": report,
    }
    program = ensure_sanity(default_cache())
    command = own_driver.inside(program, "-ginkgo.no-color", *(f"--{key}={value}" for key, value in options.items()))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-2000:]
    states = [each["State"] for suite in json.loads(report.read_text()) for each in suite["SpecReports"]]
    # What it skips are capabilities that the driver does not announce; fewer passes mean that it lost one.
    assert states.count("passed") >= 67
    _nothing_is_left(own_driver)


def _nothing_is_left(driver: Driver) -> None:
    pool = driver.path(driver.state / "pool")
    assert not list((pool / "volumes").iterdir())
    assert not list((pool / "snapshots").iterdir())
