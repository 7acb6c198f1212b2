"""Mounts that Fluid's own plugin left, and the way its chart runs a plugin."""

import contextlib
import errno
from pathlib import Path

import pytest

from csi_fluid.testbed import programs
from recover.linux import mountinfo, namespaces
from recover.linux.mountinfo import Mount
from recover.rows import Generation
from tests.harness import Dataset, Node, Propagation, View, until
from tests.privileged.healing import Healing, healing, shown


def bind_as_fluid_does(data: Dataset, target: Path) -> None:
    """Bind the global mount: a peer of it, and for everybody else as writable as the daemon."""
    with contextlib.suppress(FileExistsError):  # also where it is dead: nothing in it is asked
        target.mkdir()
    programs.run("mount", "--bind", data.volume.source, target)


def crash_as_healed_by_fluid(data: Dataset, target: Path) -> None:
    """Crash, and recover as Fluid does: another bind on top, which the kernel passes on."""
    data.daemon.kill()
    data.daemon.restart()
    bind_as_fluid_does(data, target)


@pytest.fixture
def data(node: Node) -> Dataset:
    return node.dataset("demo", files={"a.txt": b"1", "sub/b.txt": b"1"})


@pytest.mark.parametrize("crashes", [0, 1, 3])
@pytest.mark.parametrize("stack", [False, True])
def test_what_fluid_left_heals_to_one_read_only_layer(
    node: Node, data: Dataset, crashes: int, request: pytest.FixtureRequest, *, stack: bool
):
    if stack:  # without a visit a target stays the peer of what the daemon stacks
        request.getfixturevalue("visits")
    pod = node.pod()
    target = pod.target("default-demo")
    bind_as_fluid_does(data, target)
    places: list[tuple[View, str | Path]] = [
        (node.sees, target),
        (pod.container("slave", {"/data": target}).sees, "/data"),
    ]
    if namespaces.can_mount_inside():
        private = pod.container("private", {"/data": target}, Propagation.NONE)
        places.append((private.sees, "/data"))
    for _ in range(crashes):
        crash_as_healed_by_fluid(data, target)

    with healing(node) as heal:
        heal.await_looked(data)
        # The binds are parted from the source before the next daemon comes.
        heal.crash(data, stack=stack, noticed=True)

        for view, path in places:
            heal.await_whole(data, view, path)
        for view, path in places:
            assert shown(view, path).read_only
        assert len(node.sees.layers(data.volume.source)) == 1 + stack
        heal.unpublish(target)


def test_what_fluid_stacked_goes_with_the_next_crash(node: Node, data: Dataset):
    """See no instant without data before it: the dead layers are beneath the live one."""
    pod = node.pod()
    target = pod.target("default-demo")
    bind_as_fluid_does(data, target)
    main = pod.container("main", {"/data": target})
    for _ in range(3):
        crash_as_healed_by_fluid(data, target)
    before = main.sees.layers("/data")

    with healing(node) as heal:
        heal.await_looked(data)
        assert main.sees.layers("/data") == before
        assert main.sees.error("/data") == 0
        heal.crash(data, noticed=True)
        heal.await_whole(data, node.sees, target)
        heal.await_whole(data, main.sees, "/data")
        heal.unpublish(target)


@pytest.mark.usefixtures("visits")
@pytest.mark.parametrize("stacked", [False, True])
def test_what_a_publish_replaced_before_the_first_look_heals_in_the_container(
    node: Node, *, stacked: bool
):
    data = node.dataset("writable", read_only=False)
    pod = node.pod()
    target = pod.target(data.volume.volume_id)
    bind_as_fluid_does(data, target)
    main = pod.container("main", {"/data": target})
    data.daemon.kill()
    data.daemon.restart()
    if stacked:
        bind_as_fluid_does(data, target)

    with contextlib.closing(Healing(node)) as heal:
        heal.publish(pod, data, read_only=True)  # before recovery begins
        assert main.sees.error("/data") == errno.ENOTCONN
        heal.start()

        heal.await_whole(data, main.sees, "/data")
        assert shown(main.sees, "/data").read_only
        heal.unpublish(target)


def test_a_superblock_that_is_known_as_another_sources_is_not_claimed(node: Node, data: Dataset):
    pod = node.pod()
    target = pod.target("default-demo")
    bind_as_fluid_does(data, target)
    dev = node.sees.layers(target)[-1].dev
    data.daemon.kill()
    data.daemon.restart()

    with contextlib.closing(Healing(node)) as heal:
        row = Generation("/runtime-mnt/other", dev, "/", "fuse", "other", "this boot", 1.0)
        heal.store.put_generation(row)
        heal.publish(pod, data)

        assert row in heal.store.generations()
        assert all(g.dev != dev for g in heal.store.generations(str(data.volume.source)))
        heal.unpublish(target)


@pytest.mark.usefixtures("visits")
def test_a_writable_bind_of_a_read_only_volume_is_put_right_by_kubelets_next_publish(node: Node):
    data = node.dataset("writable", read_only=False)
    pod = node.pod()
    target = pod.target(data.volume.volume_id)
    bind_as_fluid_does(data, target)
    main = pod.container("main", {"/data": target})
    crash_as_healed_by_fluid(data, target)

    with healing(node) as heal:
        heal.publish(pod, data, read_only=True)
        heal.await_whole(data, node.sees, target)
        heal.await_whole(data, main.sees, "/data")
        heal.crash(data)  # the heal that is told may be the one of the copy before

        for view, path in ((node.sees, target), (main.sees, "/data")):
            heal.await_whole(data, view, path)
            assert shown(view, path).read_only


@pytest.mark.parametrize("stack", [False, True])
def test_a_subpath_of_fluids_bind_heals(node: Node, data: Dataset, *, stack: bool):
    pod = node.pod()
    target = pod.target("default-demo")
    bind_as_fluid_does(data, target)
    place = pod.subpath(target, "sub")
    main = pod.container("main", {"/data": place})

    with healing(node) as heal:
        heal.await_looked(data)
        heal.crash(data, stack=stack, noticed=True)

        heal.await_whole(data, node.sees, place)
        heal.await_whole(data, main.sees, "/data")
        assert main.sees.names("/data") == {"b.txt"}
        heal.unpublish(target)


@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.parametrize(
    ("strategy", "host_pid"),
    [("namespace", True), ("propagation", False), ("propagation", True)],
)
def test_a_plugin_run_as_fluids_chart_runs_it_heals(
    node: Node, data: Dataset, strategy: str, *, host_pid: bool, stack: bool
):
    node.plugin(strategy=strategy, chart=True, host_pid=host_pid)
    pod = node.pod()
    target = pod.publish(data)
    main = pod.container("main", {"/data": target})

    for _ in range(3):
        data.daemon.kill()
        data.daemon.restart(stack=stack)
        present = node.sees.layers(data.volume.source)[-1].dev
        until(lambda: main.sees.layers("/data")[-1].dev == present, "the container is healed")  # noqa: B023
        until(lambda: node.sees.layers(target)[-1].dev == present, "the target is healed")  # noqa: B023
        until(lambda: len(main.sees.layers("/data")) == 2, "two layers")

    assert main.sees.names("/data") == {"a.txt", "sub"}
    assert main.sees.layers("/data")[-1].read_only
    assert node.sees.layers(target)[-1].read_only


def laid_into(node: Node, target: Path) -> list[Mount]:
    """Return what stands inside a target, also where it is covered."""
    return [m for m in mountinfo.read(node.sees.pid) if m.mount_point == f"{target}/sub"]


@pytest.mark.usefixtures("visits")
def test_what_is_laid_into_a_target_through_its_subpath_does_not_grow(node: Node, data: Dataset):
    """See the mounts of a pod with a subPath, after crashes under either plugin.

    The subPath is a peer of the target: what is laid on it the kernel lays into the target too,
    beneath what that shows.
    """
    pod = node.pod()
    target = pod.target("default-demo")
    bind_as_fluid_does(data, target)
    place = pod.subpath(target, "sub")
    main = pod.container("main", {"/data": place})
    for _ in range(2):
        crash_as_healed_by_fluid(data, target)
        programs.run("mount", "--bind", f"{data.volume.source}/sub", place)

    assert len(laid_into(node, target)) > 1

    with healing(node) as heal:
        heal.await_looked(data)
        counts = []
        for _ in range(4):
            heal.crash(data, noticed=True)
            heal.await_whole(data, node.sees, target)
            heal.await_whole(data, main.sees, "/data")
            assert shown(node.sees, target).read_only
            counts.append(len(laid_into(node, target)))
        assert counts[1:] == [counts[1]] * 3
        assert main.sees.names("/data") == {"b.txt"}
        heal.unpublish(target)
