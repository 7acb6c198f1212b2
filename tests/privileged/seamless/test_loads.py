"""What jobs do while daemons die: large files, data loaders, crowds, content that changes.

`make soak-seamless` has the long form.
"""

import contextlib
import hashlib
import json
import os
import random
import signal
from pathlib import Path

import pytest

from csi_fluid.testbed.errors import BedError
from tests import sandbox
from tests.harness import Bindfs, Dataset, Gocryptfs, Node, loads, pause, until
from tests.harness.node import MakeFilesystem
from tests.harness.readers import LOADER, Readers, tree
from tests.privileged.healing import Trap
from tests.privileged.seamless.held import HeldHealing, go, holding, inside, said

MIB = int(os.environ.get("SEAMLESS_MIB", "256"))  # of the large file
CRASHES = int(os.environ.get("SEAMLESS_LOADED", "3"))  # at the most ten, one in each tenth of it
CALLERS = 3000
_SIGNALS = (signal.SIGKILL, signal.SIGTERM)
_CODE = Path(loads.__file__).read_text(encoding="utf-8")
_LOOKS_UP = frozenset({"request_wait_answer", "d_alloc_parallel", "fuse_lock_inode"})
# As in a rootless container in the pod.
_ELSEWHERE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child")


@pytest.mark.timeout(60 + MIB / 8 + 10 * CRASHES)
@pytest.mark.parametrize("filesystem", [Bindfs, Gocryptfs])
def test_a_large_file_comes_whole_over_crashes(
    node: Node, heal: HeldHealing, filesystem: MakeFilesystem
):
    sandbox.require("fuse_resend")  # else what the daemon had read at its death is lost
    right = hashlib.md5()
    data = node.dataset("demo", filesystem, files={"small": b"s"})
    content = bytearray()
    for number in range(MIB):
        content += loads.block(number)
    right.update(content)
    data.put("big", bytes(content))
    main = heal.container(node, data)
    with inside(main, _CODE, "large", "/data/big", str(MIB)) as process:
        for number in range(CRASHES):
            assert said(process) == "a tenth"
            is_kept = filesystem is Gocryptfs  # it goes on serving after SIGTERM
            data.daemon.kill(_SIGNALS[number % 2 and not is_kept])
            data.daemon.restart()
            heal.await_served(data)
        while (word := said(process)) == "a tenth":
            pass
    assert word == right.hexdigest()


def test_the_worker_processes_of_a_data_loader_see_no_error(node: Node, heal: HeldHealing):
    data = node.dataset("demo", files=tree())
    main = heal.container(node, data)
    chance = random.Random(1)
    with Readers(main.pid, "/data", (LOADER,)) as readers:
        for number in range(CRASHES):
            pause(chance.random())
            data.daemon.kill(_SIGNALS[number % 2])
            data.daemon.restart(chance.random())
            heal.await_served(data)
        results = readers.results()
    assert results[LOADER]["errors"] == []
    assert results[LOADER]["passes"]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("heal", [100.0], indirect=True)
def test_three_thousand_callers_wait_at_once(node: Node, heal: HeldHealing):
    data = node.dataset("demo", files=loads.files("many", CALLERS))
    main = heal.container(node, data)
    with inside(main, _CODE, "crowd", "/data/many", str(CALLERS)) as process:
        data.daemon.kill()
        heal.await_held(data)
        go(process)
        each = {"timeout_s": 60, "every_s": 0.1}  # three thousand threads have to start
        until(lambda: everybody_waits(heal, data), "all of them wait", **each)
        data.daemon.restart()
        assert json.loads(said(process)) == {"right": CALLERS}


def everybody_waits(heal: HeldHealing, data: Dataset) -> bool:
    """Tell whether each caller waits, for the daemon or for the one who asked it for the folder."""
    return heal.held(data).counts["waiting"] >= CALLERS or asleep() >= CALLERS


def asleep() -> int:
    """Return how many threads in this sandbox wait in a lookup, for the daemon or each other."""
    found = 0
    for place in Path("/proc").glob("[0-9]*/task/*/wchan"):
        with contextlib.suppress(OSError):  # it ended
            found += place.read_text() in _LOOKS_UP
    return found


def test_callers_in_other_pid_and_user_namespaces_wait_too(node: Node, heal: HeldHealing):
    data = node.dataset("demo", files={"big": b"x" * 100_000})
    main = heal.container(node, data)
    with inside(main, _CODE, "steady", "/data/big", within=_ELSEWHERE) as process:
        for _ in range(CRASHES):
            data.daemon.kill()
            until(lambda: heal.held(data).counts["waiting"] > 0, "it waits")
            data.daemon.restart()
            heal.await_served(data)
            until(lambda: heal.held(data).counts["waiting"] == 0, "it goes on")
        assert process.poll() is None


@pytest.mark.parametrize(("way", "outcome"), [("steady", "EIO"), ("mapped", "")])
@pytest.mark.parametrize("content", [b"y" * 1_000_000, b"y" * 400_000, b"y" * 2_000_000])
def test_content_that_changes_meanwhile_is_never_mixed(
    node: Node, heal: HeldHealing, way: str, outcome: str, content: bytes
):
    data = node.dataset("demo", files={"big": b"x" * 1_000_000})
    main = heal.container(node, data)
    with inside(main, _CODE, way, "/data/big") as process:
        data.daemon.kill()
        heal.await_held(data)
        pause(0.01)  # for another time of the file
        data.put("big", content)
        data.daemon.restart()
        assert said(process) == outcome  # a mapping has no other way than SIGBUS
        if not outcome:
            assert process.wait(5) == -signal.SIGBUS
    assert main.sees.read("/data/big") == content


def test_daemons_that_die_while_mounts_are_swapped_to_them_are_waited_out(node: Node):
    trap = Trap()
    with holding(node, locks=trap) as heal:
        data = node.dataset("demo", files={"big": b"x" * 100_000})
        containers = [heal.container(node, data) for _ in range(3)]
        with (
            inside(containers[0], _CODE, "steady", "/data/big") as first,
            inside(containers[1], _CODE, "steady", "/data/big") as second,
        ):
            for _ in range(2):  # the second daemon, and the third one
                _crash_into_a_swap(heal, trap, data)
            data.daemon.restart()
            heal.await_served(data)
            until(lambda: heal.held(data).counts["waiting"] == 0, "they go on")
            assert (first.poll(), second.poll()) == (None, None)


def _crash_into_a_swap(heal: HeldHealing, trap: Trap, data: Dataset) -> None:
    """Kill the daemon, and the next one when it answers and the first mount is to be swapped."""
    if data.daemon.alive:
        data.daemon.kill()
        heal.await_held(data)
    trap.spring = data.daemon.kill
    with contextlib.suppress(BedError):  # killed before we saw it answer
        data.daemon.restart()
    until(lambda: trap.spring is None and not data.daemon.alive, "the next one killed too")
