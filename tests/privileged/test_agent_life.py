"""The agent begins, is looked at by kubelet, ends; and what stays on the node afterwards."""

import os
import signal
import socket
import time
import urllib.request
from pathlib import Path

import pytest

from csi_fluid.testbed import programs
from csi_fluid.testbed.serverless import LEAF, MOUNT_POINT, Client
from recover.anchors.anchor import FOLDER
from tests.harness import Node, Propagation, pause, until
from tests.privileged.serverless import ServerlessPod, serverless


def test_the_deletion_of_the_pod_leaves_no_mount_on_the_node(node: Node):
    with serverless(node, Client.UNMOUNTS, datasets=2) as pod:
        app = pod.start()
        pod.await_anchors(1)
        pod.crash()
        pod.await_whole(app)
        pod.await_anchors(2)
        folder = pod.data[0].parent / FOLDER
        (folder / pod.identity / LEAF / "3").mkdir()  # of an agent that was killed before it bound
        before = time.monotonic()

        pod.delete()

        assert time.monotonic() - before < 10
        assert not pod.left_on_the_node
        assert not folder.exists()


def test_the_end_of_the_agent_alone_takes_nothing_from_the_applications(node: Node):
    with serverless(node, Client.UNMOUNTS) as pod:
        app = pod.start()
        pod.await_anchors(1)
        pod.crash()
        pod.await_whole(app)

        pod.agent.end()

        assert app.sees.error("/data0") == 0
        assert len(pod.anchors()) == 2
        assert pod.agent.container.status == 143  # so that in a Job, too, it is started again


def test_while_the_daemon_serves_the_deletion_of_the_pod_takes_nothing(node: Node):
    """Healed once, the application sees its data through an anchor's group, and may be at work."""
    with serverless(node, Client.UNMOUNTS) as pod:
        app = pod.start()
        pod.await_anchors(1)
        pod.crash()
        pod.await_whole(app)
        pod.leave()

        os.kill(pod.agent.container.pid, signal.SIGTERM)
        until(lambda: pod.said("stopping on SIGTERM"), "the agent is ending")
        pause(0.5)
        assert app.sees.error("/data0") == 0
        pod.data[0].kill(signal.SIGTERM)
        until(lambda: not pod.agent.container.alive, "the agent to end")

        assert not pod.anchors()


def test_the_deletion_of_a_pod_whose_daemon_hangs_ends_in_time(node: Node):
    with serverless(node, Client.UNMOUNTS, options=["--probe-timeout=1s"]) as pod:
        pod.start()
        pod.await_anchors(1)
        pod.data[0].kill(signal.SIGSTOP)
        before = time.monotonic()

        pod.leave()
        os.kill(pod.agent.container.pid, signal.SIGTERM)
        until(lambda: has_ended(pod), f"the agent to end: {pod.agent.said}")

        assert time.monotonic() - before < 10
        assert not pod.anchors()
        pod.data[0].kill(signal.SIGKILL)
        until(lambda: not pod.agent.container.alive, "its container to end")


def has_ended(pod: ServerlessPod) -> bool:
    """Tell whether an agent is gone, or all of it but who asks a daemon that has read the question.

    The kernel keeps the first process of a PID namespace, empty, until all others have gone.
    """
    try:
        return not Path(f"/proc/{pod.agent.container.pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_the_deletion_of_a_pod_takes_nothing_from_another_one_of_its_host_name(node: Node):
    """kubelet cuts host names at 63 characters, and pods on the node's network have the node's."""
    with (
        serverless(node, Client.STACKS, name="worker") as leaving,
        serverless(node, Client.STACKS, name="worker") as staying,
    ):
        leaving.start()
        leaving.await_anchors(1)
        app = staying.start()
        staying.await_anchors(1)

        leaving.leave()
        leaving.agent.end()
        staying.crash()
        staying.await_whole(app)
        staying.agent.end()

        assert staying.agent.container.status == 143  # 0 where it was told that its pod is over
        assert staying.anchors()
        assert not leaving.anchors()


def test_an_agent_of_an_old_pod_goes_on_with_what_is_kept_under_the_host_name(node: Node):
    """The image of a running pod may be changed, its environment may not."""
    with serverless(node, Client.UNMOUNTS, uid="") as pod:
        app = pod.start()
        pod.await_anchors(1)
        pod.agent.end()
        pod.crash()

        pod.agent.start()
        pod.await_whole(app)
        pod.await_anchors(2)
        assert pod.said("POD_UID is not set")
        pod.delete()

        assert not pod.left_on_the_node


def test_an_agent_that_is_started_again_is_in_a_pod_that_goes_on(node: Node):
    with serverless(node, Client.UNMOUNTS) as pod:
        pod.start()
        pod.await_anchors(1)
        pod.leave()
        pod.agent.end(signal.SIGKILL)  # before it could do what it was told

        pod.agent.start()
        pod.agent.end()

        assert len(pod.anchors()) == 1


def test_the_health_file_is_there_while_the_agent_works(node: Node):
    file = node.machine.image.folder / "tmp" / "healthy"
    with serverless(node, Client.UNMOUNTS, options=["--health-file=/tmp/healthy"]) as pod:
        pod.start()
        until(file.exists, "the agent to say that it works")

        pod.agent.end()

        assert not file.exists()


def test_the_metrics_count_what_the_agent_does(node: Node):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def metrics() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    with serverless(node, Client.UNMOUNTS, options=[f"--metrics-addr=127.0.0.1:{port}"]) as pod:
        pod.start()
        pod.await_anchors(1)
        assert 'csi_fluid_publications{state="healthy"} 1' in metrics()

        pod.data[0].kill()
        until(lambda: 'csi_fluid_publications{state="broken"} 1' in metrics(), "it is seen")
        pod.data[0].start()

        healed = 'csi_fluid_heals_total{result="healed",strategy="anchor"} 1'
        until(lambda: healed in metrics(), "the heal is counted")
        assert 'csi_fluid_heal_seconds_count{strategy="anchor"} 1' in metrics()
        assert f'csi_fluid_layers{{source="{MOUNT_POINT}"}} 2' in metrics()


def test_an_agent_that_was_told_to_leave_ends_without_a_signal(node: Node):
    """As in a Job, whose end is told by the preStop hook alone."""
    with serverless(node, Client.UNMOUNTS) as pod:
        pod.start()
        pod.await_anchors(1)
        pod.data[0].kill(signal.SIGTERM)

        pod.leave()

        until(lambda: not pod.agent.container.alive, "the agent to end", timeout_s=20)
        assert not pod.left_on_the_node
        assert pod.agent.container.status == 0  # so that the Job is complete


def test_what_a_pod_unmounts_as_it_ends_is_not_put_back(node: Node):
    with serverless(node, Client.UNMOUNTS, options=["--period=20ms"]) as pod:
        pod.start()
        pod.await_anchors(1)

        programs.run("umount", "-l", pod.data[0].host_path)  # as the sidecar's preStop hook does
        pause(0.5)
        pod.leave()

        until(lambda: not pod.agent.container.alive, "the agent to end", timeout_s=20)
        assert not pod.said("mounted again")
        assert not pod.left_on_the_node


def test_an_agent_that_does_not_work_is_not_told_to_leave(node: Node):
    """As when kubelet replaces it because its probe failed: the application goes on."""
    file = node.machine.image.folder / "tmp" / "healthy"
    with serverless(node, Client.UNMOUNTS, options=["--health-file=/tmp/healthy"]) as pod:
        pod.start()
        pod.await_anchors(1)
        until(file.exists, "the agent to say that it works")
        file.unlink()

        pod.leave()
        pod.agent.end()

        assert len(pod.anchors()) == 1


def test_an_agent_without_bidirectional_propagation_says_so(node: Node):
    with serverless(node, Client.UNMOUNTS) as pod:
        pod.agent.propagation = Propagation.HOST_TO_CONTAINER
        pod.start()

        until(lambda: pod.said("mountPropagation: Bidirectional"), f"{pod.agent.said}")
        assert not pod.anchors()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_agent_ends_at_once(node: Node, number: signal.Signals):
    with serverless(node, Client.UNMOUNTS) as pod:
        pod.start()
        pod.await_anchors(1)
        before = time.monotonic()

        pod.agent.end(number)

        assert time.monotonic() - before < 2
