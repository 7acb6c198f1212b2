"""A mount point beside a FUSE sidecar: its folder, who answers, which anchors are behind."""

from dataclasses import replace
from pathlib import Path

from recover.anchors.anchor import Anchor
from recover.linux.mountinfo import Mount
from recover.linux.probe import Answer, Reply
from recover.serverless import place as places
from recover.serverless.place import Place
from recover.serverless.snapshot import Snapshot

PLACE = Place("/jfs/fuse", "demo-app")
ROOT = Mount(1, 0, "8:1", "/", "/", frozenset({"rw"}), 1, 0, "ext4", "/dev/sda")


def fuse(number: int, path: str, dev: str, *, on: int = 1, shared: int = 0) -> Mount:
    return Mount(number, on, dev, "/", path, frozenset({"ro"}), shared, 0, "fuse", "data")


def at(name: str) -> str:
    return f"{PLACE.folder}/{name}"


def test_anchors_are_kept_beside_the_mount_point_for_each_pod():
    assert str(PLACE.folder) == "/jfs/.csi-fluid/demo-app/fuse"
    assert PLACE.node == places.node_of("/jfs/fuse")
    assert PLACE.turn != PLACE.node


def snapshot(*anchors: Anchor, lower: tuple[Mount, ...] = ()) -> Snapshot:
    live = fuse(9, "/jfs/fuse", "0:9", shared=9)
    return Snapshot(Reply(Answer.ALIVE, "0:9"), live, lower, anchors, 0.0)


def test_an_anchor_is_behind_until_the_live_mount_is_on_top():
    behind = Anchor(at("1"), 1, "", (fuse(2, at("1"), "0:2", shared=2),))
    brought = Anchor(at("2"), 2, "", (*behind.stack, fuse(3, at("2"), "0:9", on=2)))
    seen = snapshot(behind, brought)
    assert seen.live is not None

    assert seen.behind(seen.live) == (behind,)


def test_an_anchor_whose_upper_mount_hangs_off_a_peer_of_the_source_is_left():
    """To unmount there would unmount the live mount, which stands on a member of the same group."""
    stack = (fuse(2, at("1"), "0:2", shared=2), fuse(3, at("1"), "0:3", on=2, shared=3))
    stacked = Anchor(at("1"), 1, "", (*stack, fuse(4, at("1"), "0:4", on=3)))
    seen = snapshot(stacked, lower=(fuse(8, "/jfs/fuse", "0:3", shared=3),))
    assert seen.live is not None

    assert seen.behind(seen.live) == ()


def test_another_superblock_than_the_one_that_answered_is_not_live():
    other = fuse(9, "/jfs/fuse", "0:8")

    assert Snapshot(Reply(Answer.ALIVE, "0:9"), other, (), (), 0.0).live is None
    assert Snapshot(Reply(Answer.DEAD, "0:8"), other, (), (), 0.0).live is None


def test_a_mount_that_came_after_the_asking_is_not_the_dead_one():
    """To clear it would take a live mount away."""
    mount = fuse(9, "/jfs/fuse", "0:9")

    assert Snapshot(Reply(Answer.DEAD, "0:8"), mount, (), (), 0.0).dead is None
    assert Snapshot(Reply(Answer.DEAD, "0:9"), mount, (), (), 0.0).dead is mount
    assert Snapshot(Reply(Answer.HUNG, "0:9"), mount, (), (), 0.0).dead is None


def test_a_sight_holds_until_something_else_than_an_anchor_comes():
    first = Anchor(at("1"), 1, "", (fuse(2, at("1"), "0:2"),))
    second = Anchor(at("2"), 2, "", (fuse(3, at("2"), "0:3"),))
    seen = snapshot(first)

    assert seen.holds(replace(seen, answered_at=1.0))
    assert seen.holds(replace(seen, anchors=(first, second)))
    assert not seen.holds(replace(seen, anchors=(second,)))
    assert not seen.holds(replace(seen, top=fuse(10, "/jfs/fuse", "0:9")))
    assert not seen.holds(replace(seen, lower=(fuse(8, "/jfs/fuse", "0:8"),)))
    assert not seen.holds(replace(seen, reply=Reply(Answer.ALIVE, "0:9", mnt_id=1)))


def test_a_mount_point_is_guarded_while_a_pod_has_a_folder_for_it(tmp_path: Path):
    place = Place(str(tmp_path / "fuse"), "demo-app")
    assert not places.is_guarded(place.mount_point)

    place.make()
    assert places.is_guarded(place.mount_point)
    assert not places.is_guarded(str(tmp_path / "other"))

    place.remove()
    assert not places.is_guarded(place.mount_point)
    assert not list(tmp_path.iterdir())


def test_the_folder_of_another_pod_keeps_the_lock_files(tmp_path: Path):
    one, other = (Place(str(tmp_path / "fuse"), pod) for pod in ("one", "other"))
    for place in (one, other):
        place.make()

    one.remove()

    assert one.node.exists()
    assert places.is_guarded(one.mount_point)
