"""What is done to anchors, and at their mount point, on the real kernel."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from recover.anchors import anchor as anchors
from recover.anchors.anchor import Anchor
from recover.errors import Covered
from recover.linux import mountinfo, mounts, syscalls
from recover.linux.mountinfo import Mount
from recover.linux.mounts import Attributes
from recover.serverless import place as places
from recover.serverless.place import Place
from tests.harness import Dataset, Node
from tests.privileged.surgery import at_home, pile


@pytest.fixture
def dead(node: Node) -> Dataset:
    return node.dataset("dead")


@pytest.fixture
def live(node: Node) -> Dataset:
    return node.dataset("live")


@pytest.fixture
def place(node: Node) -> Iterator[Place]:
    folder = node.machine.folder("parent")
    place = Place(str(folder / "fuse"), "demo-app")
    (folder / "fuse").mkdir()
    yield place
    for mount in reversed(mountinfo.read().mounts):
        if mount.mount_point.startswith(f"{folder}/"):
            mounts.unmount_all(mount.mount_point)


def stack(path: str) -> tuple[Mount, ...]:
    return mountinfo.read().stack(path)


def put(data: Dataset, path: str) -> None:
    """Mount a dataset on what stands at a path, in a peer group of its own."""
    pile(data.volume.source, path, attributes=Attributes(propagation="shared"))


def test_a_stack_becomes_its_live_mount_and_the_dead_one_an_anchor(
    dead: Dataset, live: Dataset, place: Place
):
    for data in (dead, live):
        put(data, place.mount_point)
    dead.daemon.kill()
    before = stack(place.mount_point)
    path = places.reserve(place)

    at_home(places.flatten, before, {before[0]: path})

    assert [m.dev for m in stack(place.mount_point)] == [before[1].dev]
    assert [m.shared for m in stack(str(path))] == [before[0].shared]


def test_whatever_fails_the_live_mount_stays(dead: Dataset, live: Dataset, place: Place):
    for data in (dead, live):
        put(data, place.mount_point)
    dead.daemon.kill()
    before = stack(place.mount_point)
    path = places.reserve(place)
    put(live, str(path))  # so that nothing can be bound there

    with pytest.raises(Covered):
        at_home(places.flatten, before, {before[0]: path})

    assert [m.dev for m in stack(place.mount_point)] == [m.dev for m in before]


def peers(dead: Dataset, live: Dataset, place: Place) -> list[Anchor]:
    """Return two anchors of one group, on one of which the other dataset was mounted."""
    put(dead, place.mount_point)
    paths = [places.reserve(place) for _ in range(2)]
    for path in paths:
        (source,) = stack(place.mount_point)
        places.bind(source, path, syscalls.AT_FDCWD)
    put(live, str(paths[0]))
    return list(anchors.find(mountinfo.read(), place.folder))


def test_what_an_anchor_lost_with_another_one_is_no_failure(
    dead: Dataset, live: Dataset, place: Place
):
    one, other = peers(dead, live, place)
    assert len(one.stack) == len(other.stack) == 2

    for anchor in (one, other):
        at_home(anchors.uncover, anchor.path, anchor.stack)

    assert stack(one.path) == one.stack[:1]
    assert stack(other.path) == other.stack[:1]


def test_an_anchor_that_shows_another_mount_than_was_seen_is_left(
    dead: Dataset, live: Dataset, place: Place
):
    one, _ = peers(dead, live, place)
    seen = one.base, one.top._replace(mnt_id=1)

    with pytest.raises(Covered):
        at_home(anchors.uncover, one.path, seen)

    assert stack(one.path) == one.stack


def test_a_place_whose_anchor_was_never_bound_is_removed(place: Place, tmp_path: Path):
    places.reserve(place)

    place.remove()

    assert not place.shared.exists()
