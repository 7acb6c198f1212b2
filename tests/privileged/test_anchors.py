"""Anchors: made, found again, brought to, dropped; whoever hangs off one is healed, and only he."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_fluid.testbed import programs
from recover.anchors.anchor import FOLDER, is_anchor
from recover.linux import mountinfo
from recover.linux.mountinfo import Mount
from tests.harness import Dataset, Node, Propagation, until
from tests.privileged.healing import Healing, healing, only_layer, shown, whole
from tests.privileged.watching import GONE, Watch

BOTH = pytest.mark.parametrize("heal", ["namespace", "propagation"], indirect=True)


def anchors(node: Node) -> dict[str, tuple[Mount, ...]]:
    """Return the node's anchors: what stands at each path."""
    points = {m.mount_point for m in mountinfo.read(node.sees.pid) if is_anchor(m.mount_point)}
    return {Path(point).name: node.sees.layers(point) for point in points}


@pytest.fixture
def data(node: Node) -> Dataset:
    return node.dataset("demo", files={"a.txt": b"1", "sub/b.txt": b"1", "out/o.txt": b"1"})


@pytest.mark.timeout(180)
@BOTH
def test_a_container_of_each_of_thirty_generations_is_healed_by_the_next_crash(
    node: Node, heal: Healing, data: Dataset
):
    pod = node.pod()
    target = heal.publish(pod, data)
    containers = [pod.container("first", {"/data": target})]
    for number in range(30):
        heal.crash(data)
        containers.append(pod.container(f"c{number}", {"/data": target}))

    heal.crash(data)

    assert all(whole(node, each.sees, "/data", data) for each in containers)
    assert all(shown(each.sees, "/data").read_only for each in containers)
    assert all(len(layers) <= 2 for layers in anchors(node).values())


@BOTH
def test_a_container_started_while_the_daemon_is_down_hangs_off_its_anchor(
    node: Node, heal: Healing, data: Dataset
):
    pod = node.pod()
    target = heal.publish(pod, data)
    late = []
    for number in range(4):
        data.daemon.kill()
        until(lambda: node.sees.error(target) == errno.ENOTCONN, "the target is dead")
        late.append(pod.container(f"late{number}", {"/data": target}))
        before = len(heal.heals(data))
        data.daemon.restart()
        heal.healed(data, before)

    for container in late:
        heal.await_whole(data, container.sees, "/data")


@BOTH
def test_a_subpath_of_each_generation_is_healed(node: Node, heal: Healing, data: Dataset):
    pod = node.pod()
    target = heal.publish(pod, data)
    place = pod.subpath(target, "sub")
    containers = []
    for number in range(6):
        containers.append(pod.container(f"c{number}", {"/data": place}))
        heal.crash(data)

    for container in containers:
        heal.await_whole(data, container.sees, "/data")
        assert container.sees.names("/data") == {"b.txt"}


@BOTH
def test_after_the_last_unpublish_nothing_is_left(node: Node, heal: Healing, data: Dataset):
    pods = [node.pod(str(number)) for number in range(2)]
    targets = [heal.publish(pod, data) for pod in pods]
    heal.crash(data)
    assert len(anchors(node)) == 2

    heal.unpublish(targets[0])
    assert len(anchors(node)) == 2
    heal.unpublish(targets[1])

    assert anchors(node) == {}
    assert not (node.machine.kubelet / "plugin" / FOLDER).exists()
    until(lambda: not heal.store.generations(), "the generations are forgotten")


@BOTH
def test_generations_that_nobody_needs_go(node: Node, heal: Healing, data: Dataset):
    """A pod that came later keeps no anchor of the time before it."""
    first, second = node.pod("first"), node.pod("second")
    early = heal.publish(first, data)
    for _ in range(3):
        heal.crash(data)
    late = heal.publish(second, data)
    container = second.container("late", {"/data": late})

    heal.unpublish(early)

    assert len(anchors(node)) == 1
    heal.crash(data)
    assert whole(node, container.sees, "/data", data)
    assert len(anchors(node)) == 2


@BOTH
def test_an_anchor_that_somebody_unmounted_costs_its_containers_one_heal_at_the_most(
    node: Node, heal: Healing, data: Dataset
):
    pod = node.pod()
    target = heal.publish(pod, data)
    heal.crash(data)
    main = pod.container("main", {"/data": target})
    for point in {m.mount_point for m in mountinfo.read(node.sees.pid)}:
        if is_anchor(point):
            programs.run("umount", "-l", point)

    heal.crash(data)

    heal.await_whole(data, node.sees, target)
    if heal.strategy == "namespace":
        heal.await_whole(data, main.sees, "/data")
    again = pod.container("again", {"/data": target})
    heal.crash(data)
    heal.await_whole(data, again.sees, "/data")


@BOTH
def test_anchors_are_found_again_by_the_next_start(node: Node, heal: Healing, data: Dataset):
    pod = node.pod()
    target = heal.publish(pod, data)
    containers = []
    for number in range(3):
        containers.append(pod.container(f"c{number}", {"/data": target}))
        heal.crash(data)
    heal.stop()
    heal.start()

    heal.crash(data)

    for container in containers:
        heal.await_whole(data, container.sees, "/data")


@pytest.mark.parametrize("strategy", ["namespace", "propagation"])
def test_a_lost_state_file_loses_no_anchor(node: Node, data: Dataset, strategy: str):
    with contextlib.ExitStack() as ends:
        pod = node.pod()
        with healing(node, strategy=strategy) as heal:
            target = heal.publish(pod, data)
            pod._ends.pop_all()
            heal.crash(data)
            container = ends.enter_context(
                contextlib.closing(pod.container("main", {"/data": target}))
            )
        for path in node.machine.state.parent.iterdir():
            path.unlink()

        with healing(node, strategy=strategy) as heal:
            heal.await_looked(data)
            heal.crash(data)
            heal.await_whole(data, container.sees, "/data")
            heal.unpublish(target)
            assert anchors(node) == {}


# ---- One pod is not another's way


def test_what_a_bidirectional_container_mounts_in_a_volume_no_other_pod_sees(
    node: Node, heal: Healing, data: Dataset
):
    one, other = node.pod("one"), node.pod("other")
    targets = [heal.publish(pod, data) for pod in (one, other)]
    bad = one.container("bad", {"/data": targets[0]}, Propagation.BIDIRECTIONAL)
    good = other.container("good", {"/data": targets[1]})

    bad.run("mount", "-t", "tmpfs", "theirs", "/data/out")
    for _ in range(2):
        assert node.sees.names(targets[1] / "out") == {"o.txt"}
        assert good.sees.names("/data/out") == {"o.txt"}
        heal.crash(data)
        assert good.sees.names("/data/out") == {"o.txt"}


# ---- Mounts inside a volume


@pytest.fixture
def empty_dir(node: Node) -> Path:
    folder = node.machine.folder("empty-dir")
    (folder / "kept").touch()
    return folder


@pytest.mark.usefixtures("visits")
def test_containers_with_nested_mounts_of_every_generation_keep_them(
    node: Node, heal: Healing, data: Dataset, empty_dir: Path
):
    pod = node.pod()
    volumes = {"/data": heal.publish(pod, data), "/data/out": empty_dir}
    containers = []
    for number in range(5):
        containers.append(pod.container(f"c{number}", volumes))
        heal.crash(data, noticed=True)  # the copies are parted before the next daemon comes

    for container in containers:
        heal.await_whole(data, container.sees, "/data")
        assert container.sees.names("/data/out") == {"kept"}


@pytest.mark.usefixtures("visits")
def test_a_nested_mount_is_there_from_the_first_instant_of_a_heal(
    node: Node, heal: Healing, data: Dataset, empty_dir: Path
):
    """Nobody looks while the daemon is dead: the kernel unmounts what it cannot find a name for."""
    pod = node.pod()
    volumes = {"/data": heal.publish(pod, data), "/data/out": empty_dir}
    main = pod.container("main", volumes)

    for _ in range(10):
        heal.crash(data, noticed=True)
        heal.await_whole(data, main.sees, "/data")
        assert main.sees.names("/data/out") == {"kept"}


@pytest.mark.parametrize("heal", ["propagation"], indirect=True)
def test_without_host_processes_nested_mounts_are_covered_and_do_not_pile_up(
    node: Node, heal: Healing, data: Dataset, empty_dir: Path
):
    pod = node.pod()
    volumes = {"/data": heal.publish(pod, data), "/data/out": empty_dir}
    main = pod.container("main", volumes)

    for _ in range(6):
        heal.crash(data)

    assert main.sees.names("/data/out") == {"o.txt"}  # the volume's own
    assert len(main.sees.layers("/data")) == 2


# ---- Flags


@pytest.mark.usefixtures("visits")
def test_a_container_that_mounts_a_writable_volume_read_only_stays_so(node: Node):
    data = node.dataset("demo", read_only=False)
    with healing(node, recover_writable=True) as heal:
        pod = node.pod()
        target = heal.publish(pod, data)
        main = pod.container("main", {"/data": target})
        main.run("mount", "-o", "remount,bind,ro", "/data")

        with Watch(main.pid, "write", "/data") as watch:
            for _ in range(10):
                heal.crash(data, noticed=True)
                heal.await_whole(data, main.sees, "/data")
            seen = watch.outcomes() - GONE

        assert seen == {"EROFS"}
        assert node.sees.write(target / "new", b"1") == 0


# ---- kubelet's directory


@pytest.fixture(params=["on another mount", "bound twice"])
def odd_node(node: Node, request: pytest.FixtureRequest) -> Iterator[Node]:
    kubelet, other = node.machine.kubelet, node.machine.folder("other")
    with contextlib.ExitStack() as ends:
        if request.param == "on another mount":
            programs.run("mount", "-t", "tmpfs", "kubelet", kubelet)
            programs.run("mount", "--make-shared", kubelet)
            ends.callback(programs.run, "umount", "-l", kubelet)
        else:
            programs.run("mount", "--rbind", kubelet, other)
            ends.callback(programs.run, "umount", "-l", other)
        yield node


@pytest.mark.parametrize("strategy", ["namespace", "propagation"])
def test_kubelets_directory_may_be_mounted_in_any_way(odd_node: Node, strategy: str):
    data = odd_node.dataset("demo")
    with healing(odd_node, strategy=strategy) as heal:
        pod = odd_node.pod()
        target = heal.publish(pod, data)
        main = pod.container("main", {"/data": target})
        for _ in range(4):
            heal.crash(data)
            assert whole(odd_node, odd_node.sees, target, data)
            heal.await_whole(data, main.sees, "/data")
        heal.unpublish(target)
        assert anchors(odd_node) == {}


@BOTH
def test_kubelets_directory_may_be_reached_by_a_link(node: Node, heal: Healing, data: Dataset):
    link = node.machine.root / "link"
    link.symlink_to(node.machine.kubelet)
    pod = node.pod()
    target = pod.target(data.volume.volume_id)
    linked = link / target.relative_to(node.machine.kubelet)
    heal.put(heal.publication(pod, data, target=str(linked)))
    main = pod.container("main", {"/data": target})

    for _ in range(2):
        heal.crash(data)
        heal.await_whole(data, main.sees, "/data")
    heal.unpublish(linked)

    assert not node.sees.layers(target)
    assert anchors(node) == {}


@pytest.mark.usefixtures("visits")
def test_a_private_copy_is_one_layer_after_any_number_of_crashes(
    node: Node, heal: Healing, data: Dataset
):
    pod = node.pod()
    main = pod.container("main", {"/data": heal.publish(pod, data)}, Propagation.NONE)

    for _ in range(5):
        heal.crash(data)
        heal.await_whole(data, main.sees, "/data")

    assert only_layer(main.sees, "/data").read_only
