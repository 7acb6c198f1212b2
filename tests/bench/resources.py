"""What a plugin takes that has nothing to do, and how long it takes to start."""

import time
from collections.abc import Callable

from csi_fluid.testbed.waiting import pause
from tests.bench import processes
from tests.bench.machine import Fuse, Machine
from tests.bench.subjects import Plugin


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
        woken, used, began = processes.wakeups(pid), processes.cpu_s(pid), time.monotonic()
        pause(window_s)
        passed_s = time.monotonic() - began
        share = (processes.cpu_s(pid) - used) / passed_s
        return {
            "rss": [processes.memory_mib(pid)],
            "threads": [processes.threads(pid)],
            "percent": [100 * share],
            "minute": [60e3 * share],
            "wakeups": [60 * (processes.wakeups(pid) - woken) / passed_s],
        }
