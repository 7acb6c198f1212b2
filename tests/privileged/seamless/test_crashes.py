"""An application that reads through crashes of an unmodified daemon sees waiting, and no error."""

import signal
from collections.abc import Iterator

import pytest

from tests import sandbox
from tests.harness import Bindfs, Node, until
from tests.harness.node import MakeFilesystem
from tests.harness.readers import Readers, tree
from tests.privileged.healing import whole
from tests.privileged.seamless.held import HeldHealing, holding

CRASHES = 8


@pytest.fixture
def heal(node: Node) -> Iterator[HeldHealing]:
    sandbox.require("fuse_connection")
    with holding(node) as made:
        yield made


@pytest.mark.timeout(120)
@pytest.mark.parametrize("filesystem", [Bindfs])
def test_nine_kinds_of_readers_see_no_error(
    node: Node, heal: HeldHealing, filesystem: MakeFilesystem
):
    data = node.dataset("demo", filesystem, files=tree())
    main = node.pod().container("main", {"/data": heal.publish(node.pod(), data)})
    until(lambda: heal.held(data).has_root, "the connection kept")

    with Readers(main.pid, "/data") as readers:
        for number in range(CRASHES):
            before = len(heal.heals(data))
            data.daemon.kill((signal.SIGKILL, signal.SIGTERM)[number % 2])
            data.daemon.restart(0.1 * (number % 4))
            heal.healed(data, before)
            until(lambda: heal.held(data).serving, "the old connections served")
        results = readers.results()

    assert {kind: found["errors"] for kind, found in results.items() if found["errors"]} == {}
    assert all(found["passes"] for found in results.values()), results
    assert whole(node, main.sees, "/data", data)
    assert heal.held(data).counts["refused"] == 0
