"""The gate SeamlessRecovery on a cluster: applications wait for the daemon, and see no error."""

import functools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import serverlesspods
from tests.cluster.cluster import Cluster
from tests.cluster.fluid import Fluid, application
from tests.cluster.fluidobjects import Spec
from tests.cluster.page import NOT_CONNECTED, Page
from tests.cluster.plugin import Plugin
from tests.cluster.scene import Scene
from tests.cluster.waiting import wait_for
from tests.cluster.walk import WALKTHROUGH, Walk, as_fluid_has_it, start_the_app

# Whatever fails is written down; descriptor 3 is opened before the first crash.
READER = (
    "exec 3</data/sub; cd /data; while :; do "
    "{ cat /data/hello && cat hello && ls -l /data/sub && ls /proc/self/fd/3/; } "
    ">/dev/null 2>>/tmp/errors || echo failed >>/tmp/errors; echo >>/tmp/rounds; sleep 0.1; done"
)
SIZE_MIB = 256
# Kubelet's own back-off: 10, 20, 40 s; else 1 s.  It takes a minute more.
PATIENT = bool(os.environ.get("SEAMLESS_BACKOFF"))


@pytest.fixture
def plugin(image: Plugin) -> Plugin:
    """Deploy the plugin with the gate, and a holder and a reader beside it."""
    image.deploy("overlays/seamless")
    return image


@pytest.fixture
def backing_off(cluster: Cluster) -> Iterator[None]:
    """Have kubelet's own back-off where that is asked for."""
    before = cluster.kubelet_settings.max_restart_period
    if PATIENT:
        cluster.restart_kubelet(max_restart_period=None)
    yield
    if PATIENT:
        cluster.restart_kubelet(max_restart_period=before)


def start(scene: Scene, command: str) -> None:
    """Start the application with a command of its own."""
    scene.create("app", command=command, propagation="HostToContainer")
    scene.cluster.wait_ready("app", scene.spec.namespace)


def in_pod(scene: Scene, name: str, script: str) -> str:
    command = (name, "sh", "-c", script)
    return str(
        scene.cluster.execute(*command, namespace=scene.spec.namespace, check=False, timeout_s=30)
    ).strip()


def rounds(scene: Scene) -> int:
    return int(in_pod(scene, "app", "wc -l </tmp/rounds") or 0)


def crash(scene: Scene, number: signal.Signals) -> None:
    """End the daemon, and return when kubelet has another one and the application goes on."""
    pod, container = scene.daemon_pod, scene.fluid.fuse_container(scene.spec)
    before = scene.daemon_restarts()
    scene.cluster.kill_container(pod, container, number, namespace=scene.spec.namespace)
    wait_for(lambda: scene.daemon_restarts() > before, "the next daemon", 60)
    passed = rounds(scene)
    wait_for(lambda: rounds(scene) > passed + 3, "the application to go on", 60)


def test_an_application_reads_through_crashes_and_an_upgrade_without_an_error(
    plugin: Plugin, scene: Scene
):
    start(scene, READER)
    wait_for(lambda: rounds(scene) > 3, "the application to read")

    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        crash(scene, number)
    plugin.kill()
    plugin.await_rollout()
    crash(scene, signal.SIGKILL)

    assert in_pod(scene, "app", "cat /tmp/errors 2>/dev/null") == ""
    assert scene.restarts("app") == 0


def test_a_checksum_over_a_crash_is_right(plugin: Plugin, scene: Scene):
    where = f"{scene.spec.source}/big"
    made = f"head -c {SIZE_MIB}m /dev/urandom >{where}; sha256sum <{where}"
    wanted = scene.cluster.enter("sh", "-c", made, timeout_s=60)
    # Block by block and not too fast, so that the crash falls into it.
    job = (
        f"i=0; while [ $i -lt {SIZE_MIB} ]; do dd if=/data/big bs=1M skip=$i count=1 2>/dev/null "
        "|| echo failed >>/tmp/errors; i=$((i+1)); echo >>/tmp/rounds; sleep 0.05; done "
        "| sha256sum >/tmp/sum"
    )
    start(scene, f"sleep 1; {job}; sleep infinity")
    wait_for(lambda: rounds(scene) > 0, "the job to begin")

    pod, container = scene.daemon_pod, scene.fluid.fuse_container(scene.spec)
    scene.cluster.kill_container(pod, container, namespace=scene.spec.namespace)
    assert rounds(scene) < SIZE_MIB, "the crash came too late"
    wait_for(lambda: in_pod(scene, "app", "cat /tmp/sum"), "the end of the job", 120)

    assert in_pod(scene, "app", "cat /tmp/sum") == wanted.strip()
    assert in_pod(scene, "app", "cat /tmp/errors 2>/dev/null") == ""


TRAINS = (  # block by block by one descriptor, and the last ones when all crashes have come
    "exec 3</data/big 4>&1; i=0; while [ $i -lt 1024 ]; do "
    "until [ $i -lt 900 ] || [ -e /tmp/crashed ]; do sleep 0.1; done; "
    "dd bs=1M count=1 <&3 2>/tmp/said || { echo block $i; cat /tmp/said; date; } >&4; "
    "i=$((i+1)); echo $i >/tmp/blocks; sleep 0.02; done | sha256sum"
)


@pytest.mark.timeout(400)
def test_a_job_reads_a_gibibyte_through_three_crashes(
    plugin: Plugin, scene: Scene, backing_off: None
):
    cluster, namespace = scene.cluster, scene.spec.namespace
    where = f"{scene.spec.source}/big"
    made = f"head -c 1024m /dev/urandom >{where}; sha256sum <{where}"
    wanted = cluster.enter("sh", "-c", made, timeout_s=120).strip()
    pod = application("train", scene.spec.name, command=TRAINS, propagation="HostToContainer")
    pod["metadata"]["annotations"] = {}
    cluster.apply(serverlesspods.job("train", pod, "Never"), namespace=namespace)
    name = wait_for(lambda: [n for n in names(scene) if n.startswith("train-")], "its pod")[0]

    for number in range(3):
        least = 20 * (number + 1)
        wait_for(functools.partial(has_read, scene, name, least), "the job to read", 120)
        crash_only(scene)
    in_pod(scene, name, "touch /tmp/crashed")

    def status() -> dict[str, int]:
        return dict(cluster.get("job", "train", namespace)["status"])

    wait_for(lambda: {"succeeded", "failed"} & status().keys(), "the end of the job", 180)
    assert status().get("succeeded") == 1
    assert cluster.kubectl("logs", name, "-n", namespace).strip() == wanted
    assert scene.restarts(name) == 0


def names(scene: Scene) -> list[str]:
    return [pod["metadata"]["name"] for pod in scene.pods()]


def blocks(scene: Scene, name: str) -> int:
    return int(in_pod(scene, name, "cat /tmp/blocks 2>/dev/null") or 0)


def has_read(scene: Scene, name: str, least: int) -> bool:
    return blocks(scene, name) > least


def crash_only(scene: Scene) -> None:
    """End the daemon, and return when kubelet has another one."""
    before = scene.daemon_restarts()
    scene.crash()
    wait_for(lambda: scene.daemon_restarts() > before, "the next daemon", 120)


@pytest.mark.timeout(400)
def test_the_walk_through_shows_no_error(
    cluster: Cluster,
    plugin: Plugin,
    fluid: Fluid,
    walked: Spec,
    folder: Path,
    backing_off: None,
):
    walk = Walk(cluster, Page(WALKTHROUGH), folder, as_fluid_has_it)
    for part in ("sed 's/Fuse", "rollout status", "grep FuseRecovery"):
        walk.leave_out(part)
    start_the_app(walk, fluid, walked)

    with walk.terminal("while true; do ls -l /data; sleep 1; done") as loop:
        loop.await_more("hello.txt")
        walk.type("grep nodeName")
        found = walk.find_pod("role=jindofs-fuse", "demo-dataset-jindofs-fuse").split()
        daemon = next(word for word in found if word.startswith("demo-dataset-jindofs-fuse"))
        for number in range(3):
            if number:
                walk.again()
            else:
                walk.type("kill 1")
            wait_for(functools.partial(has_restarted, cluster, daemon, number), "its return", 60)
            loop.await_more("hello.txt")

    shown = loop.shown()
    assert NOT_CONNECTED not in shown
    assert [line for line in shown.splitlines() if line.startswith(("ls:", "command"))] == []
    assert restarts(cluster, "demo-app") == 0


def restarts(cluster: Cluster, pod: str) -> int:
    status = cluster.get("pod", pod, "default")["status"]
    return sum(each["restartCount"] for each in status["containerStatuses"])


def has_restarted(cluster: Cluster, pod: str, before: int) -> bool:
    return restarts(cluster, pod) > before


def test_a_pod_that_waits_can_be_deleted(plugin: Plugin, scene: Scene):
    start(scene, READER)
    scene.take_down()

    scene.delete("app")

    wait_for(lambda: scene.gone("app"), "the end of the pod", 60)
    scene.bring_back()
