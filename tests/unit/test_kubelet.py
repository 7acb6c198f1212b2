"""kubelet's directory: which path is whose, and what is noted beside a target."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from csi_fluid import driver, kubelet
from csi_fluid.kubelet import Kubelet
from recover.layout import Note, PodVolume

KUBELET = Kubelet()
TARGET = "/var/lib/kubelet/pods/u1/volumes/kubernetes.io~csi/pv/mount"
BIND = "/var/lib/kubelet/pods/u1/volume-subpaths/pv/app/0"


def note(**changes: object) -> dict[str, object]:
    """Return what kubelet 1.37 writes."""
    return {
        "attachmentID": "csi-5ad0",
        "driverName": driver.NAME,
        "nodeName": "node-1",
        "seLinuxMountContext": "",
        "specVolID": "pv",
        "volumeHandle": "default-demo",
        "volumeLifecycleMode": "Persistent",
        **changes,
    }


def noted(content: dict[str, object]) -> Note | None:
    return Kubelet(read=lambda _: content).note(TARGET)


# Paths


def test_a_sub_path_bind_belongs_to_the_target_of_its_volume():
    volume = PodVolume("/var/lib/kubelet/pods", "u1", "pv")

    assert KUBELET.published(TARGET) == KUBELET.sub_path(BIND) == volume
    assert (KUBELET.published(BIND), KUBELET.sub_path(TARGET)) == (None, None)
    assert KUBELET.target("u1", "pv") == TARGET


@pytest.mark.parametrize("ask", [KUBELET.published, KUBELET.sub_path])
@pytest.mark.parametrize("path", [TARGET, BIND])
def test_the_paths_of_another_kubelet_are_not_this_ones(
    ask: Callable[[str], PodVolume | None], path: str
):
    assert ask(path.replace("/var/lib", "/data")) is None
    assert ask(path.replace("/pods/", "/pods/x/pods/")) is None


def test_names_may_have_any_character_but_a_slash():
    odd = TARGET.replace("u1", "u\n1").replace("pv", "p v~")

    assert KUBELET.published(odd) == PodVolume("/var/lib/kubelet/pods", "u\n1", "p v~")


def test_what_is_mounted_in_a_pod_is_known_below_any_kubelet():
    elsewhere = (TARGET.replace("/var/lib", "/data"), BIND.replace("/var/lib", "/data"))
    scratch = "/var/lib/kubelet/pods/u1/volumes/kubernetes.io~empty-dir/x"

    assert all(KUBELET.is_in_pod(path) for path in (TARGET, BIND, scratch, *elsewhere))
    assert not any(KUBELET.is_in_pod(path) for path in ("/mnt", "/var/lib/kubelet/pods2/x"))


def test_a_slash_at_the_end_of_the_root_changes_nothing():
    slashed = Kubelet("/var/lib/kubelet/")

    assert slashed.published(TARGET) == KUBELET.published(TARGET)


def test_another_drivers_socket_is_at_its_own_place():
    assert str(Kubelet("/k", "d.example").socket) == "/k/csi-plugins/d.example/csi.sock"


def test_targets_are_listed_for_which_kubelet_made_a_directory(tmp_path: Path):
    place = Kubelet(str(tmp_path))
    assert list(place.targets()) == []

    for pod, volume in (("u1", "a"), ("u1", "b"), ("u2", "a")):
        Path(place.target(pod, volume)).parent.mkdir(parents=True)
    (tmp_path / "pods/u3").mkdir()  # a pod without volumes

    pairs = (("u1", "a"), ("u1", "b"), ("u2", "a"))
    assert sorted(place.targets()) == [place.target(*pair) for pair in pairs]


# Notes


def test_a_note_of_our_driver_names_the_volume():
    assert noted(note()) == Note("default-demo", is_ours=True)


def test_a_note_of_another_driver_is_not_ours():
    found = noted(note(driverName="s3.csi.aws.com"))

    assert found is not None
    assert not found.is_ours


@pytest.mark.parametrize(
    "content",
    [{}, note(driverName=7), note(driverName=None), {"driverName": driver.NAME}],
    ids=["empty", "a number", "null", "no handle"],
)
def test_half_a_note_is_none(content):
    assert noted(content) is None


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "vol_data.json"


def read(place: Path) -> Note | None:
    return KUBELET.note(str(place.with_name("mount")))


def test_the_note_lies_beside_the_target(place):
    place.write_text(json.dumps(note()))

    assert read(place) == Note("default-demo", is_ours=True)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'"x"', b"\xff\xfe{}", b"[" * 60_000],
    ids=["empty", "cut off", "list", "text", "bytes", "deep"],
)
def test_a_broken_note_is_none(place, content):
    place.write_bytes(content)

    assert read(place) is None


def test_a_huge_note_is_none(place):
    place.write_text(json.dumps(note(padding="x" * kubelet.NOTE_LIMIT)))

    assert read(place) is None


def test_what_is_no_plain_file_is_not_read(place):
    real = place.with_name("real.json")
    real.write_text(json.dumps(note()))

    assert read(place) is None  # absent
    place.symlink_to(real)
    assert read(place) is None
    place.unlink()
    os.mkfifo(place)
    assert read(place) is None
    place.unlink()
    place.mkdir()
    assert read(place) is None
