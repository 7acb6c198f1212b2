"""FUSE daemons in a serverless pod die, and the agent beside them heals the applications."""

import errno
import signal

import pytest

from csi_fluid.testbed import programs
from csi_fluid.testbed.serverless import LEAF, Client
from recover.anchors.anchor import FOLDER
from tests.harness import Node, until
from tests.privileged.serverless import serverless
from tests.privileged.watching import GONE, Watch

CLIENTS = pytest.mark.parametrize(
    "client",
    list(Client),
    ids=lambda client: client.name.lower(),
)


@CLIENTS
def test_an_application_sees_its_data_again(node: Node, client: Client):
    with serverless(node, client) as pod:
        app = pod.start()
        pod.await_anchors(1)

        pod.data[0].kill()
        assert app.sees.error("/data0") == errno.ENOTCONN
        (pod.data[0].source / "later").write_bytes(b"2")
        pod.data[0].start()

        pod.await_whole(app)
        assert app.sees.names("/data0") == {"file0", "later"}
        until(lambda: pod.heals == 1, f"the heal is told: {pod.agent.said}")
        assert len(app.sees.layers("/data0")) == 2


@CLIENTS
def test_ten_crashes_leave_two_layers_and_never_show_the_bare_directory(node: Node, client: Client):
    with serverless(node, client) as pod:
        app = pod.start()
        pod.await_anchors(1)

        with Watch(app.pid, "look", "/data0") as watch:
            for number in range(2, 12):
                pod.crash()
                pod.await_whole(app)
                pod.await_anchors(number)
                pod.await_layers(app, 2)
            seen = watch.outcomes()

        assert seen - GONE == {"file0"}
        assert len(node.sees.layers(pod.data[0].host_path)) == 1


@CLIENTS
def test_containers_started_and_restarted_between_crashes_heal(node: Node, client: Client):
    with serverless(node, client) as pod:
        first = pod.start()
        pod.await_anchors(1)
        pod.crash()
        pod.await_whole(first)
        pod.await_anchors(2)
        second = pod.app("second")
        pod.crash()
        pod.await_anchors(3)
        first.close()
        again = pod.app("again")

        for app in (second, again):
            pod.await_whole(app)
        pod.crash()

        for app in (second, again):
            pod.await_whole(app)
            pod.await_layers(app, 2)


@CLIENTS
def test_an_agent_that_was_killed_finds_its_anchors_again(node: Node, client: Client):
    with serverless(node, client) as pod:
        first = pod.start()
        pod.await_anchors(1)
        pod.crash()
        pod.await_whole(first)
        pod.await_anchors(2)
        second = pod.app("second")

        for number in (signal.SIGKILL, signal.SIGTERM):
            pod.agent.end(number)
            pod.agent.start()
            pod.crash()
            for app in (first, second):
                pod.await_whole(app)
                pod.await_layers(app, 2)


@CLIENTS
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_agent_and_daemon_may_die_together(node: Node, client: Client, number: signal.Signals):
    if client is Client.STACKS and number is signal.SIGTERM:
        number = signal.SIGKILL  # its shell is deaf to the other
    with serverless(node, client) as pod:
        app = pod.start()
        pod.await_anchors(1)
        pod.crash()
        pod.await_whole(app)
        pod.await_anchors(2)

        pod.agent.end(number)
        pod.data[0].kill(number)
        pod.agent.start()
        pod.data[0].start()

        pod.await_whole(app)
        pod.await_layers(app, 2)


@pytest.mark.parametrize(
    ("client", "crashes"), [(Client.UNMOUNTS, 1), (Client.STACKS, 1), (Client.STACKS, 2)]
)
def test_a_client_may_be_back_before_the_agent(node: Node, client: Client, crashes: int):
    """Nobody clears its dead mount: what it stacks reaches the application, above the last heal."""
    with serverless(node, client) as pod:
        apps = [pod.start()]
        pod.await_anchors(1)
        pod.crash()
        pod.await_whole(apps[0])
        pod.await_anchors(2)

        for _ in range(2):
            pod.agent.end(signal.SIGKILL)
            for _ in range(crashes):
                pod.crash()
                apps.append(pod.app(f"app{len(apps)}"))
            pod.agent.start()
            for app in apps:
                pod.await_layers(app, 1, 2)

        assert len(node.sees.layers(pod.data[0].host_path)) == 1
        pod.crash()
        for app in apps:
            pod.await_layers(app, 2)


@pytest.mark.parametrize(
    ("client", "crashes"), [(Client.UNMOUNTS, 1), (Client.STACKS, 1), (Client.STACKS, 2)]
)
def test_where_no_anchor_can_be_made_the_others_heal_and_no_mount_is_lost(
    node: Node, client: Client, crashes: int
):
    """As on a full disk; here the next anchor's name would be too long."""
    with serverless(node, client) as pod:
        app = pod.start()
        pod.await_anchors(1)
        full = pod.data[0].parent / FOLDER / pod.identity / LEAF / ("9" * 255)
        full.touch()

        pod.agent.end(signal.SIGKILL)
        for _ in range(crashes):
            pod.crash()
        pod.agent.start()
        until(lambda: pod.said("File name too long"), f"it is told: {pod.agent.said}")
        until(lambda: app.sees.names("/data0") == {"file0"}, f"it reads: {pod.agent.said}")
        full.unlink()

        pod.await_layers(app, 2)
        until(lambda: len(pod.anchors()) == 1 + crashes, "the anchors to be made")


def test_a_daemon_that_ends_in_order_is_no_different(node: Node):
    with serverless(node, Client.REFUSES) as pod:
        app = pod.start()
        pod.await_anchors(1)

        pod.data[0].kill(signal.SIGTERM)
        assert not node.sees.layers(pod.data[0].host_path)
        assert app.sees.error("/data0") == errno.ENOTCONN
        pod.data[0].start()

        pod.await_whole(app)


def test_a_hung_daemon_delays_no_other_dataset(node: Node):
    with serverless(node, Client.UNMOUNTS, datasets=2, options=["--probe-timeout=20s"]) as pod:
        app = pod.start()
        pod.await_anchors(1, 0)
        pod.await_anchors(1, 1)

        pod.data[0].kill(signal.SIGSTOP)
        pod.crash(1)

        pod.await_whole(app, 1)
        assert app.sees.names("/data1") == {"file1"}
        pod.data[0].kill(signal.SIGCONT)
        pod.await_whole(app, 0)


def test_a_writable_mount_is_reported_and_left_alone(node: Node):
    with serverless(node, Client.UNMOUNTS, read_only=False) as pod:
        app = pod.start()

        pod.crash()

        until(lambda: pod.said("FuseRecoverSkipped"), f"it is told: {pod.agent.said}")
        assert app.sees.error("/data0") == errno.ENOTCONN
        assert not pod.anchors()


@CLIENTS
def test_a_writable_mount_heals_where_it_was_asked_for(node: Node, client: Client):
    with serverless(node, client, read_only=False, options=["--recover-writable"]) as pod:
        app = pod.start()
        pod.await_anchors(1)

        pod.crash()

        pod.await_whole(app)
        assert app.sees.write("/data0/new", b"1") == 0


@pytest.mark.parametrize("client", [Client.REFUSES, Client.UNMOUNTS])
def test_a_container_that_mounts_it_read_only_can_never_write(node: Node, client: Client):
    with serverless(node, client, read_only=False, suffix=":ro") as pod:
        pod.start()
        app = pod.app("reader", read_only=True)
        pod.await_anchors(1)

        with Watch(app.pid, "write", "/data0") as watch:
            for number in range(2, 8):
                pod.crash()
                pod.await_whole(app)
                pod.await_anchors(number)
            seen = watch.outcomes()

        assert seen - GONE == {"EROFS"}


def test_a_mount_that_somebody_took_away_from_a_living_daemon_is_put_back(node: Node):
    """As a pod does when it ends, with the mount of another one that shares its host path."""
    with serverless(node, Client.UNMOUNTS) as pod:
        app = pod.start()
        pod.await_anchors(1)
        path = pod.data[0].host_path
        (before,) = node.sees.layers(path)

        programs.run("umount", "-l", path)
        assert not app.sees.error("/data0")
        restarted = pod.app("restarted")
        until(lambda: node.sees.layers(path), "the mount to be back")

        for container in (app, restarted, pod.app("later")):
            pod.await_whole(container)
        assert [m.dev for m in node.sees.layers(path)] == [before.dev]
        assert not pod.said("FuseBroken")
        assert pod.said("mounted again")
        pod.crash()
        pod.await_layers(app, 2)


def test_two_pods_that_share_a_path_on_the_node_heal_each_by_its_own_agent(node: Node):
    """Fluid's default host path is the same for all pods of a dataset: their mounts are stacked."""
    with (
        serverless(node, Client.STACKS, name="a") as one,
        serverless(node, Client.STACKS, name="b") as other,
    ):
        first = one.start()
        one.await_anchors(1)
        second = other.start()
        one.await_anchors(2)  # a container of the first pod that starts now gets the second's
        other.await_anchors(1)

        for crashing in (one, other) * 5:
            crashing.data[0].kill()
            one.await_settled()
            crashing.data[0].start()
            one.await_whole(first)
            one.await_whole(second)

        layers = [len(app.sees.layers("/data0")) for app in (first, second)]
        assert max(layers) <= 4, layers  # not one more with each crash
        assert first.sees.names("/data0") == second.sees.names("/data0") == {"file0"}
