"""This process's own mount table, read again only when the kernel says that it changed."""

import select
import threading

from recover.linux import mountinfo
from recover.linux.mountinfo import MountTable


class OwnTable:
    """A parsed mount table that is always current.

    poll(2) on an open mountinfo reports every change once; each instance has its own open file.
    Thread-safe.  Close it when done.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file = open("/proc/self/mountinfo", "rb", buffering=0)  # noqa: SIM115  closed by close()
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLPRI | select.POLLERR)
        self._table = MountTable(())
        self._version = 0

    def current(self) -> MountTable:
        """Return the table as it is now."""
        with self._lock:
            if self._poll.poll(0) or not self._version:
                self._version += 1
                self._table = mountinfo.read()
            return self._table

    @property
    def version(self) -> int:
        """Return a number that grows with every change that was looked at."""
        self.current()
        return self._version

    def fileno(self) -> int:
        """Return the descriptor to poll for POLLPRI."""
        return self._file.fileno()

    def close(self) -> None:
        """Release the open file."""
        self._file.close()
