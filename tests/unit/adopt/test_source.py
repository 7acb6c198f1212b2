"""Which mount is the source: by the superblock, by the path, by what siblings say."""

from dataclasses import replace

import pytest

from recover.rows import Generation, Publication
from recover.store import Store
from tests.unit.adopt.nodes import (
    GLOBAL,
    KUBELET,
    MOUNT_ROOT,
    NEW,
    ORPHAN,
    SOURCE,
    find,
    line,
    sources,
    table,
    target,
    vol_data,
)


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
