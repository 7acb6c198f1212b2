"""Recovery stops in time, leaves all mounts, and the next start goes on from what it finds."""

import errno
import signal
import threading
from pathlib import Path

import pytest

from recover import events
from tests import sandbox
from tests.harness import Node, Propagation, until
from tests.privileged.healing import Healing, healing, shown, whole

STOP_S = 5.0  # what SIGTERM allows


def test_at_rest_a_restart_touches_nothing(node: Node, heal: Healing):
    data = node.dataset("demo")
    target = heal.publish(node.pod(), data)
    main = node.pod().container("main", {"/data": target})
    before = shown(node.sees, target), shown(main.sees, "/data")

    assert heal.stop() < STOP_S
    heal.start()
    heal.await_looked(data)

    assert (shown(node.sees, target), shown(main.sees, "/data")) == before
    assert not heal.ear.of(events.Broken)
    heal.crash(data)
    assert whole(node, main.sees, "/data", data)


@pytest.mark.usefixtures("visits")
@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.parametrize("crashes", [1, 3])
def test_what_broke_while_nobody_watched_is_healed_at_the_start(
    node: Node, heal: Healing, crashes: int, *, stack: bool
):
    data = node.dataset("demo")
    pod = node.pod()
    target = heal.publish(pod, data)
    slave = pod.container("slave", {"/data": target})
    private = pod.container("private", {"/data": target}, Propagation.NONE)
    heal.await_looked(data)

    heal.stop()
    for _ in range(crashes):
        data.daemon.kill()
        data.daemon.restart(stack=stack)
    heal.start()
    heal.healed(data)

    for view, path in ((node.sees, target), (slave.sees, "/data"), (private.sees, "/data")):
        heal.await_whole(data, view, path)
        assert shown(view, path).read_only


def test_a_start_while_the_daemon_is_down_heals_when_it_is_back(node: Node, heal: Healing):
    data = node.dataset("demo")
    main = node.pod().container("main", {"/data": heal.publish(node.pod(), data)})

    heal.stop()
    data.daemon.kill()
    heal.start()
    until(lambda: heal.ear.of(events.Broken), "the break is told")
    assert main.sees.error("/data") == errno.ENOTCONN
    data.daemon.restart()
    heal.healed(data)

    assert whole(node, main.sees, "/data", data)


def test_a_stop_while_broken_leaves_the_mounts(node: Node, heal: Healing):
    data = node.dataset("demo")
    target = heal.publish(node.pod(), data)
    data.daemon.kill()
    until(lambda: heal.ear.of(events.Broken), "the break is told")

    assert heal.stop() < STOP_S

    assert node.sees.error(target) == errno.ENOTCONN
    heal.start()
    data.daemon.restart()
    heal.healed(data)


def test_a_lost_state_file_is_made_again_from_the_mounts(node: Node, heal: Healing):
    data = node.dataset("demo", files={"sub/b.txt": b"1"})
    pod = node.pod()
    target = heal.publish(pod, data, sub_path="sub")
    main = pod.container("main", {"/data": target})
    heal.close()
    for path in node.machine.state.parent.iterdir():
        path.unlink()

    with healing(node) as again:
        (row,) = again.store.publications()
        assert (row.target, row.sub_path, row.read_only) == (str(target), "sub", True)
        again.crash(data)
        assert whole(node, main.sees, "/data", data)
        assert main.sees.names("/data") == {"b.txt"}


@pytest.mark.parametrize("moment_s", [0.0, 0.002, 0.005, 0.01, 0.03])
def test_a_stop_during_a_heal_is_finished_by_the_next_start(
    node: Node, heal: Healing, moment_s: float
):
    data = node.dataset("demo")
    pod = node.pod()
    targets = [heal.publish(node.pod(str(n)), data) for n in range(40)]
    main = pod.container("main", {"/data": targets[0], "/other": targets[1]})

    data.daemon.kill()
    data.daemon.restart()
    threading.Event().wait(moment_s)
    assert heal.stop() < STOP_S
    heal.start()

    for target in targets:
        heal.await_whole(data, node.sees, target)
    heal.await_whole(data, main.sees, "/data")
    heal.await_whole(data, main.sees, "/other")


def test_a_stop_while_a_daemon_hangs_is_in_time(node: Node):
    with healing(node, probe_timeout_s=1.0, period_s=0.1) as heal:
        data = node.dataset("demo")
        pod = node.pod()
        pod.container("main", {"/data": heal.publish(pod, data)})

        data.daemon.kill(signal.SIGSTOP)
        heal.await_ticks(2)
        took_s = heal.stop()

        assert took_s < STOP_S
        data.daemon.kill(signal.SIGCONT)
        until(lambda: heal.prober.abandoned == 0, "the given-up threads end")


def test_twenty_lives_leave_no_descriptor_and_no_thread(node: Node, heal: Healing):
    data = node.dataset("demo")
    target = heal.publish(node.pod(), data)
    heal.crash(data)
    heal.stop()
    before = sandbox.Traces.of_process()

    for _ in range(20):
        heal.start()
        heal.await_looked(data)
        heal.stop()

    assert sandbox.settle(lambda: sandbox.Traces.of_process().left_since(before)) == []
    assert whole(node, node.sees, target, data)


@pytest.mark.usefixtures("visits")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_plugin_that_ended_is_followed_by_one_that_heals(node: Node, number: signal.Signals):
    data = node.dataset("demo")
    plugin = node.plugin()
    pod = node.pod()
    target = pod.publish(data)
    main = pod.container("main", {"/data": target}, Propagation.NONE)

    if number is signal.SIGTERM:
        assert plugin.stop() == 0
    plugin.kill()
    data.daemon.kill()
    data.daemon.restart()
    dead = main.sees.error("/data")
    plugin.start()

    assert dead == errno.ENOTCONN
    until(lambda: whole(node, main.sees, "/data", data), "the container is healed")
    until(lambda: whole(node, node.sees, target, data), "the target is healed")
    assert Path(target).is_dir()
