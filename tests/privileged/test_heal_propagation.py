"""Where other mount namespaces cannot be entered, a mount on top of the dead one is passed on."""

import errno
import signal
from pathlib import Path

import pytest

from tests.harness import Node, Propagation, View
from tests.privileged.healing import Healing

pytestmark = pytest.mark.parametrize("heal", ["propagation"], indirect=True)
RESTARTS = pytest.mark.parametrize(
    "stack", [False, True], ids=["after unmounting", "on top of the dead mount"]
)


def layers(view: View, path: str | Path) -> int:
    """Return how many mounts stand at a path; fail unless it answers and shows a read-only one."""
    stack = view.layers(path)
    assert view.error(path) == 0
    assert stack[-1].read_only
    return len(stack)


@RESTARTS
def test_the_target_and_its_slaves_get_the_new_mount(node: Node, heal: Healing, *, stack: bool):
    data = node.dataset("demo")
    pod = node.pod()
    target = heal.publish(pod, data)
    main = pod.container("main", {"/data": target})
    before = main.sees.layers("/data")[0].options

    data.put("b.txt", b"2")
    event = heal.crash(data, stack=stack)

    assert (event.strategy, event.layers) == ("propagation", 2)
    assert (layers(node.sees, target), layers(main.sees, "/data")) == (2, 2)
    assert main.sees.layers("/data")[-1].options == before
    assert main.sees.names("/data") == {"a.txt", "b.txt"}


@RESTARTS
def test_a_peer_gets_the_new_mount_once(node: Node, heal: Healing, *, stack: bool):
    data = node.dataset("demo")
    target = heal.publish(node.pod(), data)
    main = node.pod().container("main", {"/data": target}, Propagation.BIDIRECTIONAL)

    heal.crash(data, stack=stack)

    assert (layers(node.sees, target), layers(main.sees, "/data")) == (2, 2)


@RESTARTS
def test_a_subpath_bind_gets_the_part_that_it_showed(node: Node, heal: Healing, *, stack: bool):
    data = node.dataset("demo", files={"sub/b.txt": b"1"})
    pod = node.pod()
    place = pod.subpath(heal.publish(pod, data), "sub")
    main = pod.container("main", {"/data": place})

    heal.crash(data, stack=stack)

    assert node.sees.names(place) == {"b.txt"}
    assert main.sees.names("/data") == {"b.txt"}
    assert layers(main.sees, "/data") == 2


def test_a_container_that_never_asked_for_propagation_is_not_reached(node: Node, heal: Healing):
    data = node.dataset("demo")
    target = heal.publish(node.pod(), data)
    main = node.pod().container("main", {"/data": target}, Propagation.NONE)

    heal.crash(data)

    assert node.sees.error(target) == 0
    assert main.sees.error("/data") == errno.ENOTCONN


def test_a_container_keeps_its_data_through_every_crash(node: Node, heal: Healing):
    data = node.dataset("demo")
    pod = node.pod()
    target = heal.publish(pod, data)
    first = pod.container("first", {"/data": target})

    heal.crash(data)
    second = pod.container("second", {"/data": target})
    for _ in range(4):
        heal.crash(data)
        assert first.sees.error("/data") == second.sees.error("/data") == 0

    assert layers(first.sees, "/data") == layers(second.sees, "/data") == 2


def test_a_daemon_ended_by_sigterm_is_healed(node: Node, heal: Healing):
    data = node.dataset("demo")
    main = node.pod().container("main", {"/data": heal.publish(node.pod(), data)})

    data.daemon.kill(signal.SIGTERM)
    data.daemon.restart()
    heal.healed(data)

    assert layers(main.sees, "/data") == 2
