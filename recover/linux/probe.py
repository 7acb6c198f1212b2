"""Touch a FUSE path with a time limit.

A request to a FUSE daemon that does not answer sleeps in the kernel and cannot be cancelled, so it
runs in a thread that can be given up.  Given-up threads are bounded twice: one for each key (while
the old one sleeps, a new call of that key fails at once) and `max_abandoned` in all.  They end by
themselves when the daemon answers or its connection ends.
"""

import enum
import errno
import os
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from recover.errors import Crowded, Hung
from recover.linux import facilities, syscalls

T = TypeVar("T")

DEAD_ERRNOS = frozenset({errno.ENOTCONN, errno.ECONNABORTED})
_FORCED = syscalls.AT_STATX_FORCE_SYNC | syscalls.AT_EMPTY_PATH | syscalls.AT_NO_AUTOMOUNT
_UNASKED = syscalls.AT_STATX_DONT_SYNC | syscalls.AT_EMPTY_PATH | syscalls.AT_NO_AUTOMOUNT
_WANTED = syscalls.STATX_BASIC_STATS | syscalls.STATX_MNT_ID_UNIQUE


class Answer(enum.Enum):
    """How the daemon behind a mount answered a forced look."""

    ALIVE = "answers"
    DEAD = "is dead"
    FAILING = "answers with an error"
    HUNG = "does not answer"
    ABSENT = "is not mounted"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, where it came from, and the errno seen.

    dev is "major:minor" of the superblock, "" if unknown; mnt_id the unique id, 0 if unknown or if
    the daemon did not serve.
    """

    answer: Answer
    dev: str = ""
    errno: int = 0
    mnt_id: int = 0

    @property
    def alive(self) -> bool:
        """Tell whether the daemon served the request."""
        return self.answer is Answer.ALIVE


class _Call(Generic[T]):
    """One call on its thread; whoever comes second, its end or the giving up, sees the other."""

    def __init__(
        self, func: Callable[[], T], release: Callable[[], None], discard: Callable[[T], None]
    ) -> None:
        self._func = func
        self._release = release
        self._discard = discard
        self._lock = threading.Lock()
        self._given_up = False
        self.done = threading.Event()
        self.value: T
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.value = self._func()
        except BaseException as error:  # noqa: BLE001  handed to the caller, who raises it
            self.error = error
        self._release()
        with self._lock:
            self.done.set()
            unwanted = self._given_up and self.error is None
        if unwanted:
            self._discard(self.value)

    def give_up(self) -> bool:
        """Stop waiting; False if the call has ended after all."""
        with self._lock:
            self._given_up = not self.done.is_set()
            return self._given_up


def _nothing(*_: object) -> None:
    """Release or discard nothing."""


class Prober:
    """Runs calls that may hang, each in a thread of its own, and counts those given up."""

    def __init__(self, *, timeout_s: float = 3.0, max_abandoned: int = 64) -> None:
        self.timeout_s = timeout_s
        self._max_abandoned = max_abandoned
        self._lock = threading.Lock()
        self._abandoned: list[tuple[Hashable, threading.Event]] = []  # key, its end

    @property
    def abandoned(self) -> int:
        """Return how many calls were given up and still sleep."""
        with self._lock:
            self._forget_finished()
            return len(self._abandoned)

    def sleeps(self, key: Hashable) -> bool:
        """Tell whether a given-up call of this key still sleeps."""
        with self._lock:
            self._forget_finished()
            return any(key == sleeping for sleeping, _ in self._abandoned)

    def run(
        self,
        key: Hashable | Callable[[], Hashable],
        func: Callable[[], T],
        timeout_s: float | None = None,
        release: Callable[[], None] = _nothing,
        discard: Callable[[T], None] = _nothing,
    ) -> T:
        """Return func(), or raise what it raises.

        release is called exactly once: when func ends, however late, or when it was not started.
        discard takes a value that came too late, such as a descriptor to close.
        A key may be a function, asked at the beginning and again at the giving up: a call that does
        several things one after the other thus names the one that hangs.
        Raises Hung when it takes longer than timeout_s (default: the prober's) or when an earlier
        call of the same key still sleeps, Crowded when too many calls sleep.
        """
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        try:
            self._admit(_now(key), limit_s)
        except (Hung, Crowded):
            release()
            raise
        call = _Call(func, release, discard)
        threading.Thread(target=call.run, name=f"probe {_now(key)}", daemon=True).start()
        if not call.done.wait(limit_s) and call.give_up():
            with self._lock:
                self._abandoned.append((_now(key), call.done))
            raise Hung(_now(key), limit_s)
        if call.error is not None:
            raise call.error
        return call.value

    def _admit(self, key: Hashable, limit_s: float) -> None:
        with self._lock:
            self._forget_finished()
            if any(key == sleeping for sleeping, _ in self._abandoned):
                raise Hung(key, limit_s)
            if len(self._abandoned) >= self._max_abandoned:
                raise Crowded(len(self._abandoned))

    def _forget_finished(self) -> None:
        self._abandoned = [entry for entry in self._abandoned if not entry[1].is_set()]

    def ask(self, path: str, timeout_s: float | None = None) -> Reply:
        """Ask the daemon behind a mount point; never raises for what a FUSE mount may do.

        Keyed by path and superblock: a stopped daemon must not stand for the one mounted over it.
        """
        asking = [("open", path)]  # then path and superblock of what was opened there

        def open_and_ask() -> Reply:
            fd = _open(path)
            try:
                asking.append((path, syscalls.statx(fd, "", _UNASKED, 0).dev))
                if self.sleeps(asking[-1]):
                    return Reply(Answer.HUNG, asking[-1][1])
                return ask(fd)
            finally:
                os.close(fd)

        try:
            return self.run(lambda: asking[-1], open_and_ask, timeout_s)
        except (Hung, Crowded):
            return Reply(Answer.HUNG, asking[1][1] if len(asking) > 1 else "")
        except (FileNotFoundError, NotADirectoryError):
            return Reply(Answer.ABSENT)
        except OSError as error:  # a directory above it is on a dead mount itself
            return Reply(_verdict(error), errno=error.errno or 0)


def _now(key: Hashable | Callable[[], Hashable]) -> Hashable:
    return key() if callable(key) else key


def _open(path: str) -> int:
    return os.open(path, os.O_PATH | os.O_CLOEXEC)


def ask_path(path: str) -> Reply:
    """Ask the daemon behind a mount point, unbounded: call it through a Prober."""
    try:
        fd = _open(path)
    except (FileNotFoundError, NotADirectoryError):
        return Reply(Answer.ABSENT)
    except OSError as error:  # a directory above it is on a dead mount itself
        return Reply(_verdict(error), errno=error.errno or 0)
    try:
        return ask(fd)
    finally:
        os.close(fd)


def ask(fd: int) -> Reply:
    """Force a round trip to the server behind fd, unbounded.

    A stat may fail for reasons of the storage (EIO of an unreachable bucket, EACCES without
    allow_other) while the daemon lives, so such an error is checked against statfs(2), which asks
    the daemon about itself: only ENOTCONN or ECONNABORTED mean that it is dead.
    """
    try:
        if not facilities.has("statx_mnt_id"):  # so old may be one whose FUSE is not to be forced
            ask_once(fd)
        found = syscalls.statx(fd, "", _FORCED, _WANTED)
        return Reply(Answer.ALIVE, found.dev, mnt_id=found.mnt_id)
    except OSError as error:
        first = error.errno or 0
    dev = syscalls.statx(fd, "", _UNASKED, 0).dev
    if first in DEAD_ERRNOS:
        return Reply(Answer.DEAD, dev, first)
    try:
        ask_once(fd)
    except OSError as error:
        return Reply(Answer.DEAD, dev, error.errno or 0)
    return Reply(Answer.FAILING, dev, first)


def ask_once(fd: int) -> None:
    """Send one request, which the daemon answers about itself, unbounded; OSError if it is dead."""
    try:
        os.fstatvfs(fd)
    except OSError as error:
        if error.errno in DEAD_ERRNOS:
            raise


def _verdict(error: OSError) -> Answer:
    return Answer.DEAD if error.errno in DEAD_ERRNOS else Answer.FAILING
