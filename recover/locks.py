"""One lock for each key, shared by the RPCs and recovery.

Keys are targets.  A lock is held over system calls that cannot hang, never over a wait for a FUSE
daemon or the API server, so waiting for one is short.
"""

import contextlib
import threading
from collections.abc import Iterator

from recover.errors import Busy


class Locks:
    """Locks by key, made when first wanted and dropped when nobody holds or wants them."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held: dict[str, tuple[threading.Lock, int]] = {}

    @contextlib.contextmanager
    def hold(self, key: str, *, wait_s: float = 0.0) -> Iterator[None]:
        """Hold the lock of a key for a block; raises Busy when it is not free within wait_s."""
        lock = self._want(key)
        try:
            if not lock.acquire(timeout=wait_s) if wait_s > 0 else not lock.acquire(blocking=False):
                raise Busy(key)
            try:
                yield
            finally:
                lock.release()
        finally:
            self._drop(key)

    def _want(self, key: str) -> threading.Lock:
        with self._guard:
            lock, users = self._held.get(key, (threading.Lock(), 0))
            self._held[key] = lock, users + 1
            return lock

    def _drop(self, key: str) -> None:
        with self._guard:
            lock, users = self._held[key]
            if users == 1:
                del self._held[key]
            else:
                self._held[key] = lock, users - 1
