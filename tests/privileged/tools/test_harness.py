"""The node that the other tests stand on: its daemons die and come back, its pods are pods."""

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_fluid.testbed import pods, programs
from csi_fluid.testbed.waiting import until
from tests import sandbox
from tests.harness import (
    BedError,
    Bindfs,
    Container,
    Daemon,
    Filesystem,
    Gocryptfs,
    Node,
    Propagation,
    Rclone,
    S3fs,
    View,
    VolumeMount,
)

FILESYSTEMS = (Bindfs, S3fs, Rclone, Gocryptfs)


@pytest.fixture
def node(workdir: Path) -> Iterator[Node]:
    with Node(workdir) as node:
        yield node


@pytest.fixture(params=FILESYSTEMS, ids=lambda filesystem: filesystem.name)
def filesystem(request: pytest.FixtureRequest) -> type[Filesystem]:
    sandbox.require(request.param.name)
    made: type[Filesystem] = request.param
    return made


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_daemon_comes_back_with_changed_content(
    node: Node, filesystem: type[Filesystem], number: signal.Signals
):
    data = node.dataset("demo", filesystem, files={"a.txt": b"1"})

    data.daemon.kill(number)
    data.put("b.txt", b"2")
    data.daemon.restart()

    assert node.sees.names(data.volume.source) == {"a.txt", "b.txt"}
    assert node.sees.read(data.volume.source / "b.txt") == b"2"
    assert len(node.sees.layers(data.volume.source)) == 1


def test_a_container_sees_a_dead_daemon_and_a_stacked_mount(
    node: Node, filesystem: type[Filesystem]
):
    data = node.dataset("demo", filesystem, files={"a.txt": b"1"})
    pod = node.pod()
    target = pod.bind(data)
    slave = pod.container("slave", {"/data": target})
    private = pod.container("private", {"/data": target}, Propagation.NONE)

    data.daemon.kill()
    dead = slave.sees.error("/data"), private.sees.error("/data")
    data.daemon.restart(stack=True)

    assert dead == (errno.ENOTCONN, errno.ENOTCONN)
    assert slave.sees.names("/data") == {"a.txt"}
    assert private.sees.error("/data") == errno.ENOTCONN
    assert len(slave.sees.layers("/data")) == 2


def test_data_is_readable_by_others_and_not_writable(node: Node, filesystem: type[Filesystem]):
    data = node.dataset("demo", filesystem, files={"a.txt": b"1"})
    main = node.pod().container("main", {"/data": data.volume.source})

    seen = main.run("setpriv", "--reuid=65534", "--clear-groups", "cat", "/data/a.txt")

    assert seen == "1"
    assert main.sees.write("/data/a.txt", b"2") == errno.EROFS


def test_a_writable_daemon_takes_writes(node: Node, filesystem: type[Filesystem]):
    data = node.dataset("demo", filesystem, files={"a.txt": b"1"}, read_only=False)

    assert node.sees.write(data.volume.source / "new.txt", b"2") == 0
    assert node.sees.read(data.volume.source / "new.txt") == b"2"


def test_a_daemon_that_cannot_start_is_an_error_with_its_last_words(node: Node):
    data = node.dataset("demo", Bindfs, start=False)
    (node.machine.folder("data-demo") / "data" / "a.txt").unlink()
    (node.machine.folder("data-demo") / "data").rmdir()

    with pytest.raises(BedError, match=r"(?s)bindfs ended with status 1: .*No such file"):
        data.daemon.start()


def test_a_stopped_daemon_is_alive(node: Node):
    data = node.dataset("demo", Bindfs)

    data.daemon.kill(signal.SIGSTOP)

    assert data.daemon.alive
    data.daemon.kill(signal.SIGCONT)
    assert node.sees.error(data.volume.source) == 0


def test_a_container_has_root_processes_and_host_name_of_its_own(node: Node):
    main = node.pod().container("main", {"/data": node.machine.mount_root})

    assert main.run("sh", "-c", "echo $$; cat /proc/1/comm; cat /proc/sys/kernel/hostname")
    until(lambda: main.run("cat", "/proc/1/comm") != "sh\n", "the exec of its program")
    assert main.run("cat", "/proc/1/comm", "/proc/sys/kernel/hostname") == "sleep\nmain\n"
    assert main.run("ls", "/old") == ""
    points = {mount.mount_point for mount in main.sees.layers("/")}
    assert points == {"/"}
    assert str(node.machine.kubelet) not in main.run("cat", "/proc/self/mountinfo")


@pytest.mark.parametrize(
    ("propagation", "reaches_container", "reaches_host"),
    [
        (Propagation.NONE, False, False),
        (Propagation.HOST_TO_CONTAINER, True, False),
        (Propagation.BIDIRECTIONAL, True, True),
    ],
)
def test_propagation_is_what_was_asked_for(
    node: Node, propagation: Propagation, *, reaches_container: bool, reaches_host: bool
):
    for name in ("from-host", "from-container"):
        (node.machine.mount_root / name).mkdir()
    main = node.pod().container("main", {"/data": node.machine.mount_root}, propagation)

    programs.run("mount", "-t", "tmpfs", "none", node.machine.mount_root / "from-host")
    main.run("mount", "-t", "tmpfs", "none", "/data/from-container")

    assert bool(main.sees.layers("/data/from-host")) == reaches_container
    assert bool(node.sees.layers(node.machine.mount_root / "from-container")) == reaches_host
    programs.run("umount", node.machine.mount_root / "from-host")
    main.run("umount", "/data/from-container")


def test_a_subpath_is_bound_where_kubelet_binds_it(node: Node):
    data = node.dataset("demo", Bindfs, files={"sub/b.txt": b"2"})
    pod = node.pod()
    place = pod.subpath(pod.bind(data), "sub")
    main = pod.container("main", {"/data": place}, Propagation.NONE)

    assert place.parts[-4:] == ("volume-subpaths", "default-demo", "main", "0")
    assert main.sees.names("/data") == {"b.txt"}
    assert main.sees.layers("/data")[0].root == "/sub"
    assert main.sees.layers("/data")[0].read_only


def test_a_volume_without_its_source_is_an_error_that_names_it(node: Node):
    with pytest.raises(BedError, match=r"container main did not start: .*/absent"):
        node.pod().container("main", {"/data": Path("/absent")})


def test_what_a_container_writes_is_streamed_and_ends_with_it(node: Node):
    main = node.pod().container("main", {}, command=["sh", "-c", "echo one; echo two >&2"])

    assert list(main.lines()) == ["one", "two"]


def test_a_hundred_containers_have_a_hundred_namespaces(node: Node):
    volumes = [VolumeMount(node.machine.mount_root, "/data")]

    begun = [Container(node.machine.image, f"{n}", volumes, pods.PAUSE) for n in range(100)]
    started = [container.ready() for container in begun]

    assert len({os.readlink(f"/proc/{each.pid}/ns/mnt") for each in started}) == 100
    for each in started:
        each.close()


def test_a_daemon_is_unmounted_when_it_is_closed(node: Node):
    serving = Bindfs(node.machine.folder("data"))
    daemon = Daemon(serving, node.machine.source("demo"), node.machine.folder("daemon"))
    daemon.start()

    daemon.close()

    assert not daemon.alive
    assert node.sees.layers(daemon.mount_point) == ()


def test_the_plugin_runs_in_a_namespace_like_that_of_fluids_chart(node: Node):
    plugin = node.plugin(chart=True)
    sees = View(plugin.pid)
    kubelet, mount_root = node.machine.kubelet, node.machine.mount_root

    assert sees.layers(kubelet)[-1].shared == node.sees.layers(kubelet)[-1].shared
    assert sees.layers(mount_root)[-1].master == node.sees.layers(mount_root)[-1].shared
    assert not sees.layers(mount_root)[-1].shared


@pytest.mark.parametrize("host_pid", [True, False])
def test_the_plugin_starts_and_stops_twice(node: Node, *, host_pid: bool):
    plugin = node.plugin(chart=True, host_pid=host_pid, strategy="propagation")

    first = plugin.stop()
    plugin.start()

    assert [first, plugin.stop()] == [0, 0]


def test_a_plugin_that_cannot_start_is_an_error_with_its_last_words(node: Node):
    with pytest.raises(BedError, match=r"the plugin ended with 2: .*--strategy"):
        node.plugin(strategy="magic")


def test_a_pod_publishes_and_is_taken_down(node: Node):
    node.plugin()
    pod = node.pod()
    target = pod.publish(node.dataset("demo", Bindfs, files={"a.txt": b"1"}))
    seen = node.sees.names(target)

    pod.close()

    assert seen == {"a.txt"}
    assert not target.exists()
