"""A pytest plugin for emulated machines: all that a test waits for takes longer there.

CSI_FLUID_PACE says how many times; time limits only, what a test asserts stays as it is.
"""

import subprocess

import pytest

from csi_fluid.testbed.waiting import PACE
from recover.linux import probe
from recover.seamless import client
from tests import sandbox
from tests.privileged import healing
from tests.rpc.serving import Serving

_POPEN_WAIT = subprocess.Popen.wait
_POPEN_COMMUNICATE = subprocess.Popen.communicate
_DEFAULTS = (
    (probe.Prober.__init__, "timeout_s"),
    (healing.Healing.__init__, "probe_timeout_s"),
    (Serving.__init__, "probe_timeout_s"),
)


def pytest_configure() -> None:
    """Multiply the limits of the test bed, and those that tests give to processes they start."""
    sandbox.SETTLE_LOOKS = int(PACE * sandbox.SETTLE_LOOKS)
    sandbox.GRACE_S *= PACE
    client._START_S *= PACE  # a process of Python takes seconds to start
    client._PATIENCE_S *= PACE
    for function, limit in _DEFAULTS:
        assert function.__kwdefaults__ is not None
        function.__kwdefaults__[limit] *= PACE
    subprocess.Popen.wait = _wait  # type: ignore[method-assign, assignment]
    subprocess.Popen.communicate = _communicate  # type: ignore[method-assign, assignment]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Multiply the limits of the tests themselves; leave out those about the clock."""
    for item in items:
        if item.get_closest_marker("clock"):
            item.add_marker(pytest.mark.skip(reason="the clock of an emulated machine says little"))
        limit_s = PACE * sandbox.timeout_of(item)
        item.add_marker(pytest.mark.timeout(limit_s), append=False)


def _wait(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
    return _POPEN_WAIT(process, timeout and PACE * timeout)


def _communicate(
    process: subprocess.Popen[bytes], given: bytes | None = None, timeout: float | None = None
) -> tuple[bytes, bytes]:
    return _POPEN_COMMUNICATE(process, given, timeout and PACE * timeout)
