"""Mount surgery on the real kernel: clones, swaps, what they keep and what they refuse."""

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_fluid.testbed import programs
from recover.errors import Covered
from recover.linux import attributes, mountinfo, mounts, probe, syscalls
from recover.linux.mountinfo import Mount
from recover.linux.mounts import Attributes
from recover.linux.probe import Answer, Prober
from tests import sandbox
from tests.harness import Dataset, Node
from tests.privileged.healing import only_layer
from tests.privileged.surgery import at_home, pile

FILES = {"a.txt": b"1", "sub/b.txt": b"1"}


@pytest.fixture
def data(node: Node) -> Dataset:
    return node.dataset("demo", files=FILES)


@pytest.fixture
def place(node: Node) -> Iterator[Path]:
    folder = node.machine.folder("place")
    yield folder
    mounts.unmount_all(str(folder))


def attach(source: Path, place: Path, attributes: Attributes, inner: str = "") -> Mount:
    """Mount a clone at a place and return what stands there."""
    with mounts.clone(str(source), inner, attributes) as clone:
        mounts.attach_bare(clone, str(place), syscalls.AT_FDCWD)
    return top(place)


def top(place: Path) -> Mount:
    mount = mountinfo.read().at(str(place))
    assert mount is not None
    return mount


# Clones.


def test_a_clone_shows_the_part_that_was_asked_for(data: Dataset, place: Path):
    mount = attach(data.volume.source, place, Attributes(), inner="sub")

    assert mount.root == "/sub"
    assert os.listdir(place) == ["b.txt"]


@pytest.mark.parametrize("flags", [{"ro"}, {"ro", "nosuid", "nodev", "noexec", "noatime"}, set()])
def test_a_clone_has_exactly_the_flags_that_were_asked_for(
    data: Dataset, place: Path, flags: set[str]
):
    mount = attach(data.volume.source, place, Attributes(frozenset(flags)))

    assert mount.options - {"rw", "relatime"} == flags


def test_a_first_bind_keeps_the_flags_of_its_source_and_adds_its_own(data: Dataset, place: Path):
    before = top(data.volume.source).options

    mount = attach(data.volume.source, place, Attributes(frozenset({"noexec"}), keep=True))

    assert mount.options == before | {"noexec"}


@pytest.mark.parametrize(
    ("propagation", "is_peer", "is_slave"),
    [
        ("private", False, False),
        ("slave", False, True),
        ("shared", False, False),
        ("peer", True, False),
    ],
)
def test_a_clone_propagates_as_was_asked_for(
    data: Dataset, node: Node, propagation: attributes.Propagation, *, is_peer: bool, is_slave: bool
):
    folder = node.machine.folder("private")
    programs.run("mount", "-t", "tmpfs", "none", folder)
    programs.run("mount", "--make-private", folder)
    place = folder / "place"
    place.mkdir()
    group = top(data.volume.source).shared

    mount = attach(data.volume.source, place, Attributes(propagation=propagation))

    assert group
    assert (mount.shared == group) == is_peer
    assert (mount.master == group) == is_slave
    assert bool(mount.shared) == (propagation in {"shared", "peer"})
    mounts.unmount_all(str(place))
    mounts.unmount_all(str(folder))


def test_a_dead_mount_can_be_cloned_and_closing_dissolves_the_clone(data: Dataset):
    data.daemon.kill()
    before = set(mountinfo.read())

    with mounts.clone(str(data.volume.source), "", Attributes()) as clone:
        assert mountinfo.superblock(clone.fd) == top(data.volume.source).dev

    assert set(mountinfo.read()) == before


@pytest.mark.parametrize(
    ("inner", "number"),
    [("link", errno.ELOOP), ("../..", errno.EXDEV), ("absent", errno.ENOENT)],
)
def test_what_a_pod_may_put_into_a_volume_leads_nowhere_else(node: Node, inner: str, number: int):
    data = node.dataset("demo", files=FILES)
    (node.machine.folder("data-demo") / "data" / "link").symlink_to("/etc")

    with pytest.raises(OSError) as caught:  # noqa: PT011
        mounts.clone(str(data.volume.source), inner, Attributes())

    assert caught.value.errno == number


def test_a_path_with_a_link_in_it_is_refused(node: Node, data: Dataset):
    link = node.machine.folder("links") / "link"
    link.symlink_to(data.volume.source.parent)

    with pytest.raises(OSError) as caught:  # noqa: PT011
        mounts.open_path(str(link / data.volume.source.name))

    assert caught.value.errno == errno.ELOOP


# Swaps.


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_a_swap_leaves_one_layer_however_many_there_were(data: Dataset, place: Path, layers: int):
    pile(data.volume.source, place, layers)
    data.daemon.kill()
    stack = mountinfo.read().stack(str(place))
    data.daemon.restart()

    with mounts.clone(str(data.volume.source), "", Attributes()) as clone:
        left = at_home(mounts.swap, clone, stack)

    assert left == len(mountinfo.read().stack(str(place)))
    assert left == 1
    assert set(os.listdir(place)) == {"a.txt", "sub"}


def test_a_swap_of_what_is_there_no_more_is_refused_and_changes_nothing(data: Dataset, place: Path):
    programs.run("mount", "--bind", data.volume.source, place)
    stack = mountinfo.read().stack(str(place))
    programs.run("mount", "-t", "tmpfs", "somebody", place)
    before = mountinfo.read().stack(str(place))

    with mounts.clone(str(data.volume.source), "", Attributes()) as clone:
        with pytest.raises(Covered, match="changed meanwhile"):
            at_home(mounts.swap, clone, stack)
        with pytest.raises(Covered):
            at_home(mounts.cover, clone, stack)
        with pytest.raises(Covered):
            at_home(mounts.peel, stack)

    assert mountinfo.read().stack(str(place)) == before


def test_covering_adds_a_layer(data: Dataset, place: Path):
    programs.run("mount", "--bind", data.volume.source, place)
    stack = mountinfo.read().stack(str(place))

    with mounts.clone(str(data.volume.source), "", Attributes()) as clone:
        layers = at_home(mounts.cover, clone, stack)

    assert layers == len(mountinfo.read().stack(str(place))) == 2


def test_covered_mounts_can_be_asked_and_stay_where_they_are(node: Node, place: Path):
    covered, upper = (node.dataset(name) for name in ("covered", "upper"))
    attach(covered.volume.source, place, Attributes(propagation="shared"))
    pile(upper.volume.source, place, 2)
    stack = mountinfo.read().stack(str(place))
    assert len(stack) == 3
    covered.daemon.kill()

    pins = Prober().run("pins", lambda: mounts.pin_all(stack))

    try:
        answers = {dev: probe.ask(pin.fd) for dev, pin in pins.items()}
    finally:
        mounts.close_all(pins)
    assert {dev: reply.answer for dev, reply in answers.items()} == {
        stack[0].dev: Answer.DEAD,
        stack[2].dev: Answer.ALIVE,
    }
    assert all(reply.dev == dev for dev, reply in answers.items())
    assert mountinfo.read().stack(str(place)) == stack


def test_covered_mounts_that_are_others_than_was_thought_are_refused(data: Dataset, place: Path):
    pile(data.volume.source, place, 2)
    stack = mountinfo.read().stack(str(place))
    other = stack[0]._replace(dev="0:1")

    with pytest.raises(Covered, match="it changed"):
        Prober().run("pins", lambda: mounts.pin_all((other, stack[1])))

    assert mountinfo.read().stack(str(place)) == stack


def test_parting_gives_a_mount_a_peer_group_of_its_own(data: Dataset, place: Path):
    sandbox.require("open_tree", "move_mount")
    programs.run("mount", "--bind", "-o", "ro", data.volume.source, place)
    before = top(place)
    data.daemon.kill()

    at_home(mounts.make_private, before)

    after = top(place)
    assert before.shared == top(data.volume.source).shared
    assert after.shared != before.shared
    assert (after.dev, after.options) == (before.dev, before.options)
    assert len(mountinfo.read().stack(str(place))) == 1


# Bare places, and what stands at a path.


def test_attaching_where_a_mount_stands_is_refused(data: Dataset, place: Path):
    attach(data.volume.source, place, Attributes())

    with pytest.raises(Covered):
        attach(data.volume.source, place, Attributes())

    assert len(mountinfo.read().stack(str(place))) == 1


def test_what_a_path_shows_is_told_of_dead_and_hung_mounts_too(data: Dataset, place: Path):
    assert not mounts.shown(str(place)).is_mount  # type: ignore[union-attr]
    mount = attach(data.volume.source, place, Attributes())

    data.daemon.kill(signal.SIGSTOP)
    hung = mounts.shown(str(place))
    data.daemon.kill()
    dead = mounts.shown(str(place))

    assert hung == dead == mounts.Shown(mount.mnt_id, mount.dev, is_mount=True)


def test_a_link_is_not_followed_by_what_it_shows(node: Node, data: Dataset):
    link = node.machine.folder("links") / "link"
    link.symlink_to(data.volume.source)

    shown = mounts.shown(str(link))

    assert shown is not None
    assert not shown.is_mount
    assert mounts.shown(str(link.parent / "absent")) is None


@pytest.mark.parametrize("end", ["alive", "dead", "hung"])
def test_unmounting_all_ends_whatever_the_daemon_does(data: Dataset, place: Path, end: str):
    pile(data.volume.source, place, 3)
    if end != "alive":
        data.daemon.kill(signal.SIGKILL if end == "dead" else signal.SIGSTOP)

    removed = mounts.unmount_all(str(place))

    assert removed == 3
    assert mounts.unmount_all(str(place)) == 0
    assert mountinfo.read().at(str(place)) is None
    data.daemon.kill(signal.SIGCONT)


def test_unmounting_follows_no_link(node: Node, data: Dataset):
    link = node.machine.folder("links") / "link"
    link.symlink_to(data.volume.source)

    assert mounts.unmount_all(str(link)) == 0
    assert only_layer(node.sees, data.volume.source)


# Mounts inside.


@pytest.fixture
def nested(node: Node) -> Path:
    folder = node.machine.folder("inside")
    (folder / "kept").touch()
    return folder


def _nested(node: Node, around: mounts.Clone, folder: Path) -> mounts.Nested:
    inner = str(folder.relative_to(node.machine.root))
    clone = mounts.clone(str(node.machine.root), inner, Attributes())
    return mounts.Nested("/sub", clone, mounts.open_inside(around.fd, "/sub"))


def test_a_mount_is_put_into_a_detached_one(node: Node, data: Dataset, place: Path, nested: Path):
    with mounts.clone(str(data.volume.source), "", Attributes()) as clone:
        inside = _nested(node, clone, nested)
        is_nested = mounts.nest([inside])
        inside.close()
        mounts.attach_bare(clone, str(place), syscalls.AT_FDCWD)

    if not is_nested:
        pytest.skip("before Linux 6.15 it is put into an attached one")
    assert os.listdir(place / "sub") == ["kept"]
    mounts.unmount_all(str(place / "sub"))


def test_a_mount_may_be_put_in_late(node: Node, data: Dataset, place: Path, nested: Path):
    programs.run("mount", "--bind", data.volume.source, place)
    stack = mountinfo.read().stack(str(place))

    with mounts.clone(str(data.volume.source), "", Attributes()) as clone:
        inside = _nested(node, clone, nested)
        at_home(lambda root_fd: mounts.swap(clone, stack, root_fd, [inside]))
        inside.close()

    assert os.listdir(place / "sub") == ["kept"]
    mounts.unmount_all(str(place / "sub"))


def test_a_place_inside_follows_no_link_and_leads_nowhere_else(node: Node):
    data = node.dataset("demo", files=FILES)
    (node.machine.folder("data-demo") / "data" / "link").symlink_to("/etc")

    with mounts.closing(mounts.open_path(str(data.volume.source))) as fd:
        for inner in ("link", "../x"):
            with pytest.raises(OSError) as caught:  # noqa: PT011
                mounts.open_inside(fd, inner)
            assert caught.value.errno in {errno.ELOOP, errno.EXDEV}
