"""The mount table: parsing what the kernel writes, and finding what a path shows."""

import os
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from recover.linux import mountinfo
from recover.linux.mountinfo import Mount, MountTable

# Of a node with Fluid's plugin: a container's view, paths as the kernel escapes them.
NODE = rb"""
1 1 0:2 / / rw - rootfs rootfs rw
29 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,discard,errors=remount-ro
35 29 0:22 / /proc rw,nosuid,nodev,noexec,relatime shared:12 - proc proc rw
41 35 0:28 / /proc/sys/fs/binfmt_misc rw,relatime shared:14 - autofs systemd-1 rw,fd=29,pgrp=1
60 29 0:41 / /sys/fs/fuse/connections rw,nosuid,nodev,noexec,relatime shared:17 - fusectl fusectl rw
77 29 0:55 / /runtime-mnt/juicefs/default/demo/juicefs-fuse ro,nosuid,nodev,relatime shared:77 - fuse.juicefs JuiceFS:demo ro,user_id=0,group_id=0,allow_other
78 29 0:55 / /var/lib/kubelet/pods/u1/volumes/kubernetes.io~csi/default-demo/mount ro,relatime shared:78 master:77 - fuse.juicefs JuiceFS:demo rw,user_id=0,group_id=0,allow_other
79 29 0:55 /sub\040dir//deleted /var/lib/kubelet/pods/u1/volume-subpaths/default-demo/app/0 rw,relatime master:77 propagate_from:2 - fuse.juicefs JuiceFS:demo rw
80 29 8:1 /srv/a\134b\011c\012d /mnt/\303\244\043\377 rw unbindable - ext4 /dev/sda\0401 rw
90 29 0:4 mnt:[4026532840] /run/ns/mnt rw shared:90 - nsfs nsfs rw
""".lstrip()  # noqa: E501  lines as the kernel writes them


def mounts_of(text: bytes) -> dict[int, Mount]:
    return mountinfo.parse(text).by_id


def test_a_node_is_read_field_by_field():
    target = mounts_of(NODE)[78]

    assert target == Mount(
        mnt_id=78,
        parent_id=29,
        dev="0:55",
        root="/",
        mount_point="/var/lib/kubelet/pods/u1/volumes/kubernetes.io~csi/default-demo/mount",
        options=frozenset({"ro", "relatime"}),
        shared=78,
        master=77,
        fs_type="fuse.juicefs",
        source="JuiceFS:demo",
        superblock_read_only=False,
    )


def test_the_mount_and_its_superblock_are_read_only_apart_from_each_other():
    node = mounts_of(NODE)

    assert (node[77].read_only, node[77].superblock_read_only) == (True, True)
    assert (node[78].read_only, node[78].superblock_read_only) == (True, False)
    assert (node[79].read_only, node[79].superblock_read_only) == (False, False)


@pytest.mark.parametrize(
    "options",
    [
        b'ro,context="system_u:object_r:container_file_t:s0:c12,c34",user_id=0,group_id=0',
        b"ro,seclabel,user_id=0,group_id=0,allow_other",
        b'ro,context=system_u:object_r:fusefs_t:s0,rootcontext="a_u:object_r:b_t:s0:c1,c2"',
    ],
)
def test_labels_of_selinux_among_the_options_of_a_superblock_are_passed_over(options: bytes):
    line = b"79 29 0:55 /a /data rw,nosuid shared:7 master:6 - fuse.juicefs JuiceFS:demo " + options
    mount = mounts_of(line)[79]

    assert (mount.dev, mount.root, mount.shared, mount.master) == ("0:55", "/a", 7, 6)
    assert (mount.fs_type, mount.source) == ("fuse.juicefs", "JuiceFS:demo")
    assert (mount.read_only, mount.superblock_read_only) == (False, True)


def test_escapes_become_the_bytes_that_they_stand_for():
    mount = mounts_of(NODE)[80]

    assert mount.root == "/srv/a\\b\tc\nd"
    assert os.fsencode(mount.mount_point) == "/mnt/ä#".encode() + b"\xff"
    assert mount.source == "/dev/sda 1"


def test_optional_fields_that_are_no_peer_groups_are_passed_over():
    node = mounts_of(NODE)

    assert (node[79].shared, node[79].master) == (0, 77)
    assert (node[80].shared, node[80].master) == (0, 0)


def test_a_removed_directory_is_named_without_the_mark_of_the_kernel():
    assert mounts_of(NODE)[79].inner_path == "/sub dir"
    assert mounts_of(NODE)[77].inner_path == "/"


@pytest.mark.parametrize(
    ("fs_type", "expected"),
    [
        ("fuse", True),
        ("fuse.s3fs", True),
        ("fuseblk", True),
        ("alifuse.aliyun-alinas-efc", True),
        ("fusectl", False),
        ("ext4", False),
        ("overlay", False),
        ("nfs.fuse", False),
    ],
)
def test_fuse_is_told_by_the_type_of_the_file_system(fs_type, expected):
    (mount,) = mountinfo.parse(f"1 0 0:5 / / rw - {fs_type} x rw".encode())

    assert mount.is_fuse is expected


def test_the_newest_root_is_found_above_the_first_one():
    table = mountinfo.parse(NODE)

    assert [mount.mnt_id for mount in table.stack("/")] == [1, 29]
    assert table.at("/proc/sys/fs/binfmt_misc") == table.by_id[41]


@pytest.mark.parametrize("path", ["/mnt", "/runtime-mnt/juicefs", "/prog", "/proc/sys", "/nowhere"])
def test_nothing_stands_at_a_path_that_is_no_mount_point(path):
    table = mountinfo.parse(NODE)

    assert table.stack(path) == ()
    assert table.at(path) is None


def test_this_process_has_a_root_and_its_proc():
    table = mountinfo.read()

    assert table.at("/") is not None
    assert table.at("/proc") is not None
    assert {mount.mnt_id for mount in mountinfo.read(os.getpid())} == set(table.by_id)


def test_the_mount_and_superblock_of_a_descriptor_are_those_of_the_table():
    fd = os.open("/proc", os.O_PATH)
    try:
        mount = mountinfo.read().at("/proc")
        assert mount is not None
        assert (mountinfo.mount_id(fd), mountinfo.superblock(fd)) == (mount.mnt_id, mount.dev)
    finally:
        os.close(fd)


def test_a_process_that_is_gone_is_an_error():
    with pytest.raises((ProcessLookupError, FileNotFoundError)):
        mountinfo.read(2**22 + 1)


@pytest.mark.parametrize(
    "line",
    [
        b"garbage",
        b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1",
        b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 -",
        b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3",
        b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root",
        b"36 x 98:0 /mnt1 /mnt2 rw - ext3 /dev/root rw",
        b"36 35 98:0 /mnt1 /mnt2 rw shared:x - ext3 /dev/root rw",
        b"36 35 98:0 /mnt1 /mnt2 - ext3 /dev/root rw",
        b" ",
        b"\xff\xff",
    ],
)
def test_a_line_of_another_form_is_refused(line):
    with pytest.raises(ValueError, match="not a line of mountinfo"):
        mountinfo.parse(NODE + line + b"\n")


@given(st.binary(max_size=200))
def test_garbage_gives_a_table_or_a_value_error(data):
    try:
        table = mountinfo.parse(data)
    except ValueError:
        return
    assert len(table.mounts) <= data.count(b"\n") + 1


# Stacks and trees.  A line is (id, parent, mount point); the order of lines must not matter.


def tree(*lines: tuple[int, int, str]) -> MountTable:
    return MountTable(
        Mount(i, parent, f"0:{i}", "/", path, frozenset({"rw"}), 0, 0, "fuse.x", "x")
        for i, parent, path in lines
    )


def ids(mounts: tuple[Mount, ...]) -> list[int]:
    return [mount.mnt_id for mount in mounts]


def test_a_stack_is_told_from_the_bottom_to_the_top():
    table = tree((1, 0, "/"), (5, 1, "/t"), (6, 5, "/t"), (7, 6, "/t"))

    assert ids(table.stack("/t")) == [5, 6, 7]
    assert table.at("/t") == table.by_id[7]


def test_a_mount_put_beneath_is_below_although_it_is_younger():
    # move_mount(MOVE_MOUNT_BENEATH): the old top, 5, now stands on the new mount, 9
    table = tree((1, 0, "/"), (5, 9, "/t"), (9, 1, "/t"))

    assert ids(table.stack("/t")) == [9, 5]


def test_what_a_mount_over_the_parent_directory_hides_is_not_found():
    table = tree((1, 0, "/"), (5, 1, "/a/b"), (6, 1, "/a"))

    assert table.at("/a/b") is None
    assert table.at("/a") == table.by_id[6]


def test_a_mount_below_a_stack_belongs_to_its_top():
    table = tree((1, 0, "/"), (5, 1, "/a"), (6, 5, "/a"), (7, 5, "/a/b"), (8, 6, "/a/b"))

    assert ids(table.stack("/a/b")) == [8]


def test_a_process_whose_root_is_no_mount_point_sees_its_mounts():
    # after chroot(2) into a plain directory mountinfo has no line for "/"
    table = tree((5, 4, "/data"), (6, 5, "/data"), (7, 6, "/data/x"))

    assert ids(table.stack("/data")) == [5, 6]
    assert ids(table.stack("/data/x")) == [7]
    assert table.at("/") is None


def test_a_root_that_is_its_own_parent_ends_the_walk():
    assert ids(tree((1, 1, "/"), (2, 1, "/")).stack("/")) == [1, 2]


def test_lines_that_contradict_each_other_end_the_walk():
    table = MountTable((*tree((1, 0, "/"), (2, 1, "/t")), *tree((3, 2, "/t"), (2, 3, "/t"))))

    assert len(table.stack("/t")) <= 4


def test_children_are_those_that_stand_on_a_mount():
    table = tree((1, 0, "/"), (5, 1, "/a"), (6, 5, "/a/b"), (7, 5, "/a/c"))

    assert {parent: ids(mounts) for parent, mounts in table.children.items()} == {
        0: [1],
        1: [5],
        5: [6, 7],
    }


def test_the_mounts_of_superblocks_are_found():
    table = mountinfo.parse(NODE)

    assert ids(table.of_superblocks(frozenset({"0:55", "0:41"}))) == [60, 77, 78, 79]
    assert table.of_superblocks(frozenset()) == ()


def test_an_excerpt_has_what_stands_on_the_mounts_that_count():
    chosen = mountinfo.excerpt(NODE, frozenset({"0:22"}))

    assert ids(chosen.mounts) == [35, 41]


def test_an_excerpt_of_very_many_mounts_has_the_oldest_and_says_so():
    line = b"%d 1 0:9 / /m%d rw - fuse x rw\n"
    many = b"".join(line % (number, number) for number in range(2, 12))

    cut, whole = (mountinfo.excerpt(many, frozenset({"0:9"}), most) for most in (4, 10))

    assert [mount.mnt_id for mount in cut] == [2, 3, 4, 5]
    assert cut.is_cut
    assert len(whole.mounts) == 10
    assert not whole.is_cut


def test_an_excerpt_has_what_stands_on_it_in_any_order_of_lines():
    lines = [b"%d %d 0:%d / /a rw - ext4 x rw\n" % (n, n + 1, n) for n in range(1, 5)]

    found = mountinfo.excerpt(b"".join(lines), frozenset({"0:4"}))
    assert ids(found.mounts) == [1, 2, 3, 4]


def test_an_excerpt_of_superblocks_that_are_not_there_is_empty():
    assert mountinfo.excerpt(NODE, frozenset({"0:5", "55"})).mounts == ()


# Round trips: `escape` writes as the kernel does (fs/proc_namespace.c mangle).

HOSTILE = st.one_of(
    st.binary(min_size=1, max_size=20),
    st.sampled_from([b"a b", b" - ", b"\\040", b"\n", b"\t", b"#", b"-", b"..", b"\xff\xfe"]),
    st.text("aä 𝄞\\\n-#\t", min_size=1, max_size=8).map(str.encode),
).map(lambda name: name.replace(b"\0", b"0").replace(b"/", b"_"))
PATHS = st.lists(HOSTILE, max_size=6).map(lambda names: b"/" + b"/".join(names))


def escape(field: bytes) -> bytes:
    return b"".join(b"\\%03o" % c if c in b" \t\n\\#" else b"%c" % c for c in field)


def escape_all(field: bytes) -> bytes:
    return b"".join(b"\\%03o" % c for c in field)


@st.composite
def mounts(draw):
    peers = st.integers(0, 2**31 - 1)
    return Mount(
        mnt_id=draw(st.integers(0, 2**31 - 1)),
        parent_id=draw(st.integers(0, 2**31 - 1)),
        dev=f"{draw(st.integers(0, 4095))}:{draw(st.integers(0, 2**20 - 1))}",
        root=os.fsdecode(draw(PATHS)),
        mount_point=os.fsdecode(draw(PATHS)),
        options=frozenset(draw(st.sets(st.sampled_from(["ro", "nosuid", "nodev", "relatime"]))))
        | {"rw"},
        shared=draw(peers),
        master=draw(peers),
        fs_type=draw(st.sampled_from(["fuse.s3fs", "ext4", "fuse"])),
        source=os.fsdecode(draw(HOSTILE)),
        superblock_read_only=draw(st.booleans()),
    )


def line_of(mount: Mount, escaped=escape) -> bytes:
    fields = [b"%d" % mount.mnt_id, b"%d" % mount.parent_id, mount.dev.encode()]
    fields += [escaped(os.fsencode(path)) for path in (mount.root, mount.mount_point)]
    fields.append(",".join(sorted(mount.options)).encode())
    fields += [b"shared:%d" % mount.shared] if mount.shared else []
    fields += [b"master:%d" % mount.master] if mount.master else []
    super_options = b"ro,relatime" if mount.superblock_read_only else b"rw,root=1"
    fields += [b"-", mount.fs_type.encode(), escaped(os.fsencode(mount.source)), super_options]
    return b" ".join(fields) + b"\n"


@given(st.lists(mounts(), max_size=8), st.sampled_from([escape, escape_all]))
def test_any_mount_survives_the_way_through_a_line(written, escaped):
    data = b"".join(line_of(mount, escaped) for mount in written)

    assert mountinfo.parse(data).mounts == tuple(written)


@given(st.data())
def test_an_excerpt_is_what_parse_gives_for_these_and_all_that_stands_on_them(data):
    devs = ["0:5", "0:55", "5:5", "0:6"]
    numbers = data.draw(st.permutations(range(1, 9)))
    written = [
        data.draw(mounts())._replace(
            mnt_id=number,
            parent_id=data.draw(st.sampled_from([0, *numbers])),
            dev=data.draw(st.sampled_from(devs)),
        )
        for number in numbers[: data.draw(st.integers(0, 8))]
    ]
    wanted = frozenset(data.draw(st.sets(st.sampled_from(devs))))
    table = mountinfo.parse(b"".join(map(line_of, written)))

    found = {mount.mnt_id for mount in table.of_superblocks(wanted)}
    rest = [*found]
    while rest:
        above = {mount.mnt_id for mount in table.children.get(rest.pop(), ())} - found
        found |= above
        rest += above

    excerpt = mountinfo.excerpt(b"".join(map(line_of, written)), wanted)
    assert excerpt.mounts == tuple(mount for mount in table if mount.mnt_id in found)


@given(st.data())
def test_a_path_shows_what_was_mounted_last_where_a_walk_ends(data):
    """Compare with a plain simulation: mount at random places, always onto what is visible."""
    paths = ["/", "/a", "/a/b", "/a/b/c", "/ab", "/d"]
    made: list[tuple[int, int, str]] = [(1, 0, "/")]
    visible = {"/": [1]}
    for number in range(2, 2 + data.draw(st.integers(0, 8))):
        path = data.draw(st.sampled_from(paths))
        nearest = max((p for p in visible if is_at_or_below(path, p)), key=len)
        made.append((number, visible[nearest][-1], path))
        visible.setdefault(path, []).append(number)
        for hidden in [p for p in visible if p != path and is_at_or_below(p, path)]:
            del visible[hidden]

    table = tree(*data.draw(st.permutations(made)))

    part = mountinfo.leading_to(b"".join(map(line_of, table)), paths[1:4])
    assert {path: ids(table.stack(path)) for path in paths if table.stack(path)} == visible
    assert [part.stack(path) for path in paths[1:4]] == [table.stack(path) for path in paths[1:4]]


def is_at_or_below(path: str, above: str) -> bool:
    return path == above or path.startswith(above.rstrip("/") + "/")


def test_real_tables_of_this_machine_are_read():
    seen = 0
    for entry in Path("/proc").glob("[0-9]*/mountinfo"):
        try:
            table = mountinfo.parse(entry.read_bytes())
        except OSError:
            continue
        seen += 1
        assert all(mount.mount_point.startswith("/") for mount in table)
    assert seen
