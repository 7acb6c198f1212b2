"""An agent on a node where the node plugin heals too: one of them acts, whoever lives."""

import errno

import pytest

from csi_fluid.testbed.serverless import Client
from recover import events
from tests.harness import Node, pause, until
from tests.privileged.healing import Healing, healing
from tests.privileged.serverless import serverless


def await_told(heal: Healing, number: int) -> None:
    """Wait until the plugin has told of so many heals."""
    until(lambda: len(heal.ear.of(events.Healed)) == number, f"{number} heals: {heal.ear.events}")


@pytest.mark.usefixtures("visits")
@pytest.mark.parametrize("suffix", ["", "demo-app/1700000000000000-0a1b2c3d"])
def test_the_node_plugin_heals_and_the_agent_stands_back(node: Node, suffix: str):
    """The second host path is that of Fluid's mode random-suffix."""
    with (
        healing(node, period_s=0.1) as heal,
        serverless(node, Client.REFUSES, random_suffix=suffix) as pod,
    ):
        app = pod.start()
        pod.await_anchors(1)
        pod.await_claimed(heal)

        for number in range(1, 4):
            pod.crash()
            pod.await_whole(app)
            pod.await_anchors(number + 1)
            await_told(heal, number)

        until(lambda: pod.said("the node plugin heals"), "the agent to stand back")
        pause(1.5)  # it asks each second whether it is to act
        assert len(app.sees.layers("/data0")) == 1
        assert app.sees.layers("/data0")[0].read_only
        assert pod.heals == 0
        known = heal.store.generations  # the anchors still show the dead ones, and do not count
        until(lambda: not any(g.dead_at for g in known()), f"only the live one: {known()}")


@pytest.mark.usefixtures("visits")
def test_the_agent_takes_over_when_the_plugin_ends_and_the_plugin_when_it_is_back(node: Node):
    with serverless(node, Client.UNMOUNTS) as pod:
        app = pod.start()
        pod.await_anchors(1)
        with healing(node, period_s=0.1) as heal:
            pod.await_claimed(heal)
            pod.crash()
            pod.await_whole(app)
            pod.await_anchors(2)
            heals = heal.ear
            until(lambda: heals.of(events.Healed), "the plugin tells of it")
            assert pod.heals == 0

        until(lambda: pod.heals == 1, "the agent brings its anchors what the plugin did not")
        pod.crash()
        pod.await_whole(app)
        until(lambda: pod.heals == 2, "the agent heals")
        pod.await_anchors(3)

        with healing(node, period_s=0.1) as heal:
            pod.await_claimed(heal)
            pod.crash()
            pod.await_whole(app)
            until(lambda: heal.ear.of(events.Healed), "the plugin heals")
            assert pod.heals == 2


@pytest.mark.usefixtures("visits")
def test_the_plugin_forgets_a_pod_that_was_deleted(node: Node):
    with healing(node, period_s=0.1) as heal, serverless(node, Client.UNMOUNTS) as pod:
        pod.start()
        pod.await_claimed(heal)

        pod.delete()

        until(lambda: not heal.store.publications(), "the row is dropped")
        assert not pod.left_on_the_node


def test_the_plugin_leaves_a_sidecar_alone_whose_pod_did_not_ask(node: Node):
    with healing(node, period_s=0.05) as heal, serverless(node, Client.UNMOUNTS) as pod:
        app = pod.start(agent=False)
        heal.await_ticks(3)

        pod.crash()
        heal.await_ticks(3)

        assert app.sees.error("/data0") == errno.ENOTCONN
        assert not heal.store.publications()


@pytest.mark.usefixtures("visits")
def test_a_plugin_that_is_killed_leaves_healing_to_the_agent(node: Node):
    plugin = node.plugin(environ={"RECOVER_FUSE_PERIOD": "100ms"})
    with serverless(node, Client.UNMOUNTS) as pod:
        app = pod.start()
        pod.await_anchors(1)
        until(lambda: "healing the containers" in plugin.words, f"it is found: {plugin.words}")
        pod.crash()
        pod.await_whole(app)
        until(lambda: pod.said("the node plugin heals"), f"it stands back: {pod.agent.said}")
        assert pod.heals == 0

        plugin.kill()
        pod.crash()

        pod.await_whole(app)
        until(lambda: pod.heals, f"the agent heals: {pod.agent.said}")
        assert pod.said("this agent heals again"), pod.agent.said


@pytest.mark.usefixtures("visits")
def test_the_plugin_heals_what_the_agent_cannot_and_keeps_writable_copies(node: Node):
    with (
        healing(node, period_s=0.1) as heal,
        serverless(node, Client.UNMOUNTS, read_only=False, suffix=":ro") as pod,
    ):
        writer = pod.start()
        reader = pod.app("reader", read_only=True)
        pod.await_anchors(1)
        pod.await_claimed(heal)

        pod.crash()

        pod.await_whole(reader)
        until(lambda: heal.ear.of(events.Skipped), "the writable copy is reported")
        assert writer.sees.error("/data0") == errno.ENOTCONN
        assert reader.sees.layers("/data0")[-1].read_only


def test_a_plugin_that_cannot_mount_inside_leaves_the_pod_to_its_agent(node: Node):
    plugin = node.plugin(environ={"RECOVER_FUSE_PERIOD": "100ms", "CSI_FLUID_REFUSE": "open_tree"})
    with serverless(node, Client.UNMOUNTS) as pod:
        app = pod.start()
        pod.await_anchors(1)

        for number in (1, 2):
            pod.crash()
            pod.await_whole(app)
            until(lambda: pod.heals == number, f"the agent tells of it: {pod.agent.said}")  # noqa: B023
        assert "strategy=propagation" in plugin.words
