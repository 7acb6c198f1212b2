"""gRPC is up in all tests of the server."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _grpc_up(grpc_up: None) -> None: ...
