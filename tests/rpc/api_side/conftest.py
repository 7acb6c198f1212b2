"""The API side with a dataset to ask for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import apiserver
from tests.rpc.api_side.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with apiserver.running(tmp_path) as server:
        found = World(server)
        server.dataset("ns", "demo")
        try:
            yield found
        finally:
            found.sender.stop(2)
            found.helper.close()
