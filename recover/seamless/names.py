"""What the numbers of a dead daemon's connection mean: pure bookkeeping, safe for several threads.

The kernel knows files by the numbers that their daemon gave them; the numbers that are given out
here lie where no daemon's do (they use counters, pointers and inode numbers).
"""

import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from recover.seamless import wire

_OWN = 1 << 62
_EACH = 1 << 40  # numbers of one life of the reader: those of an earlier one may still be in use
_SEEN = 6  # generations besides 0 and 1 that are tried first
_SMALL, _GUESSES = 64, 20_000


@dataclass(frozen=True, slots=True)
class Version:
    """By what two versions of a file's content are told apart."""

    size: int
    mtime_ns: int


@dataclass(slots=True)
class Node:
    """A file as the kernel knows it.

    generation must be the kernel's in every answer, or the inode turns bad for everybody; ino is
    the inode number that programs saw (0: as found); version is None but for regular files.
    """

    path: str
    generation: int = 0
    ino: int = 0
    version: Version | None = None
    lookups: int = 0


def version_of(mode: int, size: int, mtime_ns: int) -> Version | None:
    """Return the version of a file with these attributes, None if it has none."""
    return Version(size, mtime_ns) if stat.S_ISREG(mode) else None


def join(folder: str, name: str) -> str:
    """Return the path of a name in a folder; "" is the volume's root."""
    return f"{folder}/{name}" if folder else name


class Names:
    """The nodes of one connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nodes: dict[int, Node] = {wire.ROOT: Node("")}
        self._numbers: dict[str, int] = {"": wire.ROOT}
        self._next = _OWN + (int.from_bytes(os.urandom(3)) >> 4) * _EACH
        self._seen: tuple[int, ...] = (0, 1)  # generations, the latest last
        self._drift = 0  # from the number last learned to its generation

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, number: int) -> Node | None:
        """Return what a number means, None if that is not known here."""
        return self._nodes.get(number)

    def known(self) -> list[tuple[int, Node]]:
        """Return all numbers and what they mean."""
        with self._lock:
            return list(self._nodes.items())

    def learn(self, number: int, node: Node) -> Node:
        """Take note of a number that the dead daemon gave out."""
        with self._lock:
            if node.generation not in self._seen:
                self._seen = (0, 1, *(*self._seen[2:], node.generation)[-_SEEN:])
                self._drift = node.generation - number
            self._numbers.setdefault(node.path, number)
            return self._nodes.setdefault(number, node)

    def generations(self, number: int) -> Iterator[int]:
        """Yield what the generation of a number may be, the likely ones first.

        Most daemons use one or two.  Some count up what they give out anew (gocryptfs, rclone), and
        stay small, or keep about the same distance from the number.
        """
        yield from self._seen
        yield from range(2, _SMALL)
        near = number + self._drift
        for step in range(_GUESSES // 2):
            for guess in (near + step, near - step - 1):
                if 1 < guess < 1 << 32:
                    yield guess

    def look_up(self, path: str, version: Version | None) -> tuple[int, Node]:
        """Return number and node of a path that the kernel asks for, and count that.

        What somebody holds keeps its number, or the kernel would cut it off from its name; where
        the content changed the number is a new one, so that both versions are told apart.
        """
        with self._lock:
            number = self._numbers.get(path)
            node = None if number is None else self._nodes[number]
            if number is None or node is None or node.version != version:
                self._next += 1
                number, node = self._next, Node(path, version=version)
                self._nodes[number], self._numbers[path] = node, number
            node.lookups += 1
            return number, node

    def forget(self, number: int, count: int) -> bool:
        """Take note that the kernel gives lookups back; tell whether the number is gone with it."""
        with self._lock:
            node = self._nodes.get(number)
            if node is None or number == wire.ROOT:
                return False
            node.lookups -= count
            if number >= _OWN and node.lookups > 0:
                return False  # of a dead daemon's numbers the kernel gives back all at once
            del self._nodes[number]
            if self._numbers.get(node.path) == number:
                del self._numbers[node.path]
            return True
