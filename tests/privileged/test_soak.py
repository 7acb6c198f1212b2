"""Random crashes of four datasets among many pods: nobody is left out, and nothing grows.

`make soak MINUTES=60` goes on for so long; the suite tries a number of crashes.  Meanwhile a patrol
(tests/privileged/patrol.py) looks at the volume from the host and from containers of each kind.
The seed is printed, and SEED=... does the same again, as far as the machine allows.
"""

import os
import random
import time

import pytest

from tests.harness import Node, until
from tests.privileged.soak import Cost, Soak

MINUTES = float(os.environ.get("MINUTES", "0"))
SEED = int(os.environ.get("SEED", random.randrange(1 << 32)))
CRASHES = 0 if MINUTES else 100  # how many it goes on for if not for a time
PODS = 50 if MINUTES else 8
PARTS = 8 if MINUTES else 4  # the plugin is killed in the first half of them


@pytest.mark.timeout(MINUTES * 60 + 300)
def test_a_node_goes_on_whatever_crashes(node: Node):
    print(f"SEED={SEED} MINUTES={MINUTES}")
    soak = Soak(node, SEED, PODS)
    costs = []
    for part in range(PARTS):
        with soak.watched() as surprises:
            end = time.monotonic() + 60 * MINUTES / PARTS
            while time.monotonic() < end or soak.crashes < CRASHES * (part + 1) / PARTS:
                soak.step(restarts=part < PARTS // 2)
                assert soak.layers() <= 2
            assert surprises() == []
        costs.append(Cost.of(soak.plugin.pid))
        print(f"{soak.steps} steps, {soak.crashes} crashes, {soak.rounds} rounds, {costs[-1]}")

    before, after = costs[PARTS // 2], costs[-1]
    assert after.descriptors <= before.descriptors + 16
    assert after.threads <= before.threads + 16
    assert after.mib <= before.mib + 8
    soak.end()
    until(lambda: not soak.anchors(), "no anchor for nobody")
