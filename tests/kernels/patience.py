"""A pytest plugin for emulated machines: what tests wait for takes longer there."""

from csi_fluid.demo import waiting
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
    """Multiply the limits that tests leave to their default, and those of the tests themselves."""
    for function, limit in _LIMITS:
        assert function.__kwdefaults__ is not None
        function.__kwdefaults__[limit] *= FACTOR
    limit_of = sandbox.timeout_of
    setattr(sandbox, "timeout_of", lambda item: FACTOR * limit_of(item))  # noqa: B010  for mypy
