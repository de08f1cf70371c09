"""Decisions of the local cluster that need no cluster."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import pytest

from tests.cluster import images, lifecycle, network, paths
from tests.cluster.progress import ClusterError


def networks(*texts: str) -> list[ipaddress.IPv4Network]:
    return [ipaddress.IPv4Network(text) for text in texts]


def test_a_second_cluster_gets_another_network() -> None:
    first = network.choose_link([], preferred=255)
    second = network.choose_link([first.network], preferred=255)
    assert (first.host, first.node) == ("10.89.255.1", "10.89.255.2")
    assert second.node == "10.89.0.2"


def test_a_network_that_overlaps_one_of_the_hosts_is_not_chosen() -> None:
    assert network.choose_link(networks("10.89.7.0/24", "10.89.8.2/32"), preferred=7).number == 9


def test_no_free_network_is_told_instead_of_taking_one_that_is_in_use() -> None:
    with pytest.raises(ClusterError, match="stop other clusters"):
        network.choose_link(networks("10.89.0.0/16"), preferred=0)


def test_interface_names_fit_the_kernels_limit() -> None:
    assert len(network.interface("0123abcd")) <= 15


def test_pip_in_a_build_gets_sources_of_packages_but_no_folders_of_the_host() -> None:
    listed = "global.index-url='https://index.example/simple'\n:env:.timeout='180'\nglobal.find-links='/opt/wheels'\n"
    text = images.pip_configuration(listed)
    assert "index-url = https://index.example/simple" in text
    assert "timeout = 180" in text
    assert "/opt/wheels" not in text


def test_contents_moved_from_one_part_to_the_next_change_the_key() -> None:
    assert paths.content_key(b"ab", b"c") != paths.content_key(b"a", b"bc")


def test_a_changed_or_renamed_input_makes_another_image(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("same")
    first = images.content_of(tmp_path)
    (tmp_path / "one").rename(tmp_path / "two")
    assert images.content_of(tmp_path) != first


@pytest.mark.parametrize("part", ["kubevirt/guest/root/bin/disks", "kubevirt/build/tools.go", "csi/manifests.yaml"])
def test_cluster_of_other_parts_is_not_taken_for_a_current_one(tmp_path: Path, part: str) -> None:
    changed = tmp_path / part
    changed.parent.mkdir(parents=True)
    changed.write_text("one")
    before = lifecycle.fingerprint(tmp_path)
    changed.write_text("other")
    assert lifecycle.fingerprint(tmp_path) != before
    changed.with_name("README.md").write_text("other words")
    changed.write_text("one")
    assert lifecycle.fingerprint(tmp_path) == before, "a text about the parts is none of them"


def test_old_images_of_the_operator_make_room_but_the_base_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGBOAT_CACHE", str(tmp_path))
    (tmp_path / "images").mkdir()
    base = tmp_path / "images" / f"longboat-base-{paths.content_key(b'base')}.tar"
    built = [tmp_path / "images" / f"longboat-{paths.content_key(bytes([each]))}.tar" for each in range(12)]
    for age, path in enumerate([*reversed(built), base]):
        path.touch()
        os.utime(path, (1000 - age, 1000 - age))
    images.forget_old_archives("longboat")
    assert base.exists(), "it takes minutes to make"
    assert built[-1].exists()
    assert not built[0].exists()
