"""A plugin with its client, and threads to call it from."""

from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import pytest

from tests.rpc.node.world import World
from tests.rpc.serving import serving


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with serving(tmp_path) as (plugin, client):
        yield World(tmp_path, plugin, client)


@pytest.fixture
def pool() -> Iterator[futures.Executor]:
    with futures.ThreadPoolExecutor(16) as executor:
        yield executor
