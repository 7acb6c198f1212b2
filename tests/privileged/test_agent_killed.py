"""Whatever change of a mount kill -9 hits an agent at, the next agent makes all whole again."""

import contextlib
import errno

import pytest

from csi_fluid.testbed.serverless import Agent, Client
from tests.harness import BedError, Node, until
from tests.privileged.serverless import ServerlessPod, serverless

MOST = 200


def mortal(pod: ServerlessPod, node: Node, number: int) -> Agent:
    """Return an agent of the pod that dies before a change (tests/privileged/dyingagent.py)."""

    class Mortal(Agent):
        def command(self, *more: str) -> list[str]:
            words = super().command(*more)
            at = words.index("csi_fluid")
            return [*words[:at], "tests.privileged.dyingagent", str(number), *words[at + 1 :]]

    parents = [data.parent for data in pod.data]
    return Mortal(node.machine.image, parents, uid=pod.identity, options=["--period=50ms"])


def live_and_die(agent: Agent) -> bool:
    """Run an agent until it has died, or has healed the pod, which gives True."""
    with contextlib.suppress(BedError):  # it has died before it was ready
        agent.start()
        until(lambda: not agent.container.alive or healed(agent), f"its end: {agent.said}")
    return healed(agent)


def healed(agent: Agent) -> bool:
    return any(" healed " in line for line in agent.said)


def is_repaired(node: Node, client: Client, number: int) -> bool:
    """Have an agent die before a change and the next one repair; tell whether it lived to heal."""
    with serverless(node, client, options=["--period=50ms"]) as pod:
        app = pod.start()
        pod.await_anchors(1)
        pod.agent.end()
        pod.crash()

        agent = mortal(pod, node, number)
        has_healed = live_and_die(agent)
        assert app.sees.names("/data0") in ({"file0"}, errno.ENOTCONN)
        agent.close()
        pod.agent.start()

        pod.await_settled()
        pod.await_layers(app, 1, 2)
        assert app.sees.names("/data0") == {"file0"}
        assert pod.data[0].container.alive
    return has_healed


@pytest.mark.timeout(180)
@pytest.mark.parametrize("client", [Client.UNMOUNTS, Client.STACKS])
def test_killed_before_any_change_the_next_agent_repairs_and_no_daemon_ends(
    node: Node, client: Client
):
    changes = next(n for n in range(MOST) if is_repaired(node, client, n))

    assert changes > 5  # to clone, to set, to attach, to uncover, to bring
