"""A node, and the plugin's inside on it, for the tests of healing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

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
