"""After a crash every copy of a volume shows the new daemon's mount, read-only.

By the namespace strategy, wherever the copy is and however the new mount meets the dead one.  What
is reached by a mount on the node covers the dead one, what is swapped by a visit takes its place.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from csi_fluid.testbed import programs
from recover.linux.mountinfo import Mount
from recover.rows import Method
from tests.harness import Dataset, Node, Pod, Propagation, View
from tests.privileged.healing import Healing, only_layer, shown

FILES = {"a.txt": b"1", "sub/b.txt": b"1", "cache/c.txt": b"1"}
RESTARTS = pytest.mark.parametrize(
    "stack", [False, True], ids=["after unmounting", "on top of the dead mount"]
)


@dataclass(frozen=True)
class Stage:
    """What a topology is made of."""

    node: Node
    heal: Healing
    data: Dataset
    pod: Pod
    target: Path

    def subpath(self, inner: str) -> Path:
        """Bind a directory or a file of the volume as kubelet does for `subPath`."""
        if "." not in inner:
            return self.pod.subpath(self.target, inner)
        place = self.node.machine.kubelet / "pods" / self.pod.uid / "volume-subpaths/v/main/1"
        place.parent.mkdir(parents=True)
        place.touch()
        programs.run("mount", "--bind", self.target / inner, place)
        self.pod._ends.callback(programs.run, "umount", "-l", place)
        return place


Places = list[tuple[View, str, str]]  # who looks, at which path, and what it shows of the volume
Topology = Callable[[Stage], Places]


def target_only(stage: Stage) -> Places:
    return []


def host_to_container(stage: Stage) -> Places:
    main = stage.pod.container("main", {"/data": stage.target})
    return [(main.sees, "/data", "")]


def no_propagation(stage: Stage) -> Places:
    main = stage.pod.container("main", {"/data": stage.target}, Propagation.NONE)
    return [(main.sees, "/data", "")]


def bidirectional(stage: Stage) -> Places:
    main = stage.pod.container("main", {"/data": stage.target}, Propagation.BIDIRECTIONAL)
    return [(main.sees, "/data", "")]


def subpath_directory(stage: Stage) -> Places:
    place = stage.subpath("sub")
    main = stage.pod.container("main", {"/data": place})
    return [(stage.node.sees, str(place), "sub"), (main.sees, "/data", "sub")]


def subpath_without_propagation(stage: Stage) -> Places:
    place = stage.subpath("sub")
    main = stage.pod.container("main", {"/data": place}, Propagation.NONE)
    return [(stage.node.sees, str(place), "sub"), (main.sees, "/data", "sub")]


def subpath_file(stage: Stage) -> Places:
    place = stage.subpath("a.txt")
    settings = stage.node.machine.folder("settings")
    (settings / "a.txt").touch()
    main = stage.pod.container("main", {"/etc/app": settings, "/etc/app/a.txt": place})
    return [(stage.node.sees, str(place), "a.txt"), (main.sees, "/etc/app/a.txt", "a.txt")]


def two_paths_in_a_container(stage: Stage) -> Places:
    volumes = {"/data": stage.target, "/srv/again": stage.target, "/sub": stage.subpath("sub")}
    main = stage.pod.container("main", volumes)
    return [(main.sees, "/data", ""), (main.sees, "/srv/again", ""), (main.sees, "/sub", "sub")]


def two_containers(stage: Stage) -> Places:
    one = stage.pod.container("one", {"/data": stage.target})
    two = stage.pod.container("two", {"/other": stage.target}, Propagation.NONE)
    return [(one.sees, "/data", ""), (two.sees, "/other", "")]


def two_pods(stage: Stage) -> Places:
    other = stage.node.pod("other")
    target = stage.heal.publish(other, stage.data)
    one = stage.pod.container("one", {"/data": stage.target})
    two = other.container("two", {"/data": target})
    return [(stage.node.sees, str(target), ""), (one.sees, "/data", ""), (two.sees, "/data", "")]


def bind_made_by_the_container(stage: Stage) -> Places:
    main = stage.pod.container("main", {"/data": stage.target})
    main.run("mkdir", "/tmp/bound")
    main.run("mount", "--bind", "/data/sub", "/tmp/bound")
    return [(main.sees, "/data", ""), (main.sees, "/tmp/bound", "sub")]


def reference_dataset(stage: Stage) -> Places:
    target = stage.heal.publish(stage.pod, stage.data, volume_id="other-ref", sub_path="sub")
    main = stage.pod.container("main", {"/ref": target})
    return [(stage.node.sees, str(target), "sub"), (main.sees, "/ref", "sub")]


def symlink_publish(stage: Stage) -> Places:
    link = stage.heal.publish(stage.pod, stage.data, volume_id="linked", method=Method.SYMLINK)
    assert link.is_symlink()
    main = stage.pod.container("main", {"/data": link})
    none = stage.pod.container("none", {"/data": link}, Propagation.NONE)
    return [(main.sees, "/data", ""), (none.sees, "/data", "")]


def hostile_paths(stage: Stage) -> Places:
    main = stage.pod.container("main", {"/mnt/a b\n\\040c\tü": stage.target})
    return [(main.sees, "/mnt/a b\n\\040c\tü", "")]


TOPOLOGIES: list[Topology] = [
    target_only,
    host_to_container,
    no_propagation,
    bidirectional,
    subpath_directory,
    subpath_without_propagation,
    subpath_file,
    two_paths_in_a_container,
    two_containers,
    two_pods,
    bind_made_by_the_container,
    reference_dataset,
    symlink_publish,
    hostile_paths,
]


# What a mount on the node does not reach
VISITED = {
    no_propagation,
    subpath_without_propagation,
    two_containers,
    bind_made_by_the_container,
    symlink_publish,
}


def _is_private(mount: Mount) -> bool:
    return not mount.shared and not mount.master


def content(view: View, path: str, inner: str) -> object:
    """Return what a place shows, once it shows what it should be compared with."""
    return view.read(path) if "." in inner else view.names(path)


@RESTARTS
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=lambda topology: topology.__name__)
def test_every_copy_shows_the_new_mount_read_only(
    node: Node,
    heal: Healing,
    topology: Topology,
    request: pytest.FixtureRequest,
    *,
    stack: bool,
):
    if topology in VISITED:
        request.getfixturevalue("visits")
    data = node.dataset("demo", files=FILES)
    pod = node.pod()
    stage = Stage(node, heal, data, pod, heal.publish(pod, data))
    places = [(node.sees, str(stage.target), ""), *topology(stage)]
    before = [only_layer(view, path) for view, path, _ in places]

    for number in (b"2", b"3"):
        for name in ("a.txt", f"new{number.decode()}", f"sub/new{number.decode()}"):
            data.put(name, number)
        # What hangs off the source itself is made private before the next daemon comes.
        noticed = topology is symlink_publish
        assert heal.crash(data, stack=stack, noticed=noticed).layers <= 2

    new = {"": {*(p.split("/")[0] for p in FILES), "new2", "new3"}}
    new |= {"sub": {"b.txt", "new2", "new3"}}
    for (view, path, inner), old in zip(places, before, strict=True):
        mount = shown(view, path)
        assert content(view, path, inner) == new.get(inner, b"3")
        assert mount.dev != old.dev
        assert mount.options == old.options
        assert mount.read_only
        if _is_private(old):
            assert _is_private(only_layer(view, path))
        # A slave of the source itself loses its master when somebody unmounts that.
        elif topology is not symlink_publish:
            assert not _is_private(mount)
