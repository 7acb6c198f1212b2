"""Adoption: rows for mounts that Fluid's plugin left, from the evidence that a real node has."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from csi_fluid import driver, kubelet
from csi_fluid.kubelet import Kubelet
from csi_fluid.mountroot import MountRoot
from recover import adopt
from recover.adopt import Found
from recover.layout import Dataset, Layout, Note, PodVolume
from recover.linux import mountinfo
from recover.linux.mountinfo import MountTable
from recover.store import Generation, Publication, Store

KUBELET = "/var/lib/kubelet"
MOUNT_ROOT = "/runtime-mnt"
SOURCE = f"{MOUNT_ROOT}/juicefs/default/demo/juicefs-fuse"

BASE = [
    "1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw",
    "20 1 0:20 / /proc rw - proc proc rw",
]


def target(pv: str = "default-demo", pod: str = "u1", root: str = KUBELET) -> str:
    return f"{root}/pods/{pod}/volumes/kubernetes.io~csi/{pv}/mount"


def line(
    number: int,
    place: str,
    *,
    on: int = 1,
    dev: str = "0:55",
    root: str = "/",
    options: str = "rw,relatime",
    peers: str = "shared:78 master:77",
    kind: str = "fuse.juicefs JuiceFS:demo",
    superblock: str = "rw,user_id=0,group_id=0,allow_other",
) -> str:
    point = place.replace(" ", "\\040").replace("\n", "\\012")
    return f"{number} {on} {dev} {root} {point} {options} {peers} - {kind} {superblock}"


def table(*lines: str) -> MountTable:
    return mountinfo.parse("\n".join([*BASE, *lines]).encode())


def vol_data(handle: str = "default-demo", name: str = driver.NAME) -> dict[str, object]:
    """Return what adoption needs of kubelet's note."""
    return {"driverName": name, "volumeHandle": handle}


def layout(
    read: kubelet.Reader = lambda _: {}, kubelet_root: str = KUBELET, mount_root: str = MOUNT_ROOT
) -> Layout:
    return Layout(Kubelet(kubelet_root, read=read), MountRoot(mount_root))


def find(
    mounts: MountTable,
    store: Store | None = None,
    *,
    data: Mapping[str, object] | None = None,
    kubelet_root: str = KUBELET,
    mount_root: str = MOUNT_ROOT,
) -> Found:
    """Look with the same vol_data.json beside every target, by default one of default-demo."""
    content = vol_data() if data is None else data
    places = layout(lambda _: content, kubelet_root, mount_root)
    return adopt.find(mounts, store or Store(), places)


def sources(found: Found) -> dict[str, tuple[str, str]]:
    return {row.target: (row.source, row.sub_path) for row in found.publications}


GLOBAL = line(30, SOURCE, peers="shared:77")


# What a healthy node looks like


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

    bait = f"{SOURCE}/pods/u1/volumes/kubernetes.io~csi/default-demo/mount"
    on_plain = table(
        GLOBAL,
        line(31, f"{SOURCE}/pods", on=30, dev="8:1", kind="ext4 /dev/vda1"),
        line(32, bait, on=31),
        line(33, bait, on=32),
    )

    for mounts in (table(GLOBAL, line(31, bait, on=30)), on_plain):
        assert adopt.find(mounts, Store(), layout(read, SOURCE)) == Found((), ())


# Which mount is the source


def test_stacked_layers_count_once_and_by_the_topmost():
    """Fluid's plugin puts one more layer on the target at each crash."""
    mounts = table(
        GLOBAL,
        line(31, target(), dev="0:53"),
        line(32, target(), on=31, dev="0:54"),
        line(33, target(), on=32, dev="0:55", root="/sub"),
    )

    assert sources(find(mounts)) == {target(): (SOURCE, "sub")}


def test_a_new_global_mount_on_top_of_the_dead_one_has_the_same_path():
    dead = line(30, SOURCE, dev="0:55", peers="shared:77")
    new = line(40, SOURCE, on=30, dev="0:60", peers="shared:90")

    assert sources(find(table(dead, new, line(31, target())))) == {target(): (SOURCE, "")}


def test_a_reference_dataset_is_found_by_its_superblock():
    """Its PV has the name of the virtual dataset, its handle is that of the physical one."""
    place = target("other-virtual")

    found = find(table(GLOBAL, line(31, place, root="/a/b")))

    assert sources(found) == {place: (SOURCE, "a/b")}
    (row,) = found.publications
    assert (row.volume_id, row.runtime_namespace, row.runtime_name) == (
        "default-demo",
        "default",
        "demo",
    )


@pytest.mark.parametrize("mount_root", ["/var/lib/x/runtime-mnt", f"{KUBELET}/runtime-mnt/", "/a"])
def test_the_mount_root_may_lie_anywhere(mount_root):
    source = f"{mount_root.rstrip('/')}/thin/ns/na-me/thin-fuse"
    mounts = table(line(30, source), line(31, target("ns-na-me"), root="/sub"))

    (row,) = find(mounts, mount_root=mount_root).publications

    assert (row.source, row.sub_path) == (source, "sub")
    assert (row.runtime_namespace, row.runtime_name) == ("ns", "na-me")


def test_other_mounts_below_the_dataset_are_not_taken_for_the_source():
    folder = f"{MOUNT_ROOT}/juicefs/default/demo"
    mounts = table(
        line(25, f"{folder}/.meta/fuse", dev="0:33", kind="tmpfs tmpfs"),
        line(26, f"{folder}/.m", dev="0:55", peers="shared:77"),  # shorter, and the same superblock
        line(27, f"{folder}/.meta/fuse2", dev="0:55", peers="shared:77"),
        line(28, f"{folder}/pod-1/1700000000-x/juicefs-fuse", dev="0:56", peers="shared:79"),
        GLOBAL,
        line(32, f"{SOURCE}/rpc-conf", on=30, dev="0:55", root="/conf"),
        line(31, target()),
    )

    assert sources(find(mounts)) == {target(): (SOURCE, "")}


def test_binds_of_parts_of_the_volume_are_not_taken_for_the_source():
    mounts = table(
        line(25, "/srv", root="/a"),
        line(26, f"{MOUNT_ROOT}/x", root="/a"),
        line(27, f"{KUBELET}/pods/u0/volume-subpaths/default-demo/app/0", root="/"),
        line(28, target(pod="u0")),
        GLOBAL,
        line(31, target(), root="/a/b"),
    )

    assert sources(find(mounts))[target()] == (SOURCE, "a/b")


def test_the_mount_that_shows_most_of_the_superblock_is_nearest_to_a_source():
    mounts = table(
        line(26, f"{MOUNT_ROOT}/x", root="/a"),
        line(27, f"{MOUNT_ROOT}/some/where/else"),
        line(31, target(), root="/a/b"),
    )

    assert sources(find(mounts)) == {target(): (f"{MOUNT_ROOT}/some/where/else", "a/b")}


def test_what_a_pod_mounts_in_its_own_volumes_is_no_source():
    mounts = table(
        line(26, f"{KUBELET}/pods/u9/volumes/kubernetes.io~empty-dir/shared/x"),
        line(31, target()),
    )

    assert find(mounts).publications == ()


def test_a_removed_sub_directory_is_still_known_by_its_path():
    mounts = table(GLOBAL, line(31, target(), root="/a/b//deleted"))

    assert sources(find(mounts)) == {target(): (SOURCE, "a/b")}


def test_a_source_outside_of_the_mount_root_is_the_last_resort():
    """A debugging bind elsewhere must not win over the dataset's own place."""
    bind = line(29, "/mnt/debug", dev="0:55")
    new = line(30, SOURCE, dev="0:60", peers="shared:90")
    orphan = line(31, target(), dev="0:55")

    assert sources(find(table(bind, orphan))) == {target(): ("/mnt/debug", "")}
    assert sources(find(table(bind, new, orphan))) == {target(): (SOURCE, "")}


# The dead generation's global mount is gone


NEW = line(30, SOURCE, dev="0:60", peers="shared:90")
ORPHAN = line(31, target(), dev="0:55", root="/sub")


def test_the_source_is_found_by_its_path_when_the_superblock_is_not():
    assert sources(find(table(NEW, ORPHAN))) == {target(): (SOURCE, "sub")}


def test_without_any_mount_the_target_waits_and_the_reason_is_told():
    found = find(table(ORPHAN))

    assert found.publications == ()
    assert [(u.target, "default-demo" in u.reason) for u in found.unknown] == [(target(), True)]


def test_a_name_that_fits_two_datasets_is_left_out():
    first = line(30, f"{MOUNT_ROOT}/juicefs/a-b/c/juicefs-fuse", dev="0:60")
    second = line(32, f"{MOUNT_ROOT}/juicefs/a/b-c/juicefs-fuse", dev="0:61")
    orphan = line(31, target("a-b-c"))
    data = vol_data("a-b-c")

    both = find(table(first, second, orphan), data=data)
    one = find(table(second, orphan), data=data)

    assert both.publications == ()
    assert "a-b/c" in both.unknown[0].reason
    assert "a/b-c" in both.unknown[0].reason
    assert [row.runtime_name for row in one.publications] == ["b-c"]


def test_a_global_mount_that_is_stacked_is_one_candidate():
    stacked = line(32, SOURCE, on=30, dev="0:61", peers="shared:91")

    assert sources(find(table(NEW, stacked, ORPHAN))) == {target(): (SOURCE, "sub")}


@pytest.mark.parametrize(
    "candidate",
    [
        line(30, f"{MOUNT_ROOT}/juicefs/default/demo/pod/juicefs-fuse", dev="0:60"),
        line(30, f"{MOUNT_ROOT}/juicefs/default/demo/.meta", dev="0:60"),
        line(30, f"{MOUNT_ROOT}/default/demo/juicefs-fuse", dev="0:60"),
        line(30, f"{MOUNT_ROOT}2/juicefs/default/demo/juicefs-fuse", dev="0:60"),
        line(30, f"{MOUNT_ROOT}/juicefs/default/demo2/juicefs-fuse", dev="0:60"),
        line(30, SOURCE, dev="0:60", kind="tmpfs tmpfs"),
        line(30, SOURCE, dev="0:60", kind="fuse.alluxio-fuse alluxio"),
    ],
)
def test_what_only_looks_like_the_source_is_no_evidence(candidate):
    assert find(table(candidate, ORPHAN)).publications == ()


def test_a_sibling_knows_the_source():
    store = Store()
    store.put_publication(Publication(target(pod="u0"), "default-demo", "/anywhere/fuse"))

    assert sources(find(table(ORPHAN), store)) == {target(): ("/anywhere/fuse", "sub")}


def test_a_sibling_adopted_in_the_same_pass_knows_the_source():
    source = f"{MOUNT_ROOT}/odd/place"
    mounts = table(
        ORPHAN, line(30, source, dev="0:60"), line(32, target(pod="u2"), dev="0:60", root="/x")
    )

    assert sources(find(mounts)) == {target(): (source, "sub"), target(pod="u2"): (source, "x")}


def test_siblings_that_disagree_are_no_evidence_unless_a_generation_decides():
    store = Store()
    store.put_publication(Publication(target(pod="p1"), "default-demo", "/old/place/fuse"))
    store.put_publication(Publication(target(pod="p2"), "default-demo", "/new/place/fuse"))
    known = Generation(
        "/old/place/fuse", "0:55", "/", "fuse.juicefs", "JuiceFS:demo", "boot", 1.0, 2.0
    )

    store.put_generation(replace(known, source="/new/place/fuse", dev="0:60"))
    assert find(table(ORPHAN), store).publications == ()

    store.put_generation(known)
    assert sources(find(table(ORPHAN), store)) == {target(): ("/old/place/fuse", "sub")}


def test_a_device_number_that_was_used_again_is_no_evidence():
    store = Store()
    store.put_publication(Publication(target(pod="p1"), "other-volume", "/other/fuse"))
    store.put_generation(
        Generation("/other/fuse", "0:55", "/", "fuse.juicefs", "JuiceFS:demo", "boot", 1.0)
    )

    assert find(table(ORPHAN), store).publications == ()


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
        return self.holds(path)

    def holds(self, path: str) -> bool:
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


# Any node


NAMES = st.sampled_from(["a", "b", "a-b", "b-c", "c", "a b\n"])
TYPES = st.sampled_from(["juicefs", "thin"])


@st.composite
def nodes(draw):
    """Return a mount table, what vol_data.json says by directory, and the true source by target.

    Of datasets with the same handle only one can have a PV, so only one has pods.
    """
    lines, data, truth, number = list(BASE), {}, {}, 100
    datasets = draw(st.lists(st.tuples(NAMES, NAMES), max_size=4, unique_by="-".join))
    for index, (namespace, name) in enumerate(datasets):
        source = f"{MOUNT_ROOT}/{draw(TYPES)}/{namespace}/{name}/x-fuse"
        generations = [f"0:{100 + 10 * index + life}" for life in range(draw(st.integers(1, 3)))]
        for dev in draw(st.sampled_from([[], generations[-1:], generations])):
            top = number if dev != generations[0] and f" {source} " in lines[-1] else 1
            number += 1
            lines.append(line(number, source, on=top, dev=dev))
        for pod in range(draw(st.integers(0, 3))):
            pv = draw(st.sampled_from([f"{namespace}-{name}", "virtual"]))
            place = target(pv.strip(), f"pod-{index}-{pod}")
            number += 1
            lines.append(line(number, place, dev=draw(st.sampled_from(generations))))
            truth[place] = source
            if draw(st.booleans()):
                data[str(Path(place).with_name("vol_data.json"))] = vol_data(f"{namespace}-{name}")
    return table(*lines[2:]), data, truth


@given(nodes())
def test_a_source_is_the_true_one_or_none(node):
    mounts, data, truth = node
    store, places = Store(), layout(lambda path: data.get(path, {}))

    found = adopt.find(mounts, store, places)

    for row in found.publications:
        assert row.source == truth[row.target]
        store.put_publication(row)
    targets = [row.target for row in found.publications] + [u.target for u in found.unknown]
    assert len(targets) == len(set(targets))
    assert set(targets) <= set(truth)
    shown = {m.dev for m in mounts if m.mount_point.startswith(MOUNT_ROOT)}
    for place in truth:
        mount = mounts.at(place)
        if mount is not None and mount.dev in shown:
            assert place in {row.target for row in found.publications}
    again = adopt.find(mounts, store, places)
    assert not {row.target for row in again.publications} & {
        row.target for row in found.publications
    }


@given(st.data())
def test_no_table_makes_it_fail(data):
    places = [target(), target("v", "p"), SOURCE, "/", KUBELET, f"{SOURCE}/x", "/mnt"]
    lines = [
        line(
            data.draw(st.integers(1, 8)),
            data.draw(st.sampled_from(places)),
            on=data.draw(st.integers(0, 8)),
            dev=data.draw(st.sampled_from(["0:55", "0:60"])),
            root=data.draw(st.sampled_from(["/", "/sub", "/sub/x//deleted"])),
            kind=data.draw(st.sampled_from(["fuse.juicefs x", "ext4 y"])),
        )
        for _ in range(data.draw(st.integers(0, 8)))
    ]

    found = find(mountinfo.parse("\n".join(lines).encode()))

    for row in found.publications:
        assert not row.source.startswith(f"{KUBELET}/pods")
        assert not row.sub_path.startswith("/")
