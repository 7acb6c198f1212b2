"""Adoption: rows for mounts that Fluid's plugin left, from the evidence of a real node."""

from pathlib import Path

import pytest

from csi_fluid import driver
from csi_fluid.kubelet import Kubelet
from csi_fluid.mountroot import MountRoot
from recover import adopt
from recover.adopt import Found
from recover.layout import Dataset, Layout, Note, PodVolume
from recover.rows import Publication
from recover.store import Store
from tests.unit.adopt.nodes import (
    GLOBAL,
    KUBELET,
    MOUNT_ROOT,
    NEW,
    ORPHAN,
    SOURCE,
    find,
    layout,
    line,
    sources,
    table,
    target,
    vol_data,
)


def test_a_target_of_another_plugin_gets_a_full_row():
    found = find(table(GLOBAL, line(31, target(), options="ro,nosuid,relatime")))

    assert found == Found(
        (
            Publication(
                target=target(),
                volume_id="default-demo",
                source=SOURCE,
                mount_type="fuse.juicefs",
                read_only=True,
                runtime_namespace="default",
                runtime_name="demo",
                pod_uid="u1",
                adopted=True,
            ),
        ),
        (),
    )


@pytest.mark.parametrize(
    ("options", "superblock", "expected"),
    [
        ("rw,relatime", "rw,user_id=0", False),
        ("ro,relatime", "rw,user_id=0", True),
        ("rw,relatime", "ro,user_id=0", True),  # as Fluid's busybox mount leaves it: kernel ro only
    ],
)
def test_read_only_is_what_the_kernel_enforces(options, superblock, expected):
    mounts = table(GLOBAL, line(31, target(), options=options, superblock=superblock))

    assert find(mounts).publications[0].read_only is expected


def test_a_target_with_a_row_is_left_as_it_is():
    store = Store()
    store.put_publication(Publication(target(), "v", "/elsewhere"))

    assert find(table(GLOBAL, line(31, target())), store) == Found((), ())


def test_only_the_directory_of_this_kubelet_is_looked_at():
    roots = ["/data/kubelet", "/k/pods/x", ""]
    places = [target(root=root) for root in roots]
    mounts = table(GLOBAL, *[line(31 + i, place) for i, place in enumerate(places)])

    for root, place in zip(roots, places, strict=True):
        assert set(sources(find(mounts, kubelet_root=f"{root}/"))) == {place}


@pytest.mark.parametrize(
    "place",
    [
        "/srv/mount",
        f"{KUBELET}/pods/u1/volumes/kubernetes.io~csi/default-demo/mount/inner",
        f"{KUBELET}/pods/u1/volumes/kubernetes.io~nfs/default-demo/mount",
        f"{KUBELET}/pods/u1/volume-subpaths/default-demo/app/0",
        f"{KUBELET}/plugins/kubernetes.io/csi/pv/default-demo/globalmount",
        f"{KUBELET}/pods/volumes/kubernetes.io~csi/default-demo/mount",
    ],
)
def test_a_mount_at_another_place_is_not_ours(place):
    assert find(table(GLOBAL, line(31, place))) == Found((), ())


def test_the_volume_of_another_driver_is_never_adopted():
    data = vol_data(name="s3.csi.aws.com")

    assert find(table(GLOBAL, line(31, target())), data=data) == Found((), ())


def test_a_mount_that_is_not_fuse_is_not_ours():
    mounts = table(GLOBAL, line(31, target(), dev="0:70", kind="tmpfs tmpfs"))

    assert find(mounts) == Found((), ())


def test_only_what_the_path_shows_counts():
    hidden = table(
        GLOBAL, line(31, target()), line(32, f"{KUBELET}/pods", dev="0:9", kind="ext4 x")
    )
    covered = table(
        GLOBAL, line(31, target()), line(32, target(), on=31, dev="0:9", kind="tmpfs tmpfs")
    )

    assert find(hidden) == find(covered) == Found((), ())


def test_a_place_within_a_fuse_mount_is_not_even_read():
    """A pod may mount what it likes inside its volume, and a lookup there may hang for ever."""

    def read(path: str) -> dict[str, object]:
        raise AssertionError(f"read {path}")

    bait, pod = target(), f"{KUBELET}/pods/u1"
    on_plain = table(
        GLOBAL,
        line(31, pod),
        line(32, f"{pod}/volumes", on=31, dev="8:1", kind="ext4 /dev/vda1"),
        line(33, bait, on=32),
        line(34, bait, on=33),
    )

    for mounts in (table(GLOBAL, line(31, pod), line(32, bait, on=31)), on_plain):
        assert adopt.find(mounts, Store(), layout(read)) == Found((), ())


def test_the_machines_own_root_may_be_a_fuse_mount():
    """The root of every container is, where the runtime's snapshots are fuse-overlayfs."""
    root = line(2, "/", dev="0:40", kind="fuse.fuse-overlayfs fuse-overlayfs")
    kubelet = line(3, KUBELET, on=2, dev="8:1", kind="ext4 /dev/vda1")
    own = table(root, kubelet, line(30, SOURCE, on=2, peers="shared:77"), line(31, target(), on=3))

    assert sources(find(own)) == {target(): (SOURCE, "")}


# Without vol_data.json


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"driverName": 7},
        {"driverName": driver.NAME},
        {"driverName": None, "volumeHandle": "x"},
    ],
)
def test_without_vol_data_a_superblock_below_the_mount_root_is_proof(data):
    ours = find(table(GLOBAL, line(31, target("virtual"))), data=data)

    assert [(row.source, row.volume_id) for row in ours.publications] == [(SOURCE, "virtual")]


def test_without_vol_data_nothing_else_is_proof():
    elsewhere = line(29, "/mnt/s3", dev="0:55")

    assert find(table(elsewhere, NEW, ORPHAN), data={}) == Found((), ())


# Another driver, another layout


def test_another_drivers_name_is_served_by_handing_it_in():
    mounts = table(GLOBAL, line(31, target()))
    other = Kubelet(KUBELET, "other.csi.example", lambda _: vol_data(name="other.csi.example"))
    places = Layout(other, MountRoot(MOUNT_ROOT))

    assert sources(adopt.find(mounts, Store(), places)) == {target(): (SOURCE, "")}
    assert find(mounts, data=vol_data(name="other.csi.example")) == Found((), ())


class Shelf:
    """A node that keeps things otherwise: /shelf/VOLUME@POD, and sources at /fuse/NAME."""

    root = "/fuse"

    def published(self, path: str) -> PodVolume | None:
        volume, at, pod = path.removeprefix("/shelf/").partition("@")
        return PodVolume("/shelf", pod, volume) if path.startswith("/shelf/") and at else None

    def sub_path(self, path: str) -> PodVolume | None:
        return None

    def is_in_pod(self, path: str) -> bool:
        return path.startswith("/shelf/")

    def note(self, target: str) -> Note | None:
        return Note(volume_id="id of x", is_ours=True)

    def dataset(self, source: str) -> Dataset | None:
        return Dataset("ns", source.removeprefix("/fuse/"), f"id of {source[6:]}")


def test_another_layout_is_served_by_handing_it_in():
    places = Layout(Shelf(), Shelf())
    mounts = table(
        line(30, "/fuse/x", dev="0:60"),  # mounted again since
        line(31, "/shelf/v@p", root="/sub"),
        line(32, target()),
    )

    (row,) = adopt.find(mounts, Store(), places).publications

    assert (row.target, row.source, row.sub_path) == ("/shelf/v@p", "/fuse/x", "sub")
    assert (row.volume_id, row.runtime_name, row.pod_uid) == ("id of x", "x", "p")
    assert adopt.gone((row,), places, lambda path: False) == ()
    assert adopt.gone((row,), places, lambda path: path == "/shelf") == ()


# Pods that are gone


def test_a_pod_is_gone_when_the_directory_of_its_target_is():
    here, away = Publication(target(pod="u1"), "v", "/s"), Publication(target(pod="u2"), "v", "/s")
    asked: list[str] = []
    present = {f"{KUBELET}/pods", str(Path(here.target).parent)}

    def is_directory(path: str) -> bool:
        asked.append(path)
        return path in present

    assert adopt.gone((here, away), layout(), is_directory) == (away,)
    assert not {here.target, away.target} & set(asked)


def test_no_pod_is_gone_where_kubelets_directory_is_missing():
    assert adopt.gone((Publication(target(), "v", "/s"),), layout(), lambda _: False) == ()


def test_a_target_outside_of_kubelet_is_gone_with_its_directory():
    row = Publication("/srv/x/mount", "v", "/s")

    assert adopt.gone((row,), layout(), lambda path: path == "/srv/x") == ()
    assert adopt.gone((row,), layout(), lambda _: False) == (row,)
