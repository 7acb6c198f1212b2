"""Runs one test in mount and PID namespaces of its own, and finds what a test left behind.

pytest does not run a sandboxed test itself: it forks for that one test, the child runs it in new
namespaces and sends its reports through an inherited descriptor, and pytest hands them on as its
own. When the namespaces end, the kernel removes every mount and process in them. pytest leaves the
machine's mount namespace first: what it then sees change, a test changed.

A fork costs milliseconds; an interpreter with a pytest of its own would cost half a second a test.
"""

import ctypes
import dataclasses
import faulthandler
import gc
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from recover.linux import facilities, refusal

TOKEN = "CSI_FLUID_SANDBOX"  # marks every process of a sandbox; its value is the work folder
DEFAULT_TIMEOUT_S = 60.0
GRACE_S = 3.0  # what the test gets to report its own time-out before it is killed
SETTLE_LOOKS = 50  # threads and processes that were told to end may need a moment

CLONE_NEWNS = 0x00020000  # <linux/sched.h>; Python has os.unshare only since 3.12
CLONE_NEWPID = 0x20000000
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_LIBC = ctypes.CDLL(None, use_errno=True)


def inside() -> bool:
    """Say whether this process runs in a sandbox."""
    return TOKEN in os.environ


def workdir() -> Path:
    """Return the sandbox's work folder, an empty tmpfs."""
    return Path(os.environ[TOKEN])


def require(*needs: str, kernel: tuple[int, int] = (0, 0)) -> None:
    """Skip the test, with the reason, unless each need is there.

    A need is a command on PATH, an absolute path that exists, "root", or a facility of the kernel
    (recover/linux/facilities.py). ``kernel`` is the oldest release that will do. With
    REQUIRE_ALL=1 the skip is a failure (``fail_skipped``).
    """
    for need in needs:
        if not _is_there(need):
            pytest.skip(f"needs {need}, which is missing here")
    release = tuple(int(part) for part in platform.release().split(".")[:2])
    if release < kernel:
        pytest.skip(f"needs Linux {kernel[0]}.{kernel[1]}, this is {platform.release()}")


def _is_there(need: str) -> bool:
    if need == "root":
        return os.geteuid() == 0
    if need in refusal.OPTIONAL:
        return facilities.has(need)
    return Path(need).exists() if need.startswith("/") else shutil.which(need) is not None


def fail_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure where REQUIRE_ALL is set; an expected failure stays one."""
    if os.environ.get("REQUIRE_ALL") and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"REQUIRE_ALL is set, so this skip is a failure: {reason}"


# ---- What a test leaves behind


@dataclasses.dataclass(frozen=True, slots=True)
class Traces:
    """What a process holds at one moment; each entry's text is what a person reads."""

    descriptors: frozenset[str]
    threads: frozenset[str]
    mounts: frozenset[str] = frozenset()
    processes: frozenset[str] = frozenset()

    @classmethod
    def of_process(cls) -> "Traces":
        """Look at descriptors and Python threads."""
        return cls(
            descriptors=frozenset(f"descriptor {fd} -> {text}" for fd, text in _descriptors()),
            threads=frozenset(f"thread {t.name} ({t.ident})" for t in threading.enumerate()),
        )

    @classmethod
    def of_sandbox(cls) -> "Traces":
        """Look at mounts and processes too: all that is visible here belongs to the test."""
        return dataclasses.replace(
            cls.of_process(),
            mounts=frozenset(f"mount {line}" for line in _mounts()),
            processes=frozenset(f"process {pid}: {text}" for pid, text in _processes()),
        )

    def left_since(self, before: "Traces") -> list[str]:
        """List what is there now and was not there before."""
        fields = [field.name for field in dataclasses.fields(self)]
        return [entry for f in fields for entry in sorted(getattr(self, f) - getattr(before, f))]


def settle(look: Callable[[], list[str]]) -> list[str]:
    """Return what a look finds, after a moment for what is about to go by itself."""
    looks = SETTLE_LOOKS  # not a time: the machine may have stood still
    while (found := look()) and (looks := looks - 1):
        gc.collect()  # an unreachable object is not a leak
        time.sleep(0.02)  # noqa: TID251 -- no event tells that a thread or a process has gone
    return found


def _descriptors() -> Iterator[tuple[int, str]]:
    for name in os.listdir("/proc/self/fd"):
        try:
            yield int(name), os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the listing's own descriptor
            continue


def _mounts() -> set[str]:
    return set(Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines())


def _processes() -> Iterator[tuple[int, str]]:
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path("/proc", name, "cmdline").read_text("utf-8", "replace")
            command = command or Path("/proc", name, "comm").read_text("utf-8", "replace")
            yield int(name), command.replace("\0", " ").strip()
        except (FileNotFoundError, ProcessLookupError):
            continue


# ---- pytest's side


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """How one sandboxed test ended."""

    reports: list[pytest.TestReport]
    wall_s: float

    @property
    def overhead_s(self) -> float:
        """Seconds that the sandbox cost beyond the test itself."""
        return self.wall_s - sum(report.duration for report in self.reports)


def leave_machine() -> None:
    """Move this process into a copy of the mount namespace that no mount passes into or out of.

    What else the machine mounts meanwhile (containers, an automounter, another test run) would
    look like something that a test left behind. Raises OSError.
    """
    _call("unshare", CLONE_NEWNS)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def timeout_of(item: pytest.Item) -> float:
    """Return the seconds that a test may take: its ``timeout`` marker, else the default."""
    marker = item.get_closest_marker("timeout")
    if marker is None:
        return DEFAULT_TIMEOUT_S
    return float(marker.args[0] if marker.args else marker.kwargs["timeout"])


def run(item: pytest.Item) -> Outcome:
    """Run one test in a sandbox and check that nothing of it is left outside."""
    started = time.monotonic()
    mounts_before = _mounts()
    folder = tempfile.mkdtemp(prefix="csi-")  # short: a unix socket's path has 107 bytes
    try:
        reports = _run_in(folder, item)
    finally:
        os.rmdir(folder)
    if survivors := settle(lambda: _processes_of(folder)):
        reports.append(_problem(item, f"processes outlived the sandbox: {survivors}"))
    if changed := _mounts() ^ mounts_before:
        reports.append(_problem(item, f"mounts outside the sandbox changed: {changed}"))
    return Outcome(reports, time.monotonic() - started)


def _run_in(folder: str, item: pytest.Item) -> list[pytest.TestReport]:
    with tempfile.TemporaryFile() as channel, tempfile.TemporaryFile() as output:

        def keep() -> int:
            _say_into(output, item.config)
            return _keep(folder, lambda: _run_here(item, folder, channel, output))

        pid = _fork(keep)
        problem = _wait(pid, timeout_of(item) + GRACE_S)
        reports = [_report(item, line) for line in _content(channel).splitlines()]
        if [report.when for report in reports][-1:] != ["teardown"]:
            said = _content(output).decode(errors="replace")
            reports.append(_problem(item, f"{problem}; it said:\n{said}"))
    return reports


def _wait(pid: int, timeout_s: float) -> str:
    """Wait for the end of the sandbox and tell how it ended.

    Kills it at the time-out, or when we are interrupted.
    """
    pidfd = os.pidfd_open(pid)
    try:
        in_time, _, _ = select.select([pidfd], [], [], timeout_s)
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
    if not in_time:
        return f"killed after {timeout_s:g} s: the test did not end"
    return f"the test's process ended with status {_status(status)}"


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _problem(item: pytest.Item, text: str) -> pytest.TestReport:
    """Make the report of a sandbox that went wrong."""
    return pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "call")


def _report(item: pytest.Item, line: bytes) -> pytest.TestReport:
    data = json.loads(line)
    if isinstance(data["longrepr"], list):  # where and why of a skip: JSON has no tuples
        data["longrepr"] = tuple(data["longrepr"])
    report = item.config.hook.pytest_report_from_serializable(config=item.config, data=data)
    assert isinstance(report, pytest.TestReport)
    return report


def _processes_of(folder: str) -> list[str]:
    """List the processes whose environment says that they belong to a sandbox."""
    mark = f"{TOKEN}={folder}\0".encode()
    found = []
    for pid, text in _processes():
        try:
            if mark in Path(f"/proc/{pid}/environ").read_bytes() + b"\0":
                found.append(f"{pid} {text}")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


# ---- The sandbox's side: keeper > first process of the PID namespace > the test's process


def _fork(run_child: Callable[[], int]) -> int:
    """Start a process that runs a function and ends with the status that it returns.

    It dies with the thread that started it, whatever ended that.
    """
    assert len(os.listdir("/proc/self/task")) == 1, "a thread's locks would stay locked in a fork"
    pid = os.fork()  # noqa: TID251 -- there is one thread
    if pid:
        return pid
    try:
        _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
        os._exit(run_child())
    except BaseException:  # noqa: BLE001 -- nothing of our caller is to go on in two processes
        traceback.print_exc()
        os._exit(70)  # EX_SOFTWARE


def _keep(folder: str, run_test: Callable[[], int]) -> int:
    """Make the namespaces, and wait for the end of their first process."""
    _call("unshare", CLONE_NEWNS | CLONE_NEWPID)
    first = _fork(lambda: _begin(folder, run_test))
    return _status(os.waitpid(first, 0)[1])


def _begin(folder: str, run_test: Callable[[], int]) -> int:
    """Be the first process: mount what a sandbox has, reap every orphan until the test is over.

    The work folder is a tmpfs: nothing stays on the disk.
    """
    subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "sandbox", folder], check=True)
    test = _fork(run_test)
    while True:
        pid, status = os.wait()
        if pid == test:
            return _status(status)


def _status(waited: int) -> int:
    """Return the exit status, 128 and its number for a signal, as a shell does."""
    code = os.waitstatus_to_exitcode(waited)
    return code if code >= 0 else 128 - code


def _say_into(output: IO[bytes], config: pytest.Config) -> None:
    """Let what this process says outside of a report go to a file."""
    capture = config.pluginmanager.getplugin("capturemanager")
    capture.stop_global_capturing()  # it would bring the terminal back
    for descriptor in (1, 2):
        os.dup2(output.fileno(), descriptor)
    capture.start_global_capturing()
    capture.suspend_global_capture()
    faulthandler.enable(output)


def _run_here(item: pytest.Item, folder: str, channel: IO[bytes], output: IO[bytes]) -> int:
    """Run a test in this process and write its reports to the channel."""
    os.environ |= {TOKEN: folder, "TMPDIR": folder}
    os.environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    tempfile.tempdir = None  # it was looked up before
    gc.freeze()  # what pytest holds is no garbage, and takes a while to go through
    # A time-out that cannot be acted on (a system call that no signal ends) still shows every
    # thread's stack.
    faulthandler.dump_traceback_later(timeout_of(item) + GRACE_S / 2, file=output)
    item.config.pluginmanager.register(_Reporter(item.config, channel.fileno()))
    item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
    return 0


class _Reporter:
    """Writes every report to a descriptor, one line of JSON each."""

    def __init__(self, config: pytest.Config, descriptor: int) -> None:
        self._config = config
        self._descriptor = descriptor

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write one report."""
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        os.write(self._descriptor, json.dumps(data).encode() + b"\n")


def _call(name: str, *arguments: int) -> None:
    """Call a function of the C library; raises OSError."""
    if getattr(_LIBC, name)(*map(ctypes.c_ulong, arguments)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
