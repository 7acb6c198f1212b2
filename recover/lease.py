"""Only one process heals at a time: flock(2) on a file beside the state file.

Two processes that swap one copy at once (the plugin, and an operator's `csi-fluid recover`) would
both attach their clone.  Threads of one process share the lease.
A process that is stopped while it holds the lease must not stop healing, so the wait is bounded;
what two heals may then leave is one more layer, never a bare directory.
"""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_WAIT_S = 2.0
_POLL_S = 0.01


class Lease:
    """The right to heal, held by this process while any of its threads heals."""

    def __init__(self, path: Path | None, *, wait_s: float = _WAIT_S) -> None:
        """Take the file to lock, made when first needed; None where nobody else can heal.

        wait_s is how long another process may keep it before `hold` yields False.
        """
        self._path = path
        self._wait_s = wait_s
        self._guard = threading.Lock()
        self._pause = threading.Event()  # never set
        self._users = 0
        self._fd: int | None = None

    @contextlib.contextmanager
    def hold(self) -> Iterator[bool]:
        """Hold the lease for a block; yields False if another process kept it too long."""
        with self._guard:
            self._users += 1
            if self._users == 1:
                self._fd = self._acquire()
            held = self._fd is not None or self._path is None
        try:
            yield held
        finally:
            with self._guard:
                self._users -= 1
                if self._users == 0 and self._fd is not None:
                    os.close(self._fd)
                    self._fd = None

    def _acquire(self) -> int | None:
        if self._path is None:
            return None
        try:
            fd = _open(self._path)
        except OSError:  # no place for a state file either: then nobody else finds it
            return None
        deadline = time.monotonic() + self._wait_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    os.close(fd)
                    return None
                self._pause.wait(_POLL_S)
            else:
                return fd


class LockFile:
    """A lock file held for a long time: what another process then meets with `Lease`."""

    def __init__(self, path: Path) -> None:
        """Take the file to lock; nothing is locked yet."""
        self._path = path
        self._fd: int | None = None

    def take(self) -> bool:
        """Lock it, at once or not at all; True if it is held already.

        False too where there is no directory for it.
        """
        if self._fd is not None:
            return True
        try:
            fd = _open(self._path)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._fd = fd
        return True

    @property
    def is_held(self) -> bool:
        """Return whether it is locked, and the file is still the one at the path."""
        return self._fd is not None and self.is_valid

    @property
    def is_valid(self) -> bool:
        """Return whether what is held is still the file at the path, not one removed meanwhile."""
        try:
            there = self._path.stat()
        except OSError:
            return self._fd is None
        return self._fd is None or os.path.samestat(os.fstat(self._fd), there)

    def close(self) -> None:
        """Release it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
