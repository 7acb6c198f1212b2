"""Many callers at once, and callers that say nothing: each call ends, and nothing is left."""

import contextlib
import random
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import pytest

from tests.harness import Node

CALLS, TARGETS, AT_ONCE = 500, 20, 96
MAY_SAY = {
    grpc.StatusCode.OK,
    grpc.StatusCode.ABORTED,  # another call of this target is under way
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.NOT_FOUND,  # of a target that is not published
}


@pytest.mark.timeout(120)
def test_hundreds_of_calls_for_a_few_targets_all_end_and_leave_nothing(node: Node):
    data = node.dataset()
    volume = replace(data.volume, read_only=True)
    plugin = node.plugin()
    pod = node.pod()
    targets = [pod.target(f"volume-{number}") for number in range(TARGETS)]
    acts = [plugin.client.publish, plugin.client.unpublish, plugin.client.stats]
    chance = random.Random(12)
    wanted = [(chance.choice(acts), chance.choice(targets)) for _ in range(CALLS)]

    def call(number: int) -> grpc.StatusCode:
        act, target = wanted[number]
        try:
            act(volume, target)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    with contextlib.ExitStack() as silent:
        for _ in range(200):
            mute = silent.enter_context(socket.socket(socket.AF_UNIX))
            mute.connect(str(node.machine.socket))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            said = set(pool.map(call, range(CALLS)))
    for target in targets:
        plugin.client.unpublish(volume, target)

    assert grpc.StatusCode.OK in said
    assert said <= MAY_SAY
    assert not [target for target in targets if target.exists() or node.sees.layers(target)]
    data.daemon.kill()
    data.daemon.restart()
    assert node.sees.names(pod.publish(data)) == {"a.txt"}
