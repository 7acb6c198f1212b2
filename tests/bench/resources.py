"""What a process takes: CPU time, memory, threads; and how long it takes to start."""

import time
from collections.abc import Callable
from pathlib import Path

from csi_fluid.demo.waiting import pause
from tests.bench.machine import Fuse, Machine
from tests.bench.subjects import Plugin


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process so far in s, ended threads included.

    The process's CPU clock (clock_getcpuclockid(3)) counts nanoseconds, /proc/PID/stat only ticks.
    """
    return time.clock_gettime((~pid << 3) | 2)


def wakeups(pid: int) -> int:
    """Return how often the threads of a process were woken so far, those that live now."""
    return sum(_voluntary(task) for task in Path(f"/proc/{pid}/task").iterdir())


def _voluntary(task: Path) -> int:
    try:
        return _field(task / "status", "voluntary_ctxt_switches")
    except (FileNotFoundError, ProcessLookupError):  # the thread has ended
        return 0


def memory_mib(pid: int) -> float:
    """Return the resident memory in MiB."""
    return _field(Path(f"/proc/{pid}/status"), "VmRSS") / 1024


def threads(pid: int) -> int:
    """Return the number of threads."""
    return _field(Path(f"/proc/{pid}/status"), "Threads")


def _field(status: Path, name: str) -> int:
    for line in status.read_text("ascii", "replace").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    raise ValueError(f"no {name} in {status}")


class _Published:
    """A plugin with so many publications of one dataset."""

    def __init__(
        self, machine: Machine, subject: Plugin, say: Callable[[str], None], *, publications: int
    ) -> None:
        self._subject = subject
        self._say = say
        volume = Fuse(machine).serve()
        subject.start()
        for number in range(1, publications + 1):
            subject.publish(volume, machine.target(f"pod-{number:06}", "default-demo"))
            say(f"{number} of {publications} published")


class Start(_Published):
    """Starts, one after another."""

    def round(self) -> dict[str, list[float]]:
        """Return the ms of a stop, and of a start to the first answered Probe and to ready."""
        stopped = self._subject.stop()
        return {"stop": [stopped], **{name: [ms] for name, ms in self._subject.start().items()}}


class Idle(_Published):
    """What a plugin takes that has nothing to do."""

    def round(self, *, settle_s: float, window_s: float) -> dict[str, list[float]]:
        """Return memory (MiB), threads, and over a window CPU time and wake-ups.

        What an earlier call still has it do is over after settle_s.
        """
        pid = self._subject.pid
        self._say(f"settling for {settle_s:g} s")
        pause(settle_s)
        self._say(f"watching it idle for {window_s:g} s")
        woken, used, began = wakeups(pid), cpu_s(pid), time.monotonic()
        pause(window_s)
        passed_s = time.monotonic() - began
        share = (cpu_s(pid) - used) / passed_s
        return {
            "rss": [memory_mib(pid)],
            "threads": [threads(pid)],
            "percent": [100 * share],
            "minute": [60e3 * share],
            "wakeups": [60 * (wakeups(pid) - woken) / passed_s],
        }
