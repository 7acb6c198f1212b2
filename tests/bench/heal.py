"""How long a heal takes, seen by a watcher outside of the plugin."""

import time
from collections.abc import Callable
from typing import Any

from csi_fluid.testbed.pods import Propagation
from csi_fluid.testbed.waiting import pause
from tests.bench import processes, wire
from tests.bench.machine import Fuse, Machine, start_containers
from tests.bench.subjects import Subject

_SAMPLED = 10  # so many targets and containers are asked at each change
Say = Callable[[str], None]


class Heal:
    """Crashes of one dataset's daemon, which so many pods use, each with a target of its own.

    private: mounts do not propagate to the containers.  hung: a second dataset is published beside
    it whose daemon was stopped for good.
    """

    def __init__(
        self,
        machine: Machine,
        subject: Subject,
        say: Say,
        *,
        containers: int,
        private: bool = False,
        hung: bool = False,
        timeout_s: float,
    ) -> None:
        self._subject = subject
        self._timeout_s = timeout_s
        self._fuse = Fuse(machine)
        self._fuse.serve()
        subject.start()
        self._targets = [machine.target(f"{i:06}", "default-demo") for i in range(containers)]
        for number, target in enumerate(self._targets, 1):
            subject.publish(self._fuse.volume, target)
            say(f"{number} of {containers} published")
        if hung:
            _publish_hung(machine, subject)
        self._private = private
        self._containers: list[int] = []
        propagation = Propagation.NONE if private else Propagation.HOST_TO_CONTAINER
        for container in start_containers(machine, self._targets, propagation):
            self._containers.append(container.pid)
            say(f"{len(self._containers)} of {containers} containers started")
        self._watcher = self._start_watcher()
        self._healed_at = time.monotonic()

    def _start_watcher(self) -> wire.Servant:
        count = len(self._targets)
        step = max(1, (count - 1) / (_SAMPLED - 1))
        watcher = wire.Servant("tests.bench.watch")
        watcher.tell(
            source=str(self._fuse.source),
            plain_dev=self._fuse.plain_dev,
            targets=list(map(str, self._targets)),
            containers=self._containers,
            sampled=sorted({min(round(i * step), count - 1) for i in range(_SAMPLED)}),
        )
        watcher.hear()
        return watcher

    def round(self, *, rest_s: float, down_s: float) -> dict[str, list[float]]:
        """Crash once, be down for a time, come back, and return the ms since it answered.

        Also cpu, the ms that the plugin took until it rested, and rss, its MiB then.  The crash
        comes so long after the last heal, at a random phase of whatever period the plugin has.
        Raises RuntimeError if not all is healed in time.
        """
        pause(max(0.0, self._healed_at + rest_s - time.monotonic()))
        self._fuse.kill()
        self._fuse.unmount()
        pause(down_s)
        used = processes.cpu_s(self._subject.pid)
        self._watcher.tell(timeout_s=self._timeout_s)
        self._watcher.hear()
        visited = self._containers if self._private else []
        self._subject.heal(self._fuse.source, visited)
        self._fuse.start()
        seen = self._watcher.hear()
        self._healed_at = time.monotonic()
        if seen["bad"]:
            bad, count = seen["bad"], 2 * len(self._targets)
            raise RuntimeError(
                f"{len(bad)} of {count} paths not healed in {self._timeout_s:g} s: {bad[:3]}"
            )
        told = self._subject.healed()
        cpu = (processes.rest(self._subject.pid) - used) * 1e3
        rss = processes.memory_mib(self._subject.pid)
        return _samples(seen) | told | {"cpu": [cpu], "rss": [rss], "down": [down_s * 1e3]}


def _publish_hung(machine: Machine, subject: Subject) -> None:
    fuse = Fuse(machine, "hung")
    subject.publish(fuse.serve(), machine.target("hung", "default-hung"))
    fuse.freeze()


def _samples(seen: dict[str, Any]) -> dict[str, list[float]]:
    def since(moment: float) -> float:
        return (moment - float(seen["answered"])) * 1e3

    sampled = {name: since(moment) for name, moment in seen["healed"].items()}
    return {
        "host": [ms for name, ms in sampled.items() if name.startswith("host")],
        "inside": [ms for name, ms in sampled.items() if name.startswith("inside")],
        "last": [max(*map(since, seen["changed"]), *sampled.values())],
        "layers": [seen["layers"]],
    }
