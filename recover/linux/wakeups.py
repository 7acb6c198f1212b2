"""What wakes recovery up: the best sources that kernel and privileges allow, in one wait.

Mount events: fanotify, else poll(2) on mountinfo.  Daemon exits: pidfds, else the process
connector. Each is tried when it is first needed; `names` tells what was found.
"""

import contextlib
import io
import os
import select
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from recover.linux import fanotify, fuse, procevents, syscalls


@dataclass(frozen=True, slots=True)
class Wake:
    """Why a wait ended: paths that were mounted, superblocks whose daemon ended, and by what.

    everything means that more may have happened than is listed; unread that mounts came which the
    caller did not want to know about.
    """

    by: frozenset[str] = frozenset()
    mounted: frozenset[str] = frozenset()
    ended: frozenset[str] = frozenset()
    everything: bool = False
    unread: bool = False


class WakeUps:
    """One wait over all sources; `wait` is for one thread, `poke` and `watch` for any."""

    def __init__(
        self,
        mount_events: Callable[[], fanotify.MountEvents] = fanotify.MountEvents,
        pidfd_open: Callable[[int], int] = syscalls.pidfd_open,
        process_exits: Callable[[], procevents.ProcessExits] = procevents.ProcessExits,
    ) -> None:
        """Take the doors to the kernel that may be missing."""
        self._pidfd_open = pidfd_open
        self._process_exits = process_exits
        self._lock = threading.Lock()
        self._epoll = select.epoll()
        self._poke_r, self._poke_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._epoll.register(self._poke_r, select.EPOLLIN)
        self._daemons: dict[int, set[str]] = {}  # process id -> superblocks that it may serve
        self._pidfds: dict[int, int] = {}  # pidfd -> process id
        self._exits: procevents.ProcessExits | None = None
        self._exits_refused = False
        self._events: fanotify.MountEvents | None = None
        self._table: io.FileIO | None = None
        try:
            self._events = mount_events()
            self._epoll.register(self._events.fileno(), select.EPOLLIN)
        except OSError:
            # A file of its own: whoever polls mountinfo takes note of the change.
            self._table = open("/proc/self/mountinfo", "rb", buffering=0)  # noqa: SIM115
            self._epoll.register(self._table.fileno(), select.EPOLLPRI | select.EPOLLERR)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the sources in use."""
        mounts = "fanotify" if self._events is not None else "mountinfo poll"
        exits = "process events" if self._exits is not None else "pidfd"
        return mounts, "none for daemon exits" if self._exits_refused else exits, "tick"

    def poke(self) -> None:
        """End the wait now."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._poke_w, b"!")

    def watch(self, dev: str) -> bool:
        """Wake up when a process that serves this superblock ends; reads all of /proc.

        False if there is none: it ended already, or is out of sight.
        """
        with self._lock:
            if any(dev in served for served in self._daemons.values()):
                return True
        watched = [self._watch_process(pid, dev) for pid in fuse.daemons(dev)]
        return any(watched)

    def _watch_process(self, pid: int, dev: str) -> bool:
        """Watch a process for one more superblock; before Linux 6.16 it may serve any of them."""
        with self._lock:
            is_told = pid in self._daemons or self._listen(pid)
            if is_told:
                self._daemons.setdefault(pid, set()).add(dev)
        return is_told

    def _listen(self, pid: int) -> bool:
        """Have the end of a process told; False if it has ended, or nothing tells of it."""
        try:
            pidfd = self._pidfd_open(pid)
        except ProcessLookupError:
            return False
        except OSError:
            # It may have ended before we listened.
            return self._listen_to_exits() and os.path.exists(f"/proc/{pid}")
        self._pidfds[pidfd] = pid
        self._epoll.register(pidfd, select.EPOLLIN)
        return True

    def _listen_to_exits(self) -> bool:
        if self._exits is None and not self._exits_refused:
            try:
                self._exits = self._process_exits()
                self._epoll.register(self._exits.fileno(), select.EPOLLIN)
            except (OSError, ImportError):
                self._exits_refused = True
        return not self._exits_refused

    def forget(self, keep: Iterable[str]) -> None:
        """Stop watching the daemons of all superblocks but these."""
        kept = set(keep)
        with self._lock:
            served = {pid: devs & kept for pid, devs in self._daemons.items()}
            self._daemons = {pid: devs for pid, devs in served.items() if devs}
            gone = [fd for fd, pid in self._pidfds.items() if pid not in self._daemons]
            for fd in gone:
                del self._pidfds[fd]
        for fd in gone:
            self._drop(fd)

    def wait(self, timeout_s: float, *, name_mounts: bool = True) -> Wake:
        """Wait for something to happen, at most timeout_s; an empty Wake means that time is up.

        name_mounts=False saves a system call for each mount that comes.
        """
        by: set[str] = set()
        mounted: set[str] = set()
        ended: set[str] = set()
        everything = unread = False
        for fd, _ in self._epoll.poll(max(timeout_s, 0.0)):
            if fd == self._poke_r:
                os.read(self._poke_r, 4096)
            elif self._events is not None and fd == self._events.fileno():
                by.add("fanotify")
                if not name_mounts:
                    self._events.drain()
                    unread = True
                    continue
                events = self._events.read()
                mounted |= {event.mount_point for event in events if event.attached}
                everything = everything or any(event.overflow for event in events)
            elif self._table is not None and fd == self._table.fileno():
                by.add("mountinfo poll")
                everything = True
            elif self._exits is not None and fd == self._exits.fileno():
                gone, lost = self._ended_by_events(self._exits)
                ended |= gone
                everything = everything or lost
                if gone or lost:  # most that ends on the machine is nothing to us
                    by.add("process events")
            else:
                by.add("pidfd")
                ended |= self._ended(fd)
        return Wake(frozenset(by), frozenset(mounted), frozenset(ended), everything, unread)

    def _ended(self, pidfd: int) -> set[str]:
        with self._lock:
            pid = self._pidfds.pop(pidfd, None)
            if pid is None:
                return set()
            ended = self._daemons.pop(pid, set())  # process events may have told it first
        self._drop(pidfd)
        return ended

    def _ended_by_events(self, exits: procevents.ProcessExits) -> tuple[set[str], bool]:
        try:
            pids = exits.read()
        except OSError:  # the kernel dropped messages
            return set(), True
        with self._lock:
            return set().union(*(self._daemons.pop(pid, set()) for pid in pids)), False

    def _drop(self, fd: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._epoll.unregister(fd)
        os.close(fd)

    def close(self) -> None:
        """Release everything."""
        self.forget(())
        if self._exits is not None:
            self._exits.close()
        if self._events is not None:
            self._events.close()
        if self._table is not None:
            self._table.close()
        self._epoll.close()
        os.close(self._poke_r)
        os.close(self._poke_w)
