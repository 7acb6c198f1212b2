"""A node, and the plugin's inside on it, for the tests of healing."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from csi_fluid.testbed import programs
from tests.harness import Node
from tests.privileged.healing import Healing, healing


@pytest.fixture
def node(workdir: Path) -> Iterator[Node]:
    with Node(workdir) as node:
        yield node


@pytest.fixture
def heal(node: Node, request: pytest.FixtureRequest) -> Iterator[Healing]:
    """Heal by the namespace strategy, or by that of the indirect parameter."""
    with healing(node, strategy=getattr(request, "param", "namespace")) as made:
        yield made


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
