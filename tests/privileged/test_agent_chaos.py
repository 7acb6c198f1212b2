"""Daemons, agents and applications of serverless pods end and come back in any order."""

import contextlib
import functools
import random
import signal

import pytest

from csi_fluid.testbed.serverless import Client, Sidecar
from recover.anchors.anchor import FOLDER
from recover.linux import mountinfo
from tests.harness import Node, pause, until
from tests.harness.node import Container
from tests.privileged.serverless import ServerlessPod, serverless

STEPS = 12
DEEDS = ("daemon", "agent", "agent first", "daemon first", "application")


def crash(daemon: Sidecar) -> None:
    """Kill a daemon, unless it ended because it mounted on what was just being unmounted."""
    with contextlib.suppress(ProcessLookupError):
        daemon.kill()


def do(deed: str, pod: ServerlessPod, name: str) -> list[Container]:
    """End parts of a pod and start them again; return the applications that were added."""
    agent, daemon = pod.agent, pod.data[0]
    match deed:
        case "daemon":
            crash(daemon)
            daemon.start()
        case "agent":
            agent.end(signal.SIGKILL)
            agent.start()
        case "agent first":
            agent.end(signal.SIGKILL)
            crash(daemon)
            agent.start()
            daemon.start()
        case "daemon first":
            agent.end(signal.SIGKILL)
            crash(daemon)
            daemon.start()
            agent.start()
        case _:
            application = pod.app(name)
            until(lambda: is_anchored(pod, application), f"{name} to hang off an anchor")
            return [application]
    return []


def is_anchored(pod: ServerlessPod, app: Container) -> bool:
    """Tell whether what an application sees is anchored: an agent saw it while it was there."""
    folder = f"{pod.data[0].parent / FOLDER}/"
    anchored = {mount.dev for mount in mountinfo.read() if mount.mount_point.startswith(folder)}
    return app.sees.layers("/data0")[-1].dev in anchored


def reads(app: Container) -> bool:
    return not app.sees.error("/data0") and app.sees.names("/data0") == {"file0"}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("client", [Client.UNMOUNTS, Client.STACKS])
@pytest.mark.parametrize("pods", [1, 2])
def test_whatever_ends_in_whatever_order_every_application_reads_at_last(
    node: Node, client: Client, pods: int, seed: int
):
    """The two pods share a host path; of one pod alone the layers are bounded too."""
    chance = random.Random(seed)
    with contextlib.ExitStack() as ends:
        made = [
            ends.enter_context(serverless(node, client, name=name, options=["--period=50ms"]))
            for name in ("a", "b")[:pods]
        ]
        apps = [(pod, pod.start()) for pod in made]
        for pod in made:
            until(pod.anchors, f"anchors of {pod.identity}")

        for step in range(STEPS):
            pod = chance.choice(made)
            apps += [(pod, app) for app in do(chance.choice(DEEDS), pod, f"app{step}")]
            pause(chance.random() * 0.2)

        for pod in made:
            if not pod.data[0].container.alive:  # kubelet starts it again
                pod.data[0].start()
        for pod, app in apps:
            until(functools.partial(reads, app), f"it reads: {pod.agent.said[-8:]}")
            if pods == 1:
                pod.await_layers(app, 1, 2)
