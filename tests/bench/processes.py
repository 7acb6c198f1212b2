"""Processes from outside: their children, CPU time, memory, threads."""

import math
import time
from collections.abc import Collection
from pathlib import Path

from csi_fluid.testbed.waiting import pause

# A process that takes no more than 1 % of a core rests.
_REST_S = 0.2
_REST_CPU_S = 0.002
_REST_TIMEOUT_S = 10.0


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process so far in s, ended threads included.

    The process's CPU clock (clock_getcpuclockid(3)) counts nanoseconds, /proc/PID/stat only ticks.
    """
    return time.clock_gettime((~pid << 3) | 2)


def rest(pid: int) -> float:
    """Return the CPU time so far in s when the process rests, or after ten seconds."""
    end = time.monotonic() + _REST_TIMEOUT_S
    before, now = -math.inf, cpu_s(pid)
    while now - before > _REST_CPU_S and time.monotonic() < end:
        pause(_REST_S)
        before, now = now, cpu_s(pid)
    return now


def children(pid: int) -> list[int]:
    """Return the children of a process's first thread."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii")
    return list(map(int, text.split()))


def wakeups(pid: int, *, but: Collection[str] = ()) -> int:
    """Return how often the threads of a process were woken so far, those that live now.

    but names threads that do not count, as the kernel has them: 15 characters.
    """
    return sum(_voluntary(task, but) for task in Path(f"/proc/{pid}/task").iterdir())


def _voluntary(task: Path, but: Collection[str]) -> int:
    try:
        if (task / "comm").read_text().rstrip() in but:
            return 0
        return _field(task / "status", "voluntary_ctxt_switches")
    except (FileNotFoundError, ProcessLookupError):  # the thread has ended
        return 0


def memory_mib(pid: int) -> float:
    """Return the resident memory in MiB."""
    return _field(Path(f"/proc/{pid}/status"), "VmRSS") / 1024


def shared_mib(pid: int) -> float:
    """Return how much of the resident memory is shared by mapping, in MiB."""
    return _field(Path(f"/proc/{pid}/status"), "RssShmem") / 1024


def threads(pid: int) -> int:
    """Return the number of threads."""
    return _field(Path(f"/proc/{pid}/status"), "Threads")


def _field(status: Path, name: str) -> int:
    for line in status.read_text("ascii", "replace").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    raise ValueError(f"no {name} in {status}")
