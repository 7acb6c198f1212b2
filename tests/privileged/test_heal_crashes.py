"""Daemons die in every way and at every time, containers come and go between: all is healed."""

import errno
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from recover import events
from recover.anchors.anchor import is_anchor
from recover.linux import mountinfo
from tests.harness import Dataset, Node, Propagation, until
from tests.privileged.healing import Healing, only_layer, shown, whole


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGSEGV, signal.SIGKILL])
def test_a_daemon_may_end_by_any_signal(node: Node, heal: Healing, number: signal.Signals):
    data = node.dataset("demo")
    main = node.pod().container("main", {"/data": heal.publish(node.pod(), data)})

    data.daemon.kill(number)
    data.put("b.txt", b"2")
    data.daemon.restart()
    heal.healed(data)

    assert main.sees.names("/data") == {"a.txt", "b.txt"}
    assert shown(main.sees, "/data").read_only


def test_until_the_daemon_is_back_everybody_gets_enotconn(node: Node, heal: Healing):
    data = node.dataset("demo")
    target = heal.publish(node.pod(), data)
    main = node.pod().container("main", {"/data": target})

    data.daemon.kill()
    until(lambda: heal.ear.of(events.Broken), "the break is told")

    assert (node.sees.error(target), main.sees.error("/data")) == (errno.ENOTCONN, errno.ENOTCONN)
    assert not heal.heals(data)
    data.daemon.restart()
    heal.healed(data)
    assert main.sees.error("/data") == 0


@pytest.mark.usefixtures("visits")
def test_a_container_started_while_the_daemon_is_down_heals(node: Node, heal: Healing):
    data = node.dataset("demo")
    target = heal.publish(node.pod(), data)

    data.daemon.kill()
    until(lambda: heal.ear.of(events.Broken), "the break is told")
    main = node.pod().container("main", {"/data": target}, Propagation.NONE)
    data.daemon.restart()
    heal.healed(data)

    heal.await_whole(data, main.sees, "/data")
    assert main.sees.names("/data") == {"a.txt"}


@pytest.mark.usefixtures("visits")
def test_containers_started_and_restarted_between_crashes_heal(node: Node, heal: Healing):
    data = node.dataset("demo")
    pod = node.pod()
    target = heal.publish(pod, data)
    first = pod.container("first", {"/data": target})

    heal.crash(data)
    second = pod.container("second", {"/data": target}, Propagation.NONE)
    first.close()
    first = pod.container("first", {"/data": target})
    heal.crash(data)

    assert shown(first.sees, "/data").read_only
    assert shown(second.sees, "/data").read_only


def test_a_crash_under_an_init_container_leaves_nothing_for_the_main_one(node: Node, heal: Healing):
    data = node.dataset("demo")
    pod = node.pod()
    target = heal.publish(pod, data)
    init = pod.container("init", {"/data": target})

    heal.crash(data)
    seen_by_init = init.sees.names("/data")
    init.close()
    main = pod.container("main", {"/data": target})

    assert seen_by_init == {"a.txt"}
    assert shown(main.sees, "/data").read_only


@pytest.mark.usefixtures("visits")
def test_a_container_that_is_being_started_during_the_heal_heals(node: Node, heal: Healing):
    data = node.dataset("demo")
    pod = node.pod()
    target = heal.publish(pod, data)

    for number in range(6):  # each starts at another moment of the crash
        with ThreadPoolExecutor() as threads:
            starting = threads.submit(
                pod.container, f"c{number}", {"/data": target}, Propagation.NONE
            )
            threading.Event().wait(number * 0.004)
            heal.crash(data)
            container = starting.result()
        heal.await_whole(data, container.sees, "/data")


def test_datasets_that_crash_together_heal_together(node: Node, heal: Healing):
    datasets = [node.dataset(name) for name in ("one", "two", "three")]
    pod = node.pod()
    volumes = {f"/{n}": heal.publish(pod, data) for n, data in enumerate(datasets)}
    main = pod.container("main", volumes)

    for data in datasets:
        data.daemon.kill()
    for data in datasets:
        data.daemon.restart()
    for data in datasets:
        heal.healed(data)

    assert all(whole(node, main.sees, f"/{n}", data) for n, data in enumerate(datasets))


def test_only_the_dataset_that_crashed_is_touched(node: Node, heal: Healing):
    crashed, other = node.dataset("crashed"), node.dataset("other")
    pod = node.pod()
    target = heal.publish(pod, other)
    main = pod.container("main", {"/a": heal.publish(pod, crashed), "/b": target})
    before = node.sees.layers(target), main.sees.layers("/b")

    heal.crash(crashed)

    assert whole(node, main.sees, "/a", crashed)
    assert (node.sees.layers(target), main.sees.layers("/b")) == before


def test_a_nested_mount_root_is_no_obstacle(node: Node, heal: Healing):
    data = node.dataset("demo", runtime="deep/nested/thin")
    main = node.pod().container("main", {"/data": heal.publish(node.pod(), data)})

    heal.crash(data)

    assert whole(node, main.sees, "/data", data)


@pytest.mark.usefixtures("visits")
@pytest.mark.timeout(180)
@pytest.mark.parametrize("stack", [False, True])
def test_sixty_crashes_leave_two_layers_at_the_most(node: Node, heal: Healing, *, stack: bool):
    data = node.dataset("demo", files={"sub/b.txt": b"1"})
    pod = node.pod()
    target = heal.publish(pod, data)
    place = pod.subpath(target, "sub")
    slave = pod.container("slave", {"/data": target, "/sub": place})
    private = pod.container("private", {"/data": target, "/sub": place}, Propagation.NONE)
    heal.crash(data, stack=stack)
    inside = [len(mountinfo.read(each.pid).mounts) for each in (slave, private)]
    before = _mounts(node, data)

    for _ in range(60):
        assert heal.crash(data, stack=stack).layers == 2

    for path in ("/data", "/sub"):
        assert shown(slave.sees, path).read_only
        assert only_layer(private.sees, path).read_only
    assert shown(node.sees, target).read_only
    assert shown(node.sees, place).read_only
    assert _mounts(node, data) == before
    assert [len(mountinfo.read(each.pid).mounts) for each in (slave, private)] == inside


def _mounts(node: Node, data: Dataset) -> int:
    """Count the node's mounts, without what the daemon stacks at its place and without anchors."""
    source = str(data.volume.source)
    points = [mount.mount_point for mount in mountinfo.read(node.sees.pid)]
    return sum(point != source and not is_anchor(point) for point in points)


def test_a_daemon_that_dies_again_before_the_heal_is_healed_from_the_one_after(
    node: Node, heal: Healing
):
    data = node.dataset("demo")
    main = node.pod().container("main", {"/data": heal.publish(node.pod(), data)})

    for _ in range(10):
        data.daemon.kill()
        data.daemon.start()  # the heal races with the next death
        data.daemon.kill()
        data.daemon.start()
        heal.await_whole(data, main.sees, "/data")

    assert main.sees.names("/data") == {"a.txt"}


@pytest.mark.usefixtures("visits")
def test_a_heal_is_told_once_with_its_numbers(node: Node, heal: Healing):
    data = node.dataset("demo")
    pod = node.pod()
    pod.container("main", {"/data": heal.publish(pod, data)})

    data.daemon.kill()
    until(lambda: heal.ear.of(events.Broken), "the break is told")
    data.daemon.restart(0.2)
    heal.healed(data)
    (event,) = heal.heals(data)

    assert (event.copies, event.layers, event.strategy) == (2, 2, "namespace")
    assert event.outage_s is not None
    assert event.outage_s > 0.15
    assert 0 < event.latency_s < event.outage_s
    (row,) = heal.store.heals(str(data.volume.source))
    assert (row.ok, row.copies, row.healed, row.layers) == (True, 2, 2, 2)
    assert row.latency_s == event.latency_s
