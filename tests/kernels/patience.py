"""A pytest plugin for emulated machines: what tests wait for takes longer there."""

import pytest

from csi_fluid.testbed import waiting
from recover.linux import probe
from tests import sandbox
from tests.privileged import healing

FACTOR = 10
_LIMITS = (
    (waiting.until, "timeout_s"),
    (probe.Prober.__init__, "timeout_s"),
    (healing.Healing.__init__, "probe_timeout_s"),
)


def pytest_configure() -> None:
    """Multiply the limits that tests leave to their default."""
    for function, limit in _LIMITS:
        assert function.__kwdefaults__ is not None
        function.__kwdefaults__[limit] *= FACTOR


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Multiply the limits of the tests themselves."""
    for item in items:
        limit_s = FACTOR * sandbox.timeout_of(item)
        item.add_marker(pytest.mark.timeout(limit_s), append=False)
