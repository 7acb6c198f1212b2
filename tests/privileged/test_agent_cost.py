"""What every serverless pod pays for its agent while nothing happens."""

import os
import re
from pathlib import Path

import pytest

from csi_fluid.testbed.serverless import Client
from tests.harness import Node, pause
from tests.privileged.serverless import serverless

_IDLE_S = 10.0


@pytest.mark.parametrize("datasets", [1, 4])
def test_an_idle_agent_costs_next_to_nothing(node: Node, datasets: int):
    with serverless(node, Client.UNMOUNTS, datasets=datasets, options=()) as pod:
        app = pod.start()
        for n in range(datasets):
            pod.await_anchors(1, n)
        pod.crash()
        pod.await_whole(app)
        pod.await_anchors(2)
        pid = pod.agent.container.pid
        (asking,) = _children(pid)

        pause(1.0)
        before = _cpu_s(pid) + _cpu_s(asking)
        pause(_IDLE_S)

        share = (_cpu_s(pid) + _cpu_s(asking) - before) / _IDLE_S
        assert _mib(pid, "VmRSS") <= 22
        assert _mib(asking, "RssAnon") <= 12  # the rest is the interpreter's file, which they share
        assert share < 0.006 * datasets + 0.003  # a third of that, on a machine at rest


def _children(pid: int) -> list[int]:
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for each in lists for child in each.read_text().split()]


def _mib(pid: int, what: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(rf"{what}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def _cpu_s(pid: int) -> float:
    """Return the processor time of a process in s, of threads that ended too, by 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
