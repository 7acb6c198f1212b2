"""A node on which the connections of dead daemons are held."""

from collections.abc import Iterator

import pytest

from tests import sandbox
from tests.harness import Node
from tests.privileged.seamless.held import HeldHealing, holding


@pytest.fixture
def heal(node: Node, request: pytest.FixtureRequest) -> Iterator[HeldHealing]:
    """Heal and hold, for as many seconds as the indirect parameter says."""
    sandbox.require("pidfd_getfd")
    with holding(node, hold_s=getattr(request, "param", 20.0)) as made:
        yield made
