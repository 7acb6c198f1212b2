"""A container that mounts its volume very many times harms nobody else by that."""

import os

import pytest

from csi_fluid.testbed.pods import PYTHON
from recover import events
from recover.linux import mountinfo
from recover.visits.plan import MOST
from tests.harness import Dataset, Node, Propagation, until
from tests.privileged.healing import Healing, whole

# $1 how often
BIND = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None)
for number in range(int(sys.argv[1])):
    os.makedirs(f"/tmp/{number}", exist_ok=True)
    assert libc.mount(b"/data", b"/tmp/%d" % number, None, 4096, None) == 0
open("/tmp/done", "w").close()
time.sleep(1_000_000)
"""
OWN_USERS = ("unshare", "--user", "--map-root-user", "--mount", "--propagation", "private")


@pytest.mark.usefixtures("visits")
@pytest.mark.parametrize(
    ("prefix", "times", "words"),
    [((), MOST + 20, f"more than {MOST}"), (OWN_USERS, mountinfo.MOST + 20, "user namespace")],
    ids=["may mount", "in a user namespace"],
)
def test_the_others_heal_and_what_is_left_is_told_once(
    node: Node, heal: Healing, data: Dataset, prefix: tuple[str, ...], times: int, words: str
):
    pod = node.pod()
    target = heal.publish(pod, data)
    command = (*prefix, PYTHON, "-c", BIND, str(times))
    greedy = pod.container("greedy", {"/data": target}, Propagation.NONE, command)
    main = pod.container("main", {"/data": target}, Propagation.NONE)
    until(lambda: "done" in greedy.sees.names("/tmp"), "the mounts", timeout_s=30)  # type: ignore[operator]
    before = len(os.listdir("/proc/self/fd"))

    heal.crash(data)

    assert whole(node, main.sees, "/data", data)
    assert whole(node, node.sees, target, data)
    (skipped,) = until(lambda: heal.ear.of(events.Skipped), "the rest is told")
    assert words in skipped.reason
    until(lambda: len(os.listdir("/proc/self/fd")) <= before + 8, "its descriptors go")


@pytest.fixture
def data(node: Node) -> Dataset:
    return node.dataset()
