"""Random crashes of four datasets among many pods: nobody is left out, and nothing grows.

`make soak MINUTES=60` goes on for so long; the suite tries some seconds.  The seed is printed when
it fails, and SEED=... does the same again, as far as the machine allows.
"""

import contextlib
import os
import random
import time

import pytest

from tests.harness import Node, until
from tests.privileged.soak import Cost, Soak, surprises

MINUTES = float(os.environ.get("MINUTES", "0.1"))
SEED = int(os.environ.get("SEED", random.randrange(1 << 32)))
PODS = 50 if MINUTES >= 1 else 8
PARTS = 8 if MINUTES >= 1 else 4  # the plugin is killed in the first half of them


@pytest.mark.timeout(MINUTES * 60 + 120)
def test_a_node_goes_on_whatever_crashes(node: Node):
    print(f"SEED={SEED} MINUTES={MINUTES}")
    soak = Soak(node, SEED, PODS)
    costs = []
    for part in range(PARTS):
        with contextlib.ExitStack() as ends:
            watched = soak.watch(ends)
            end = time.monotonic() + 60 * MINUTES / PARTS
            while time.monotonic() < end:
                soak.step(restarts=part < PARTS // 2)
            assert surprises(watched) == []
        costs.append(Cost.of(soak.plugin.pid))
        print(f"{soak.steps} steps, {soak.crashes} crashes, {costs[-1]}")

    before, after = costs[PARTS // 2], costs[-1]
    assert soak.layers() <= 2
    assert after.descriptors <= before.descriptors + 16
    assert after.threads <= before.threads + 16
    assert after.mib <= before.mib + 8
    soak.end()
    until(lambda: not soak.anchors(), "no anchor for nobody")
