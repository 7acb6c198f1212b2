"""A folder for mounts of our own, which nobody else is meant to meet.

It is locked for as long as its process lives.  What a process that was killed left behind is
removed by whoever looks next.
"""

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path

from recover.linux import syscalls
from recover.linux.procself import closing


class Hideout:
    """A new folder in the temporary directory; mounts stand on folders in it, not on itself."""

    def __init__(self, prefix: str) -> None:
        """Make it, once those of the prefix that nobody holds any more are gone; OSError."""
        sweep(prefix)
        self.path, self._lock = _reserve(prefix)

    def close(self) -> None:
        """Remove it with all that is mounted in it."""
        _remove(self.path)
        os.close(self._lock)


def sweep(prefix: str) -> None:
    """Remove the folders of a prefix whose processes ended."""
    for folder in sorted(Path(tempfile.gettempdir()).glob(f"{prefix}*")):
        with contextlib.suppress(OSError):  # it is in use, or just gone
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            with closing(os.open(folder, flags)) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder)


def _reserve(prefix: str) -> tuple[Path, int]:
    """Return a new folder and the descriptor that locks it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        with contextlib.suppress(FileNotFoundError):  # swept before it was locked
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock).st_nlink:
                return folder, lock
            os.close(lock)


def _remove(folder: Path) -> None:
    for place in folder.iterdir():
        with contextlib.suppress(OSError):  # nothing is mounted there (any more)
            while True:
                syscalls.umount2(str(place), syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
        with contextlib.suppress(OSError):  # what is left is for the next sweep
            place.rmdir()
    with contextlib.suppress(OSError):
        folder.rmdir()
