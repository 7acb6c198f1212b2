"""Touch a FUSE path with a time limit.

A request to a FUSE daemon that does not answer sleeps in the kernel and cannot be cancelled, so it
is made in another process (`probehelper`), or where that cannot be in a thread, and can be given
up.  Given-up calls are bounded: one for each key (while the old one sleeps, a new call of that key
fails at once), and `max_abandoned` in all.  What a pod can make hang, because it happens in its
mount namespace or for a copy there, has a bound apart, and each such *payer* a small one: the
plugin's own calls, and those for other pods, go on.  All end by themselves when the daemon answers
or its connection ends.
"""

import enum
import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from recover.errors import Crowded, Unanswered, Unstarted
from recover.linux import facilities, message, probehelper, procself, syscalls
from recover.linux.message import Descriptor
from recover.linux.probehelper import Asleep, ProbeHelper

T = TypeVar("T")
V = TypeVar("V")

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
    the daemon did not serve; is_directory what one that serves says of it; at the monotonic time in
    s at which `Prober.ask` had it.
    """

    answer: Answer
    dev: str = ""
    errno: int = 0
    mnt_id: int = 0
    is_directory: bool = field(default=True, compare=False)
    at: float = field(default=0.0, compare=False)

    @property
    def alive(self) -> bool:
        """Tell whether the daemon served the request."""
        return self.answer is Answer.ALIVE


class _Call(Generic[T]):
    """One call on its thread; whoever comes second, its end or the giving up, sees the other."""

    def __init__(
        self,
        helper: ProbeHelper | None,
        func: Callable[[], T],
        release: Callable[[], None],
        discard: Callable[[T], None],
    ) -> None:
        self._helper = helper
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
            with probehelper.bound(self._helper):
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


@dataclass(frozen=True, slots=True)
class _Sleeper:
    """A call that was given up; forget releases what it still has when it has ended."""

    key: Hashable
    payer: int | None
    has_ended: Callable[[], bool]
    forget: Callable[[], None] = _nothing


class Prober:
    """Makes calls that may hang, and counts those given up."""

    def __init__(
        self,
        *,
        timeout_s: float = 3.0,
        max_abandoned: int = 256,
        max_of_pods: int = 64,
        max_of_payer: int = 2,
        helper: ProbeHelper | None = None,
    ) -> None:
        """Take where requests to daemons are made; None: in this process, which they can keep."""
        self.timeout_s = timeout_s
        self._max_abandoned = max_abandoned
        self._max_of_pods = max_of_pods
        self._max_of_payer = max_of_payer
        self._lock = threading.Lock()
        self._abandoned: list[_Sleeper] = []
        self._helper = helper

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
            return self._sleeps(key)

    def refusal(self, key: Hashable, payer: int | None) -> Unanswered | Crowded | None:
        """Return what `run` would raise at once for a call of this key and payer, if anything."""
        with self._lock:
            self._forget_finished()
            return self._refusal(key, self.timeout_s, payer)

    def _sleeps(self, key: Hashable) -> bool:
        return any(key == sleeper.key for sleeper in self._abandoned)

    def call(
        self,
        key: Hashable,
        func: Callable[..., T],
        *arguments: object,
        timeout_s: float | None = None,
    ) -> T:
        """Return func(*arguments), made in the helper, or raise what it raises.

        func is found there by its name, and called again if the process goes away under it.  A
        descriptor that is lent is a `message.Descriptor`, for func a number.  Raises Unanswered and
        Crowded as `run` does, and Unstarted.
        """
        if self._helper is None:
            return self.run(key, lambda: probehelper.there(func, *arguments), timeout_s)
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        self._admit(key, limit_s, None)
        try:
            return self._helper.call(func, arguments, limit_s)
        except Asleep as error:
            with self._lock:
                self._abandoned.append(_Sleeper(key, None, error.line.has_ended, error.line.close))
            raise Unanswered(key, limit_s) from None

    def open(self, key: Hashable, func: Callable[..., int], *arguments: object) -> int:
        """Do what `call` does with a function that opens something; the descriptor is ours."""
        if self._helper is None:
            return self.run(key, lambda: func(*arguments), discard=os.close)
        return self.call(key, probehelper.given, func, *arguments)

    def run(
        self,
        key: Hashable | Callable[[], Hashable],
        func: Callable[[], T],
        timeout_s: float | None = None,
        release: Callable[[], None] = _nothing,
        discard: Callable[[T], None] = _nothing,
        payer: int | Callable[[], int | None] | None = None,
    ) -> T:
        """Return func(), made on a thread of its own, or raise what it raises.

        The requests that it makes to daemons (`ask`, a walk that the kernel has not in memory) are
        made in the other process, so the thread itself never sleeps where no signal reaches it.
        release is called exactly once: when func ends, however late, or when it was not started.
        discard takes a value that came too late, such as a descriptor to close.
        payer is the mount namespace (its inode) of the pod that could make it hang, None: no pod.
        Key and payer may be functions, asked at the beginning and again at the giving up: a call
        that does several things one after the other thus names the one that hangs.
        Raises Unanswered when it takes longer than timeout_s (default: the prober's) or when an
        earlier call of the same key still sleeps, Crowded when too many calls sleep.
        """
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        try:
            self._admit(_now(key), limit_s, _now(payer))
        except (Unanswered, Crowded):
            release()
            raise
        call = _Call(self._helper, func, release, discard)
        threading.Thread(target=call.run, name=f"probe {_now(key)}", daemon=True).start()
        if not call.done.wait(limit_s) and call.give_up():
            if self._helper is not None:
                self._helper.set_apart()
            with self._lock:
                self._abandoned.append(_Sleeper(_now(key), _now(payer), call.done.is_set))
            raise Unanswered(_now(key), limit_s)
        if call.error is not None:
            raise call.error
        return call.value

    def _admit(self, key: Hashable, limit_s: float, payer: int | None) -> None:
        with self._lock:
            self._forget_finished()
            refusal = self._refusal(key, limit_s, payer)
        if refusal is not None:
            raise refusal

    def _refusal(
        self, key: Hashable, limit_s: float, payer: int | None
    ) -> Unanswered | Crowded | None:
        if self._sleeps(key):
            return Unanswered(key, limit_s)
        payers = [sleeper.payer for sleeper in self._abandoned]
        of_ours = payers.count(None)
        if payer is None:
            count, most = of_ours, self._max_abandoned
        elif payers.count(payer) >= self._max_of_payer:
            count, most = payers.count(payer), self._max_of_payer
        else:
            count, most = len(payers) - of_ours, self._max_of_pods
        return Crowded(count) if count >= most else None

    def _forget_finished(self) -> None:
        for sleeper in self._abandoned[:]:
            if sleeper.has_ended():
                self._abandoned.remove(sleeper)
                sleeper.forget()

    def ask(self, path: str, timeout_s: float | None = None) -> Reply:
        """Ask the daemon behind a mount point; never raises for what a FUSE mount may do.

        Keyed by path and superblock: a stopped daemon must not stand for the one mounted over it.
        """
        return replace(self._ask(path, timeout_s), at=time.monotonic())

    def ask_all(self, key: Hashable, fds: Sequence[int]) -> list[Reply]:
        """Ask the daemons behind descriptors, in the fewest messages; raises as `call` does."""
        replies: list[Reply] = []
        while len(replies) < len(fds):
            rest = fds[len(replies) :][: message.MOST_DESCRIPTORS]
            replies += self.call(key, ask_some, *map(Descriptor, rest))
        return replies

    def _ask(self, path: str, timeout_s: float | None) -> Reply:
        dev = ""
        try:
            at_once = open_known(path)
            found = self.open(("open", path), _open, path) if at_once is None else at_once
            with procself.closing(found) as fd:
                dev = syscalls.statx(fd, "", _UNASKED, 0).dev
                return self.call((path, dev), _ask, Descriptor(fd), timeout_s=timeout_s)
        except (Unanswered, Crowded, Unstarted):
            return Reply(Answer.HUNG, dev)
        except (FileNotFoundError, NotADirectoryError):
            return Reply(Answer.ABSENT)
        except OSError as error:  # a directory above it is on a dead mount itself
            return Reply(_verdict(error), errno=error.errno or 0)


def open_known(path: str, rules: int = 0) -> int | None:
    """Open a place with O_PATH if the kernel has all of the way in memory, None if not; no wait.

    rules are RESOLVE_* ones; what they forbid is not opened either.
    """
    try:
        rules |= syscalls.RESOLVE_CACHED
        return syscalls.openat2(syscalls.AT_FDCWD, path, os.O_PATH, rules)
    except OSError:
        return None


def _now(value: V | Callable[[], V]) -> V:
    return value() if callable(value) else value


def _open(path: str) -> int:
    return os.open(path, os.O_PATH | os.O_CLOEXEC)


def ask_path(path: str) -> Reply:
    """Ask the daemon behind a mount point, unbounded: call it through a Prober."""
    return probehelper.there(_ask_path, path)


def _ask_path(path: str) -> Reply:
    try:
        fd = _open(path)
    except (FileNotFoundError, NotADirectoryError):
        return Reply(Answer.ABSENT)
    except OSError as error:  # a directory above it is on a dead mount itself
        return Reply(_verdict(error), errno=error.errno or 0)
    try:
        return _ask(fd)
    finally:
        os.close(fd)


def ask(fd: int) -> Reply:
    """Force a round trip to the server behind fd, unbounded: call it through a Prober.

    A stat may fail for reasons of the storage (EIO of an unreachable bucket, EACCES without
    allow_other) while the daemon lives, so such an error is checked against statfs(2), which asks
    the daemon about itself: only ENOTCONN or ECONNABORTED mean that it is dead.
    """
    return probehelper.there(_ask, Descriptor(fd))


def _ask(fd: int) -> Reply:
    try:
        if not facilities.has("statx_mnt_id"):  # so old may be one whose FUSE is not to be forced
            _ask_once(fd)
        found = syscalls.statx(fd, "", _FORCED, _WANTED)
        is_directory = stat.S_ISDIR(found.mode)
        return Reply(Answer.ALIVE, found.dev, mnt_id=found.mnt_id, is_directory=is_directory)
    except OSError as error:
        first = error.errno or 0
    dev = syscalls.statx(fd, "", _UNASKED, 0).dev
    if first in DEAD_ERRNOS:
        return Reply(Answer.DEAD, dev, first)
    try:
        _ask_once(fd)
    except OSError as error:
        return Reply(Answer.DEAD, dev, error.errno or 0)
    return Reply(Answer.FAILING, dev, first)


def ask_some(*fds: int, within_s: float = 1.0) -> list[Reply]:
    """Do what `ask` does for one after the other, as far as that goes within a time; not for none.

    To be called where requests are made: by `Prober.call`.
    """
    until = time.monotonic() + within_s
    replies: list[Reply] = []
    for fd in fds:
        replies.append(_ask(fd))
        if time.monotonic() >= until:
            break
    return replies


def ask_once(fd: int) -> None:
    """Send one request, which the daemon answers about itself; OSError if it is dead.

    Unbounded: call it through a Prober.
    """
    probehelper.there(_ask_once, Descriptor(fd))


def _ask_once(fd: int) -> None:
    try:
        os.fstatvfs(fd)
    except OSError as error:
        if error.errno in DEAD_ERRNOS:
            raise


def _verdict(error: OSError) -> Answer:
    return Answer.DEAD if error.errno in DEAD_ERRNOS else Answer.FAILING
