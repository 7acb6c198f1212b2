"""`csi-fluid status`, `recover` and `doctor` on a node with real daemons and containers."""

import errno
import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from csi_fluid.testbed.plugin import Plugin
from tests.harness import Dataset, Node, Propagation, until


def run(node: Node, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command as somebody on the node does."""
    machine = node.machine
    environ = {"MOUNT_ROOT": str(machine.mount_root), "KUBELET_ROOTDIR": str(machine.kubelet)}
    return subprocess.run(
        [sys.executable, "-m", "csi_fluid", *words],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def status(node: Node, *options: str) -> dict[str, Any]:
    done = run(node, "status", "--json", "--strategy=namespace", *options)
    assert done.returncode == 0, done.stderr
    (dataset,) = json.loads(done.stdout)["datasets"]
    return dict(dataset)


def crash(data: Dataset) -> None:
    """Kill the daemon and start another."""
    data.daemon.kill()
    data.daemon.restart()


def down(plugin: Plugin) -> None:
    """End the plugin, so that nothing heals but what the test runs."""
    assert plugin.stop() == 0


@pytest.mark.usefixtures("visits")
def test_status_follows_a_crash_and_its_heal(node: Node):
    data, pod = node.dataset("demo"), node.pod()
    node.plugin()
    target = pod.publish(data)
    container = pod.container("main", {"/data": target}, Propagation.NONE)
    before = status(node)
    data.daemon.kill()
    until(lambda: container.sees.error("/data") == errno.ENOTCONN, "it is broken")
    during = status(node)
    data.daemon.restart()
    until(lambda: container.sees.error("/data") == 0, "it is healed")
    until(lambda: status(node)["last_heal"], "the heal is recorded")
    after = status(node)

    assert before["state"] == "healthy"
    assert before["healthy"] == before["copies"] >= 2  # the target and the container's
    assert (during["state"], during["healthy"], during["copies"]) == (
        "broken, waiting for FUSE", 0, 2,
    )  # fmt: skip
    assert "Look at the FUSE pod" in during["advice"]
    assert (after["state"], after["layers"]) == ("healthy", 2)
    assert after["healthy"] == after["copies"] >= 2
    assert after["last_heal"]["latency_s"] > 0


@pytest.mark.usefixtures("visits")
def test_recover_heals_what_broke_while_the_plugin_is_down(node: Node):
    data, pod = node.dataset("demo"), node.pod()
    plugin = node.plugin()
    container = pod.container("main", {"/data": pod.publish(data)}, Propagation.NONE)
    down(plugin)
    crash(data)
    before = status(node)
    done = run(node, "recover", "--strategy=namespace", "default/demo")

    assert before["state"] == "broken, FUSE is back"
    assert (done.returncode, done.stderr) == (0, "")
    assert "healed 2 copies" in done.stdout
    assert container.sees.names("/data") == {"a.txt"}
    assert status(node)["state"] == "healthy"
    plugin.start()  # so that the pod can be unpublished


def test_a_dry_run_tells_each_step_and_touches_nothing(node: Node):
    data, pod = node.dataset("demo"), node.pod()
    plugin = node.plugin()
    target = pod.publish(data)
    down(plugin)
    crash(data)
    before = node.sees.layers(target)
    done = run(node, "recover", "--dry-run", "--strategy=namespace")
    plan = done.stdout.splitlines()

    assert done.returncode == 0
    assert plan[0] == "default/demo: broken, FUSE is back"
    assert plan[1].startswith(f"  1. mount a read-only copy of {data.volume.source} as anchor ")
    assert "on anchor" in plan[2]
    assert node.sees.layers(target) == before
    assert node.sees.error(target) == errno.ENOTCONN
    plugin.start()


@pytest.mark.usefixtures("visits")
def test_recover_beside_a_running_plugin_leaves_one_layer(node: Node):
    data, pod = node.dataset("demo"), node.pod()
    node.plugin()
    container = pod.container("main", {"/data": pod.publish(data)}, Propagation.NONE)
    for _ in range(3):
        crash(data)
        run(node, "recover", "--strategy=namespace")
    until(lambda: container.sees.error("/data") == 0, "it is healed")

    assert len(container.sees.layers("/data")) == 1


def test_a_hung_daemon_costs_status_no_more_than_the_probe_timeout(node: Node):
    data, pod = node.dataset("demo"), node.pod()
    node.plugin()
    pod.publish(data)
    data.daemon.kill(signal.SIGSTOP)
    state = status(node, "--probe-timeout=500ms")["state"]
    data.daemon.kill(signal.SIGCONT)

    assert state == "hung: FUSE does not answer"


@pytest.mark.usefixtures("visits")
def test_doctor_finds_all_that_this_machine_has(node: Node):
    node.plugin()
    done = run(node, "doctor", "--json")
    verdicts = {finding["what"]: finding["verdict"] for finding in json.loads(done.stdout)}

    assert done.returncode == 0
    assert verdicts["move_mount"] == "ok"
    assert verdicts[f"kubelet's directory {node.machine.kubelet}"] == "ok"
    assert verdicts[f"plugin at unix:{node.machine.socket}"] == "ok"


def test_a_trial_publishes_crashes_heals_and_leaves_nothing(node: Node):
    plugin, machine = node.plugin(), node.machine

    socket, state = f"--endpoint=unix://{machine.socket}", f"--state={machine.state}"
    done = run(node, "trial", socket, state)

    assert done.returncode == 0, f"{done.stdout}{done.stderr}{plugin.words}"
    assert "healed" in done.stdout
    assert list(machine.mount_root.iterdir()) == []
    assert not machine.state.with_name("trial").exists()
    assert status_of(node) == []


def status_of(node: Node) -> list[Any]:
    return list(json.loads(run(node, "status", "--json").stdout)["datasets"])
