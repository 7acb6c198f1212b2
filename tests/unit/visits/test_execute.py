"""What is executed of a plan for other namespaces when the world has moved on meanwhile."""

import os

from recover.detect import Copy
from recover.linux.mountinfo import Mount
from recover.linux.mounts import Attributes
from recover.linux.namespaces import Namespace
from recover.linux.probe import Prober
from recover.visits.execute import Executor
from recover.visits.plan import Swap

ELSEWHERE = Namespace(inode=1, pid=os.getpid())  # whose table has none of the mounts below


def swap(number: int) -> Swap:
    path = f"/targets/{number}"
    dead = Mount(10**9 + number, 1, "0:50", "/", path, frozenset({"ro"}), 0, 0, "fuse.x", "x")
    return Swap(Copy(ELSEWHERE, (dead,)), "/source", "", Attributes.of(dead))


def test_a_namespace_that_the_kernel_brought_every_swap_to_needs_no_visit():
    """So it is with the host's, for a plugin whose pod shares kubelet's directory with it."""
    steps = [swap(number) for number in range(20)]
    executor = Executor(Prober(timeout_s=1), "0:60")

    assert list(executor.run(steps, lambda: False)) == []
