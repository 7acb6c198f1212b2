"""What the pod says while the story goes on: its own listing, and the finer reader beside it.

Each follows one container's output on a thread of its own, which ends with the container.
"""

import errno
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from csi_fluid.demo import reader
from csi_fluid.testbed.pods import Container

LISTING = ("sh", "-c", "while true; do ls -l /data; sleep 1; done")


def reading(python: str, path: str) -> tuple[str, ...]:
    """Return the command of the reader: its text, because the pod does not have our package."""
    return python, "-SEc", Path(reader.__file__).read_text(encoding="utf-8"), path


@dataclass(frozen=True, slots=True)
class Line:
    """One line that the pod wrote; first means that a round of its loop begins."""

    text: str
    first: bool
    error: bool


class Listing:
    """Follows the `ls -l` loop: which names the last round showed, how many rounds went how."""

    def __init__(self, container: Container, tell: Callable[[Line], None]) -> None:
        self.listed = 0
        self.failed = 0
        self.names: frozenset[str] = frozenset()
        self._container = container
        self._tell = tell
        threading.Thread(target=self._follow, name="listing", daemon=True).start()

    def _follow(self) -> None:
        for text in self._container.lines():
            line = Line(text, text.startswith(("total ", "ls:")), text.startswith("ls:"))
            self._tell(line)
            self._count(line)

    def _count(self, line: Line) -> None:
        if line.error:
            self.failed += 1
        elif line.first:
            self.listed += 1
            self.names = frozenset()
        else:
            self.names |= {line.text.split()[-1]}


@dataclass(frozen=True, slots=True)
class Outage:
    """When the pod could not read, in monotonic seconds, and the errors it got."""

    begin: float
    end: float
    errors: frozenset[str]


class Reader:
    """Follows the reader: when reading began to fail and when it worked again."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._changes: list[tuple[float, str]] = []
        threading.Thread(target=self._follow, name="reader", daemon=True).start()

    def _follow(self) -> None:
        for line in self._container.lines():
            at, _, state = line.partition(" ")
            self._changes.append((int(at) / 1e9, state))

    @property
    def reads(self) -> bool:
        """Return whether the last look worked."""
        return bool(self._changes) and self._changes[-1][1] == "ok"

    def outage(self) -> Outage | None:
        """Return the time from the first look that failed to the last that worked again."""
        changes = list(self._changes)
        bad = [(at, errno.errorcode[int(state)]) for at, state in changes if state != "ok"]
        if not bad or changes[-1][1] != "ok":
            return None
        return Outage(bad[0][0], changes[-1][0], frozenset(name for _, name in bad))
