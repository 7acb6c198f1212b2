"""A publish on what stands at its target: mounts without a record, dead ones, hung ones."""

import errno
import signal
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from csi_fluid.testbed import programs
from tests.harness import Dataset, Node, pause
from tests.privileged.publishing import WORLD, Publishing, end, second_daemon
from tests.rpc.serving import refusal

pytestmark = pytest.mark.usefixtures("grpc_up")


# ---- Mounts without a record


@pytest.mark.parametrize("sub_path", ["", "sub"])
def test_an_unrecorded_mount_of_the_volume_is_recorded(
    on: Publishing, data: Dataset, sub_path: str
):
    target = on.pod.bind(data, sub_path=sub_path)
    before = on.sees.layers(target)
    on.publish(data, target, sub_path=sub_path)

    assert on.sees.layers(target) == before
    assert [(row.target, row.sub_path) for row in on.rows] == [(str(target), sub_path)]
    assert on.plugin.changed == [str(data.volume.source)]


def test_a_read_only_volume_that_was_left_writable_is_put_right(on: Publishing, writable: Dataset):
    """Fluid's own plugin does that; moving to this one must not break the pod."""
    target = on.pod.bind(writable, read_only=False)
    on.publish(writable, target, read_only=True)

    (layer,) = on.sees.layers(target)
    assert layer.read_only
    assert on.sees.names(target) == WORLD


def test_an_unrecorded_mount_of_something_else_is_refused(on: Publishing, writable: Dataset):
    target = on.pod.bind(writable, read_only=True)
    before = on.sees.layers(target)
    for changes in ({"sub_path": "sub", "read_only": True}, {"read_only": False}):
        with refusal(grpc.StatusCode.ALREADY_EXISTS):
            on.publish(writable, target, **changes)

    assert on.sees.layers(target) == before
    assert on.rows == ()


def test_a_mount_of_another_file_system_is_refused(on: Publishing, data: Dataset):
    on.target.mkdir()
    programs.run("mount", "-t", "tmpfs", "theirs", on.target)
    with refusal(grpc.StatusCode.ALREADY_EXISTS) as refused:
        on.publish(data)

    assert "tmpfs" in refused.message
    assert [layer.fs_type for layer in on.layers] == ["tmpfs"]


def test_an_unrecorded_dead_mount_is_replaced(on: Publishing, data: Dataset):
    target = on.pod.bind(data)
    data.daemon.kill()
    data.daemon.restart()
    on.publish(data, target)

    assert on.sees.names(target) == WORLD
    assert len(on.sees.layers(target)) == 1


# ---- Repairing


@pytest.mark.parametrize("stack", [False, True])
def test_a_dead_target_is_repaired(on: Publishing, data: Dataset, stack: bool):
    on.publish(data)
    rows = on.rows
    data.daemon.kill()
    assert on.sees.error(on.target) == errno.ENOTCONN
    data.put("new.txt", b"3")
    data.daemon.restart(stack=stack)
    on.publish(data)

    (layer,) = on.layers
    assert on.sees.names(on.target) == {*WORLD, "new.txt"}
    assert layer.read_only
    assert on.rows == rows


def test_a_dead_sub_path_is_repaired(on: Publishing, data: Dataset):
    on.publish(data, sub_path="sub")
    data.daemon.kill()
    data.daemon.restart()
    on.publish(data, sub_path="sub")

    assert on.sees.names(on.target) == {"b.txt"}
    assert len(on.layers) == 1


def test_no_crash_ever_shows_the_bare_directory(on: Publishing, data: Dataset):
    """Neither where a publish repairs, nor where the repair arrives by propagation."""
    inside = Path("/pods", on.target.relative_to(on.node.machine.kubelet / "pods"))
    on.publish(data)
    pods = {"/pods": on.node.machine.kubelet / "pods"}
    script = 'while :; do n=$(ls "$0" 2>/dev/null) && [ -z "$n" ] && echo bare; echo look; done'
    watcher = on.pod.container("watcher", pods, command=["sh", "-c", script, str(inside)])
    for _ in range(10):
        data.daemon.kill()
        data.daemon.restart()
        on.publish(data)
        assert watcher.sees.names(inside) == WORLD
        assert (len(on.layers), len(watcher.sees.layers(inside))) == (1, 1)
    end(watcher)

    lines = list(watcher.lines())
    assert lines.count("look") > 10
    assert "bare" not in lines


def test_a_hung_target_is_repaired_when_a_new_daemon_mounts(
    on: Publishing, data: Dataset, node: Node
):
    on.publish(data)
    on.hang(data)
    with refusal(grpc.StatusCode.UNAVAILABLE):
        on.publish(data)
    second = second_daemon(node, data)
    second.start(stack=True)
    try:
        on.publish(data)

        assert on.sees.names(on.target) == WORLD
        assert len(on.layers) == 1
    finally:
        data.daemon.kill(signal.SIGKILL)
        second.close()


def test_a_live_old_generation_is_replaced_when_published_again(
    on: Publishing, data: Dataset, node: Node
):
    on.publish(data)
    second = second_daemon(node, data)
    second.start(stack=True)
    on.publish(data)
    data.daemon.kill()
    try:
        assert on.sees.names(on.target) == WORLD
        assert len(on.layers) == 1
    finally:
        second.close()


def test_a_stack_of_dead_mounts_becomes_one_layer(on: Publishing, data: Dataset):
    """As Fluid's own recovery leaves them."""
    on.publish(data)
    for _ in range(4):
        data.daemon.kill()
        data.daemon.restart()
        programs.run("mount", "--bind", data.volume.source, on.target)
    data.daemon.kill()
    data.daemon.restart()
    assert len(on.layers) == 5
    on.publish(data)

    assert on.sees.names(on.target) == WORLD
    assert len(on.layers) == 1


def test_publishing_over_a_dead_target_waits_for_the_daemon(on: Publishing, data: Dataset):
    on.publish(data)
    data.daemon.kill()
    with futures.ThreadPoolExecutor(1) as pool:
        call = pool.submit(on.publish, data)
        pause(0.2)
        assert not call.done()
        data.daemon.restart()
        call.result(5)

    assert on.sees.names(on.target) == WORLD
