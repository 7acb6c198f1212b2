"""Runs one test in mount and PID namespaces of its own, and finds what a test left behind.

The parent pytest does not run a sandboxed test itself: it starts a second pytest for that one test
behind ``unshare --mount --pid``, receives its reports through an inherited descriptor, and hands
them on as its own. When the namespaces end, the kernel removes every mount and process in them.
"""

import dataclasses
import gc
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

TOKEN = "CSI_FLUID_SANDBOX"  # marks every process of a sandbox; its value is the work folder
REPORTS = "CSI_FLUID_SANDBOX_REPORTS"  # the descriptor that takes the reports
DEFAULT_TIMEOUT_S = 60.0
GRACE_S = 3.0  # what the inner pytest gets to report its own time-out before it is killed
SETTLE_S = 1.0  # threads and processes that were told to end may need a moment

# The shell is the first process of the PID namespace: unlike Python it reaps orphans, so that a
# killed daemon does not stay as a zombie. The work folder is a tmpfs: nothing stays on the disk.
INIT = 'mount -t tmpfs -o mode=0755 sandbox "$0" || exit 1; "$@"; exit $?'
# Each link of the chain dies with the one before it, whatever ended that.
UNSHARE = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
    *("--propagation", "private"),
)


def inside() -> bool:
    """Say whether this process runs in a sandbox."""
    return TOKEN in os.environ


def workdir() -> Path:
    """Return the sandbox's work folder, an empty tmpfs."""
    return Path(os.environ[TOKEN])


def require(*needs: str, kernel: tuple[int, int] = (0, 0)) -> None:
    """Skip the test, with the reason, unless each need is there.

    A need is a command on PATH, an absolute path that exists, or "root". ``kernel`` is the oldest
    release that will do. With REQUIRE_ALL=1 the skip is a failure (``fail_skipped``).
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
    return Path(need).exists() if need.startswith("/") else shutil.which(need) is not None


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 10.0) -> None:
    """Return as soon as the condition holds; fail the test when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s:g} s in vain: {what}")
        time.sleep(0.005)  # noqa: TID251 -- the one place that polls


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
    deadline = time.monotonic() + SETTLE_S
    while (found := look()) and time.monotonic() < deadline:
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


# ---- The parent's side


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """How one inner pytest ended."""

    reports: list[pytest.TestReport]
    wall_s: float

    @property
    def overhead_s(self) -> float:
        """Seconds that the sandbox cost beyond the test itself."""
        return self.wall_s - sum(report.duration for report in self.reports)


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
        child = subprocess.Popen(
            [*UNSHARE, "sh", "-c", INIT, folder, *_pytest(item)],
            cwd=item.config.rootpath,
            env=os.environ
            | {TOKEN: folder, REPORTS: str(channel.fileno()), "TMPDIR": folder}
            | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            pass_fds=[channel.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        problem = _wait(child, timeout_of(item) + GRACE_S)
        reports = [_report(item, line) for line in _content(channel).splitlines()]
        if [report.when for report in reports][-1:] != ["teardown"]:
            problem = problem or f"the inner pytest ended with status {child.returncode}"
            said = _content(output).decode(errors="replace")
            reports.append(_problem(item, f"{problem}; it said:\n{said}"))
    return reports


def _pytest(item: pytest.Item) -> list[str]:
    """Build the command of the inner pytest; it loads only what one test needs."""
    options = ["-p", "no:cacheprovider", "-p", "pytest_timeout", "-q", "--no-header", "-rN"]
    # A time-out that the inner pytest cannot act on (a system call that no signal ends) still
    # shows every thread's stack.
    faulthandler = f"faulthandler_timeout={timeout_of(item) + GRACE_S / 2}"
    return [sys.executable, "-m", "pytest", *options, "-o", faulthandler, item.nodeid]


def _wait(child: subprocess.Popen[bytes], timeout_s: float) -> str | None:
    """Wait for the end of the sandbox; kill it at the time-out, or when we are interrupted."""
    try:
        child.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return f"killed after {timeout_s:g} s: the test did not end"
    finally:
        # --kill-child ends the namespace's first process with unshare, and the kernel all others.
        child.send_signal(signal.SIGKILL)
        child.wait()
    return None


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


# ---- The child's side


class Reporter:
    """Sends every report of the inner pytest to the parent, one line of JSON each."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._descriptor = int(os.environ[REPORTS])
        os.set_inheritable(self._descriptor, False)  # not for the daemons that a test starts

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Send one report."""
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        os.write(self._descriptor, json.dumps(data).encode() + b"\n")


# ---- By hand


def main(arguments: list[str]) -> int:
    """Run pytest in one sandbox on this terminal, where its debugger can be used."""
    folder = tempfile.mkdtemp(prefix="csi-")
    pytest_here = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--timeout=0")
    try:
        return subprocess.run(
            [*UNSHARE, "sh", "-c", INIT, folder, *pytest_here, *arguments],
            env=os.environ | {TOKEN: folder, "TMPDIR": folder},
            check=False,
        ).returncode
    finally:
        os.rmdir(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
