"""A node, and the plugin's inside on it, for the tests of healing."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from csi_fluid.testbed import programs
from tests import sandbox
from tests.harness import Dataset, Node
from tests.privileged.healing import Healing, healing
from tests.privileged.publishing import FILES, Publishing, publishing


@pytest.fixture
def node(workdir: Path) -> Iterator[Node]:
    with Node(workdir) as node:
        yield node


@pytest.fixture
def heal(node: Node, request: pytest.FixtureRequest) -> Iterator[Healing]:
    """Heal by the namespace strategy, or by that of the indirect parameter."""
    strategy = getattr(request, "param", "")
    if strategy == "namespace":  # the test is about it
        request.getfixturevalue("visits")
    with healing(node, strategy=strategy or "namespace") as made:
        yield made


@pytest.fixture
def on(node: Node) -> Iterator[Publishing]:
    """Publish without recovery beside it."""
    with publishing(node) as made:
        yield made


@pytest.fixture
def data(node: Node) -> Dataset:
    return node.dataset("demo", files=FILES)


@pytest.fixture
def writable(node: Node) -> Dataset:
    return node.dataset("demo", files=FILES, read_only=False)


@pytest.fixture
def visits() -> None:
    """Require a kernel that lets recovery mount inside of containers."""
    sandbox.require("open_tree", "move_mount")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the plugin and the FUSE daemons said last to the report of a failure."""
    report = yield
    node = getattr(item, "funcargs", {}).get("node")
    if report.failed and isinstance(node, Node):
        work = node.machine.folder("")
        for log in sorted((*work.glob("plugin/log"), *work.glob("daemon-*/*.log"))):
            said = programs.last_words(log, lines=40)
            report.sections.append((str(log.relative_to(work)), said))
    return report
