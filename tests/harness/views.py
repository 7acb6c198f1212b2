"""What a process sees of a volume, looked at from outside through /proc/PID/root."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from recover.linux import mountinfo
from recover.linux.mountinfo import Mount
from recover.linux.probe import Prober

T = TypeVar("T")


class View:
    """The file system as one process sees it; a look ends within timeout_s (Unanswered)."""

    def __init__(self, pid: int, timeout_s: float = 5.0) -> None:
        self.pid = pid
        self._root = Path(f"/proc/{pid}/root")
        self._prober = Prober(timeout_s=timeout_s)

    def layers(self, path: str | Path) -> tuple[Mount, ...]:
        """Return the mounts exactly at path, bottom first: id, superblock, flags, peer groups."""
        return mountinfo.read(self.pid).stack(str(path))

    def names(self, path: str | Path) -> set[str] | int:
        """Return the names in a directory, or the errno of the attempt."""
        return self._try(path, lambda place: set(os.listdir(place)))

    def read(self, path: str | Path) -> bytes | int:
        """Return the content of a file, or the errno of the attempt."""
        return self._try(path, lambda place: place.read_bytes())

    def write(self, path: str | Path, data: bytes) -> int:
        """Write a file; return 0, or the errno of the attempt."""
        result = self._try(path, lambda place: place.write_bytes(data) and 0)
        return int(result)

    def error(self, path: str | Path) -> int:
        """Return the errno of listing a directory, 0 when it works."""
        names = self.names(path)
        return names if isinstance(names, int) else 0

    def _try(self, path: str | Path, look: Callable[[Path], T]) -> T | int:
        place = self._root / str(path).lstrip("/")
        try:
            return self._prober.run((self.pid, place), lambda: look(place))
        except TimeoutError:
            raise
        except OSError as error:
            return error.errno or -1
