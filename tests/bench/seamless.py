"""What readers see of crashes with SeamlessRecovery, how fast they read on, what holding takes."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from csi_fluid.kubelet import Kubelet
from csi_fluid.testbed.pods import Container, Propagation
from csi_fluid.testbed.waiting import pause, until
from recover.seamless.client import Client, Held
from tests.bench import callers, processes, wire
from tests.bench.machine import PLACE, Fuse, Machine, start_containers
from tests.bench.subjects import Plugin

_CODE = Path(callers.__file__).read_text("utf-8")
_FILES, _MIB = 4, 64
_CONTAINERS = 10
_TIMEOUT_S = 30.0


class _Program:
    """A program of `callers` in a container, which says first that it is ready."""

    def __init__(self, container: Container, *arguments: str) -> None:
        # Not in its PID namespace, for which nsenter would fork; the box ends all of them.
        enter = ["nsenter", f"--target={container.pid}", "--mount", "--root", "--wd"]
        self._process = subprocess.Popen(
            [*enter, os.path.realpath(sys.executable), "-c", _CODE, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.hear()

    def tell(self, **what: Any) -> None:
        assert self._process.stdin is not None
        wire.tell(self._process.stdin, **what)

    def hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return wire.hear(self._process.stdout)


class _Held:
    """A dataset whose daemon's connection is held, and containers that have it."""

    def __init__(
        self,
        machine: Machine,
        subject: Plugin,
        *,
        name: str = "demo",
        mib: int = _MIB,
        containers: int,
    ) -> None:
        self.fuse = Fuse(machine, name)
        for number in range(_FILES):
            self.fuse.put(f"big{number}", os.urandom(1 << 20) * mib)
        self.fuse.serve()
        targets = [machine.target(f"{name}{i:06}", f"default-{name}") for i in range(containers)]
        for target in targets:
            subject.publish(self.fuse.volume, target)
        self.containers = list(start_containers(machine, targets, Propagation.HOST_TO_CONTAINER))
        # beside the state file, which lies in kubelet's directory
        socket = Path(Kubelet(str(machine.kubelet)).own, "holder", "socket")
        self._client = Client(socket, starts=False)
        self.await_(lambda held: held.has_root and "live" in held.connections.values())

    def await_(self, is_true: Callable[[Held], bool]) -> None:
        def is_there() -> bool:
            return is_true(self._client.status().of(str(self.fuse.source)))

        until(is_there, "the holder", timeout_s=_TIMEOUT_S)

    def crash(self, down_s: float) -> float:
        """Crash, be down for a time, come back; return the monotonic time of the first answer."""
        self.fuse.kill()
        with contextlib.suppress(OSError):  # the plugin clears it away, too
            self.fuse.unmount()
        pause(down_s)
        self.fuse.start()
        self.fuse.wait()
        answered = time.monotonic()
        self.await_(lambda held: held.serving and held.counts["waiting"] == 0)
        return answered

    @property
    def first_ms(self) -> float:
        """How long after the last swap the first who waited had his answer."""
        return 1e3 * self._client.status().of(str(self.fuse.source)).counts["first_s"]


def _start(subject: Plugin) -> None:
    subject.holds = True
    subject.start()


class Seamless:
    """So many readers in ten containers, of one dataset or of ten that crash one after another."""

    def __init__(
        self,
        machine: Machine,
        subject: Plugin,
        say: Callable[[str], None],
        *,
        readers: int,
        datasets: int = 1,
    ) -> None:
        _start(subject)
        self._all = []
        for number in range(datasets):
            say(f"dataset {number + 1} of {datasets}")
            held = _Held(
                machine,
                subject,
                name=f"demo{number}",
                mib=_MIB // datasets,
                containers=_CONTAINERS // datasets,
            )
            self._all.append(held)
        each = str(readers // _CONTAINERS)
        containers = [container for held in self._all for container in held.containers]
        self._programs = [_Program(c, "threads", PLACE, each) for c in containers]

    def round(self, *, rest_s: float, down_s: float) -> dict[str, list[float]]:
        """Crash each once; return the errors that were seen, and of each reader the ms beyond.

        Beyond the absence of the dataset that crashed last, whose readers alone waited then.
        """
        pause(rest_s)
        self._collect()
        answered = [held.crash(down_s) for held in self._all][-1]
        pause(2 * callers.PAUSE_S)
        found = self._collect()
        errors = [error for of in found for error in of["errors"]]
        for error in errors:
            sys.stderr.write(f"a reader saw {error}\n")
        long = [calls for of in found for calls in of["long"]]
        beyond = [_beyond(calls, answered) for calls in long if calls]
        return {
            "errors": [len(errors)],
            "beyond": beyond,
            "first": [held.first_ms for held in self._all],
            "rss": [_held_mib()],
        }

    def _collect(self) -> list[dict[str, Any]]:
        for program in self._programs:
            program.tell()
        return [program.hear() for program in self._programs]


def _beyond(calls: list[tuple[float, float]], answered: float) -> float:
    """Return the ms for which a reader waited on when the daemon answered again."""
    return 1e3 * max([0.0, *(end - answered for began, end in calls if began < answered)])


def _held_mib() -> float:
    """Return the resident memory of holder and reader, what they share counted once."""
    pids = list(_holding())
    shared = min((processes.shared_mib(pid) for pid in pids), default=0.0)
    return sum(map(processes.memory_mib, pids)) - shared


def _holding() -> Iterator[int]:
    """Yield the processes of the holder and of the reader."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if {b"recover.seamless.holder", b"recover.seamless.reader"} & {*words}:
                yield int(pid)


class ReadOn:
    """So many readers of a file each, by a descriptor from before a crash and by a new one."""

    def __init__(
        self, machine: Machine, subject: Plugin, say: Callable[[str], None], *, readers: int
    ) -> None:
        _start(subject)
        held = _Held(machine, subject, containers=1)
        self._programs = [
            _Program(held.containers[0], "stream", f"{PLACE}/big{number}")
            for number in range(readers)
        ]
        held.crash(0.1)

    def round(self) -> dict[str, list[float]]:
        """Read all, old and new; return MiB/s, and how often the new one's time it took."""
        old_s, new_s = (self._read(old=old) for old in (True, False))
        mib = _MIB * len(self._programs)
        return {"old": [mib / old_s], "new": [mib / new_s], "times": [old_s / new_s]}

    def _read(self, *, old: bool) -> float:
        for program in self._programs:
            program.tell(old=old)
        seen = [program.hear() for program in self._programs]
        return max(float(s["ended"]) for s in seen) - min(float(s["began"]) for s in seen)
