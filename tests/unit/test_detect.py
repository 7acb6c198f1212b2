"""What counts as broken: never somebody else's mount, never one that is not known to be dead."""

import pytest
from hypothesis import given, strategies as st

from recover import detect
from recover.detect import Copy, Origin
from recover.linux.mountinfo import DELETED, Mount, MountTable
from recover.rows import Method, Publication
from tests.unit.handmade import DEAD, FOREIGN, HOME, LIVE, OLDER, SOURCE, generation, mount, table

NOTHING: frozenset[str] = frozenset()


def broken(found: MountTable, *, spared: frozenset[str] = NOTHING) -> tuple[Copy, ...]:
    dead = frozenset({DEAD, OLDER})
    return tuple(detect.copies(HOME, found, dead=dead, live=LIVE, is_spared=spared.__contains__))


def stacks(found: tuple[Copy, ...]) -> list[list[int]]:
    return [[layer.mnt_id for layer in copy.stack] for copy in found]


# Copies


def test_a_dead_mount_is_a_broken_copy_where_it_stands():
    (copy,) = broken(table(mount(5, "/t")))

    assert (copy.namespace, copy.path, stacks((copy,))) == (HOME, "/t", [[5]])


def test_mounts_of_superblocks_not_known_to_be_dead_are_no_copies():
    assert not broken(table(mount(5, "/a", LIVE), mount(6, "/b", FOREIGN)))


def test_the_path_of_the_source_is_spared():
    found = broken(table(mount(5, SOURCE), mount(6, "/t")), spared=frozenset({SOURCE}))

    assert stacks(found) == [[6]]


def test_a_foreign_mount_on_top_protects_what_it_covers():
    assert not broken(table(mount(5, "/t"), mount(6, "/t", FOREIGN, on=5)))


def test_a_foreign_mount_in_between_is_where_our_layers_end():
    found = broken(table(mount(5, "/t"), mount(6, "/t", FOREIGN, on=5), mount(7, "/t", on=6)))

    assert stacks(found) == [[7]]


def test_dead_layers_of_several_generations_are_one_copy():
    found = broken(table(mount(5, "/t", OLDER), mount(6, "/t", on=5)))

    assert stacks(found) == [[5, 6]]


def test_a_live_mount_beneath_a_dead_one_belongs_to_the_copy():
    # a heal that was killed between attaching and detaching
    assert stacks(broken(table(mount(5, "/t", LIVE), mount(6, "/t", on=5)))) == [[5, 6]]


def test_a_live_mount_on_top_of_a_dead_one_belongs_to_the_copy():
    assert stacks(broken(table(mount(5, "/t"), mount(6, "/t", LIVE, on=5)))) == [[5, 6]]


def test_a_live_mount_alone_is_no_copy():
    assert not broken(table(mount(5, "/t", LIVE)))


@pytest.mark.parametrize("above", [(), (mount(7, "/a/t", LIVE, on=6),)])
def test_a_copy_hidden_by_a_mount_over_its_parent_is_not_visible(above: tuple[Mount, ...]):
    found = table(mount(5, "/a/t"), mount(6, "/a", FOREIGN), *above)

    (copy,) = broken(found)
    assert (stacks((copy,)), detect.is_visible(found, copy)) == ([[5]], False)


def test_a_dead_bind_of_a_subdirectory_is_a_copy():
    assert stacks(broken(table(mount(5, "/t", root="/sub")))) == [[5]]


@pytest.mark.parametrize(("lower", "upper"), [("ro", "rw"), ("rw", "ro"), ("ro", "ro")])
def test_a_copy_is_read_only_if_any_of_its_layers_is(lower, upper):
    (copy,) = broken(table(mount(5, "/t", options=lower), mount(6, "/t", on=5, options=upper)))

    assert copy.read_only


def test_a_copy_of_writable_layers_is_writable():
    (copy,) = broken(table(mount(5, "/t", options="rw")))

    assert not copy.read_only


# Nested mounts


def test_mounts_inside_a_dead_one_are_found_outer_ones_first():
    (copy,) = broken(
        table(
            mount(5, "/t"),
            mount(9, "/t/a/b", FOREIGN, on=8),
            mount(8, "/t/a", FOREIGN, on=5),
            mount(7, "/t/c", FOREIGN, on=5),
            mount(10, "/elsewhere", FOREIGN),
        )
    )

    assert [inside.mnt_id for inside in copy.nested] == [8, 7, 9]


def test_mounts_inside_any_layer_are_found():
    layers = mount(5, "/t"), mount(6, "/t", on=5)
    (copy,) = broken(table(*layers, mount(8, "/t/x", FOREIGN, on=5)))

    assert [inside.mnt_id for inside in copy.nested] == [8]


# All at once: any table that mount(2) can make


PATHS = ["/", "/a", "/a/b", "/a/b/c", "/ab", "/d"]


@st.composite
def tables(draw: st.DrawFn) -> MountTable:
    """Mount at random places, each time onto what is visible there."""
    made = [mount(1, "/", "8:1", on=0)]
    tops = {"/": 1}
    for number in range(2, 2 + draw(st.integers(0, 9))):
        path = draw(st.sampled_from(PATHS))
        nearest = max((p for p in tops if is_at_or_below(path, p)), key=len)
        dev = draw(st.sampled_from([DEAD, OLDER, LIVE, FOREIGN]))
        peers = draw(st.integers(0, 3))
        made.append(mount(number, path, dev, on=tops[nearest], shared=peers))
        tops = {p: top for p, top in tops.items() if not is_at_or_below(p, path)} | {path: number}
    return MountTable(draw(st.permutations(made)))


def is_at_or_below(path: str, above: str) -> bool:
    return path == above or path.startswith(above.rstrip("/") + "/")


SOME_PATHS = st.frozensets(st.sampled_from(PATHS))


@given(tables())
def test_every_copy_has_a_dead_layer(found):
    for copy in broken(found):
        assert {DEAD, OLDER} & {layer.dev for layer in copy.stack}


@given(tables())
def test_every_layer_of_a_copy_is_dead_or_the_sources(found):
    for copy in broken(found):
        assert {layer.dev for layer in copy.stack} <= {DEAD, OLDER, LIVE}


@given(tables())
def test_nothing_stands_on_a_copy(found):
    for copy in broken(found):
        above = found.children.get(copy.stack[-1].mnt_id, ())
        assert copy.path not in {mount.mount_point for mount in above}


@given(tables(), SOME_PATHS)
def test_no_copy_is_at_a_spared_path(found, spared):
    assert not {copy.path for copy in broken(found, spared=spared)} & spared


@given(tables(), SOME_PATHS)
def test_each_path_that_shows_a_dead_mount_is_exactly_one_visible_copy(found, spared):
    visible = [copy for copy in broken(found, spared=spared) if detect.is_visible(found, copy)]

    shown = [path for path in PATHS if (top := found.at(path)) and top.dev in {DEAD, OLDER}]
    topped = [copy.path for copy in visible if copy.stack[-1].dev != LIVE]
    assert sorted(topped) == sorted(set(shown) - spared)


@given(tables())
def test_no_mount_is_in_two_copies(found):
    layers = [layer for copy in broken(found) for layer in copy.stack]

    assert len(layers) == len(set(layers))


@pytest.mark.parametrize(
    ("dev", "root", "options", "kept"),
    [
        (DEAD, "/part", "rw", False),  # what Fluid's plugin laid over a subPath, a peer
        (LIVE, "/part", "rw", False),
        (DEAD, "/part", "ro", True),
        (DEAD, "/other", "rw", True),
        (FOREIGN, "/part", "rw", True),
    ],
)
def test_a_nested_mount_that_shows_what_is_there_anyway_is_not_kept(
    dev: str, root: str, options: str, *, kept: bool
):
    inside = mount(8, "/a/part", dev, on=7, root=root, options=options)
    again = mount(9, "/a/part", dev, on=8, root=root, options=options)

    found = broken(table(mount(7, "/a", options="rw"), inside, again))

    nested = next(copy.nested for copy in found if copy.path == "/a")
    assert bool(nested) is kept


@given(tables())
def test_a_nested_mount_is_never_a_layer(found):
    for copy in broken(found):
        assert not set(copy.nested) & set(copy.stack)


# Which part of the source a copy shows


@pytest.mark.parametrize(
    ("base", "root", "inner"),
    [
        ("/", "/", ""),
        ("/", "/a/b", "a/b"),
        ("/", f"/a{DELETED}", "a"),
        ("/", DELETED, ""),
        ("/bucket", "/bucket", ""),
        ("/bucket", f"/bucket{DELETED}", ""),
        ("/bucket", "/bucket/a", "a"),
        ("/bucket", f"/bucket/a{DELETED}", "a"),
        ("/bucket", "/", None),
        ("/bucket", "/buckets/a", None),
        ("/bucket", "/other", None),
    ],
)
def test_the_part_of_its_source_that_a_copy_shows(base, root, inner):
    assert detect.inner_path(mount(5, "/t", root=root), [generation(root=base)]) == inner


def test_without_a_row_the_source_shows_its_whole_superblock():
    assert detect.inner_path(mount(5, "/t", root="/a"), [generation(OLDER, root="/b")]) == "a"


NAMES = st.lists(st.text("ab ", min_size=1, max_size=3), max_size=3)


@given(NAMES, NAMES)
def test_a_bind_of_any_part_of_any_source_is_told_again(base, inner):
    shown = mount(5, "/t", root="/" + "/".join([*base, *inner]))

    row = generation(root="/" + "/".join(base))
    assert detect.inner_path(shown, [row]) == "/".join(inner)


# Superblocks that are ours, and those that were given away


def test_every_fuse_layer_at_a_target_is_ours():
    found = table(
        mount(5, "/t", OLDER),
        mount(6, "/t", on=5),
        mount(7, "/t", "0:99", on=6, fs_type="tmpfs"),
        mount(8, "/u", FOREIGN),
    )

    ours = detect.superblocks_at_targets([Publication("/t", "v", SOURCE)], found)
    assert ours == {OLDER, DEAD}


def test_what_stands_at_a_symlink_publication_is_not_ours():
    link = Publication("/t", "v", SOURCE, method=Method.SYMLINK)

    assert not detect.superblocks_at_targets([link], table(mount(5, "/t")))


@pytest.mark.parametrize("other", [{"fs_type": "fuse.y"}, {"source": "y"}])
def test_a_number_of_another_type_or_source_was_given_away(other):
    assert detect.impostors(table(mount(5, "/t", **other)), [generation()]) == {DEAD}


def test_a_number_of_the_same_file_system_was_not_given_away():
    assert not detect.impostors(table(mount(5, "/t")), [generation()])


def test_a_row_without_a_type_tells_nothing_of_its_number():
    assert not detect.impostors(table(mount(5, "/t")), [generation(fs_type="")])


def test_numbers_that_no_row_names_are_no_impostors():
    assert not detect.impostors(table(mount(5, "/t", FOREIGN)), [generation()])


# From what a nested mount is rebuilt


def inside(dev: str = "0:80", root: str = "/") -> Mount:
    return mount(50, "/data/inside", dev, root=root, on=40)


def test_a_nested_mount_is_rebuilt_from_where_its_superblock_is_mounted_here():
    here = table(mount(5, "/volumes/cache", "0:80", fs_type="tmpfs"))

    assert detect.origin_of(inside(), here, []) == Origin("/volumes/cache", "", "0:80")


def test_a_part_of_a_superblock_is_rebuilt_from_a_mount_that_shows_more_of_it():
    here = table(mount(5, "/a", "0:80", root="/xy"), mount(6, "/b", "0:80", root="/x"))

    assert detect.origin_of(inside(root="/x/y"), here, []) == Origin("/b", "y", "0:80")


@pytest.mark.parametrize("shown", ["/z", "/x/y", "/x/yz/a"])
def test_a_mount_that_shows_another_part_is_no_origin(shown):
    here = table(mount(5, "/b", "0:80", root=shown))

    assert detect.origin_of(inside(root="/x/yz"), here, []) is None


def test_a_covered_mount_is_no_origin():
    here = table(mount(5, "/b", "0:80"), mount(6, "/b", FOREIGN, on=5))

    assert detect.origin_of(inside(), here, []) is None


def test_a_nested_mount_whose_superblock_is_nowhere_else_has_no_origin():
    assert detect.origin_of(inside(), table(mount(5, "/b", FOREIGN)), []) is None


def test_a_dead_nested_mount_becomes_what_its_own_source_shows_now():
    here = table(mount(5, SOURCE, LIVE))

    origin = detect.origin_of(inside(DEAD, root="/a"), here, [generation()])
    assert origin == Origin(SOURCE, "a", LIVE)


@pytest.mark.parametrize("fs_type", ["ext4", "tmpfs"])
def test_a_dead_nested_mount_is_not_rebuilt_from_a_source_without_fuse(fs_type):
    here = table(mount(5, SOURCE, "0:90", fs_type=fs_type))

    assert detect.origin_of(inside(DEAD), here, [generation()]) is None


def test_a_nested_mount_of_a_generation_that_lives_is_rebuilt_as_it_is():
    here = table(mount(5, "/old", DEAD), mount(6, SOURCE, LIVE))

    origin = detect.origin_of(inside(DEAD), here, [generation(dead_at=None)])
    assert origin == Origin("/old", "", DEAD)
