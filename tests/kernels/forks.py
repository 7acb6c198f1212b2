"""A pytest plugin: a sandbox is a fork of this process instead of a second pytest.

For machines that are emulated: an interpreter takes half a minute to start there, and what a test
waits for takes as much longer.
"""

import contextlib
import json
import os
import select
import signal
import tempfile

import pytest
from _pytest.runner import runtestprotocol

from csi_fluid.demo import waiting
from recover.linux import probe, procself, syscalls
from recover.linux.procself import closing
from tests import sandbox
from tests.privileged import healing

_CLONE_NEWPID = 0x20000000  # <linux/sched.h>
_PATIENCE = 10  # an emulated processor is so much slower
_LIMITS = (
    (waiting.until, "timeout_s"),
    (probe.Prober.__init__, "timeout_s"),
    (healing.Healing.__init__, "probe_timeout_s"),
)


def pytest_configure() -> None:
    """Put this way to run a test in the place of the other; be patient by default."""
    setattr(sandbox, "_run_in", _run_in)  # noqa: B010  mypy would not let us change it
    for function, limit in _LIMITS:
        assert function.__kwdefaults__ is not None
        function.__kwdefaults__[limit] *= _PATIENCE


def _run_in(folder: str, item: pytest.Item) -> list[pytest.TestReport]:
    with tempfile.TemporaryFile() as channel:
        child = os.fork()  # noqa: TID251  pytest has one thread
        if not child:
            _be_sandbox(item, folder, channel.fileno())
        problem = _wait(child, sandbox.timeout_of(item) * _PATIENCE)
        reports = [sandbox._report(item, line) for line in sandbox._content(channel).splitlines()]
    if [report.when for report in reports][-1:] != ["teardown"]:
        reports.append(sandbox._problem(item, problem))
    return reports


def _wait(child: int, timeout_s: float) -> str:
    """Wait for the end of a child, kill it at the time-out; say how it ended."""
    with closing(os.pidfd_open(child)) as pidfd:
        in_time = select.select([pidfd], [], [], timeout_s)[0]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    return f"the fork ended with status {status}" if in_time else f"killed after {timeout_s:g} s"


def _be_sandbox(item: pytest.Item, folder: str, channel: int) -> None:
    """Be what sandbox.UNSHARE and sandbox.INIT are; never returns."""
    os.setpgid(0, 0)
    syscalls.unshare(syscalls.CLONE_NEWNS | _CLONE_NEWPID)
    if first := os.fork():  # noqa: TID251
        os.waitpid(first, 0)
        os._exit(0)
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("proc", "/proc", "proc", 0)
    syscalls.mount("sandbox", folder, "tmpfs", 0)
    if test := os.fork():  # noqa: TID251
        while os.wait()[0] != test:  # orphans
            pass
        os._exit(0)  # which ends all other processes of the namespace
    setattr(procself, "_SELF", os.open("/proc/self", os.O_PATH | os.O_CLOEXEC))  # noqa: B010
    os.environ |= {sandbox.TOKEN: folder, "TMPDIR": folder, "PYTHONDONTWRITEBYTECODE": "1"}
    tempfile.tempdir = None
    for report in runtestprotocol(item, log=False):
        data = item.config.hook.pytest_report_to_serializable(config=item.config, report=report)
        os.write(channel, json.dumps(data).encode() + b"\n")
    os._exit(0)
