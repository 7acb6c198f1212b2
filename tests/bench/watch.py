"""Sees a heal from outside any plugin: a process that obeys lines of JSON.

It sleeps in epoll(7) on the mount tables of the node and of every container, so it takes no time
from what it watches; the kernel wakes it at each change.  Then it asks: does the source answer
(that is when a heal's clock starts), and do the sampled targets and containers show the new mount,
by a forced request along the path that a process there would walk.  Of the other containers it
notes the last change; at the end every one of them is asked, so nothing counts that does not work.
"""

import gc
import os
import select
import time
from dataclasses import dataclass, field
from typing import Any

from recover.linux import mountinfo, syscalls
from tests.bench import wire
from tests.bench.machine import PLACE

_FORCED = syscalls.AT_STATX_FORCE_SYNC | syscalls.AT_EMPTY_PATH
_SETTLE_S = 0.1  # no change for so long: look whether all is well


def _alive_dev(path: str) -> str:
    """Return the superblock that answers at a path, "" if none does."""
    try:
        fd = os.open(path, os.O_PATH)
    except OSError:
        return ""
    try:
        return syscalls.statx(fd, "", _FORCED, syscalls.STATX_TYPE).dev
    except OSError:
        return ""
    finally:
        os.close(fd)


@dataclass(slots=True)
class _Seen:
    """What was seen of one heal: monotonic seconds."""

    live: str = ""  # the superblock that answers at the source
    answered: float = 0.0
    pending: dict[str, str] = field(default_factory=dict)  # sampled: path -> name
    healed: dict[str, float] = field(default_factory=dict)  # sampled: name -> when
    changed: dict[int, float] = field(default_factory=dict)  # container -> last change


class Watcher:
    """Watches one source, its targets and its containers."""

    def __init__(
        self,
        source: str,
        plain_dev: str,
        targets: list[str],
        containers: list[int],
        sampled: list[int],
    ) -> None:
        self._source = source
        self._plain_dev = plain_dev
        self._places = {f"host {i}": targets[i] for i in sampled}
        self._places |= {f"inside {i}": f"/proc/{containers[i]}/root{PLACE}" for i in sampled}
        self._all = [*targets, *(f"/proc/{pid}/root{PLACE}" for pid in containers)]
        self._containers = containers
        self._epoll = select.epoll()
        self._own = os.open("/proc/self/mountinfo", os.O_RDONLY)
        self._epoll.register(self._own, select.EPOLLPRI)
        self._tables: dict[int, int] = {}
        for number, pid in enumerate(containers):
            fd = os.open(f"/proc/{pid}/mountinfo", os.O_RDONLY)
            self._tables[fd] = number
            self._epoll.register(fd, select.EPOLLPRI)

    def arm(self) -> None:
        """Forget the changes up to now."""
        while self._epoll.poll(0.0):
            pass

    def watch(self, timeout_s: float) -> dict[str, Any]:
        """Return what was seen when all is healed, or at the end of the time."""
        seen = _Seen(pending={path: name for name, path in self._places.items()})
        end = time.monotonic() + timeout_s
        bad: list[str] = []
        while time.monotonic() < end:
            events = self._epoll.poll(_SETTLE_S)
            if events:
                self._note(seen, [fd for fd, _ in events])
            elif seen.live and not seen.pending and not (bad := self._bad(seen.live)):
                break
            elif seen.live:
                self._ask(seen)
        return {
            "answered": seen.answered,
            "healed": seen.healed,
            "changed": list(seen.changed.values()),
            "layers": self._layers(),
            "bad": sorted({*seen.pending, *bad}),
        }

    def _note(self, seen: _Seen, fds: list[int]) -> None:
        now = time.monotonic()
        for fd in fds:
            if fd != self._own:
                seen.changed[self._tables[fd]] = now
        if not seen.live:
            dev = _alive_dev(self._source)
            if dev not in {"", self._plain_dev}:
                seen.live, seen.answered = dev, time.monotonic()
        if seen.live:
            self._ask(seen)

    def _ask(self, seen: _Seen) -> None:
        for path in list(seen.pending):
            if _alive_dev(path) == seen.live:
                seen.healed[seen.pending.pop(path)] = time.monotonic()

    def _bad(self, live: str) -> list[str]:
        return [path for path in self._all if _alive_dev(path) != live]

    def _layers(self) -> int:
        own = mountinfo.read()
        targets = self._all[: -len(self._containers)]
        inside = (mountinfo.read(pid).stack(PLACE) for pid in self._containers)
        return max(len(stack) for stack in (*map(own.stack, targets), *inside))


def main() -> None:
    """Obey until the orders end."""
    orders = wire.orders()
    watcher = Watcher(**next(orders))
    gc.disable()
    wire.answer()
    for order in orders:
        watcher.arm()
        wire.answer()
        wire.answer(**watcher.watch(**order))


if __name__ == "__main__":
    main()
