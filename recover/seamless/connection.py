"""One FUSE connection of which the holder has copies: read, answered, let go.

While its daemon lives nothing is read: that would steal the daemon's requests.
"""

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from recover.linux import facilities, syscalls
from recover.seamless import callers, copies, wire
from recover.seamless.line import Line, Waiting
from recover.seamless.link import Answer, Link

_BUFFER = (1 << 20) + 8192  # what the kernel may want to hand over at once: max_write and a head
_BURST = 16  # requests of one connection before another's turn
_SWEPT = 512  # numbers that are tried before another's turn
_POLLED = 256  # callers that are looked after without a sign that they were interrupted


class Over(Exception):
    """Nobody uses the connection any more, or somebody aborted it."""


@dataclass(slots=True)
class Tally:
    """What was done for the callers of a connection; longest_s is the longest wait."""

    served: int = 0
    read_bytes: int = 0
    walked_again: int = 0
    refused: int = 0
    failed: int = 0
    killed: int = 0
    longest_s: float = 0.0

    def add(self, other: "Tally") -> None:
        """Add another one, as of a connection that is over."""
        for name in ("served", "read_bytes", "walked_again", "refused", "failed", "killed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.longest_s = max(self.longest_s, other.longest_s)


@dataclass(slots=True)
class Connection:
    """A connection: copies of its descriptors, its daemons, and who waits.

    died_at is the monotonic time when its last daemon had ended, None while one lives.  first_s is
    how long after the last swap, of served_at, the first caller had his answer; 0: nobody yet.
    is_proven says that it is the connection of this superblock: where the kernel does not tell,
    mark is the number that has to come by it first, which is sent on its way at asked_at.
    sent_again are the threads, or users, that were sent to walk again.
    Where the kernel does not send again what the dead daemon had read, requests below unread may
    be such: None until the first one came that he cannot have read.
    """

    source: str
    dev: str
    copies: list[int] = field(default_factory=list)
    daemons: dict[int, int] = field(default_factory=dict)  # pidfd -> pid
    line: Line = field(default_factory=Line)
    link: Link | None = None
    tally: Tally = field(default_factory=Tally)
    died_at: float | None = None
    served_at: float = 0.0
    first_s: float = 0.0
    is_resent: bool = False
    unread: int | None = 0
    ids_are_ours: bool = False
    is_proven: bool = True
    mark: int = field(default_factory=lambda: secrets.randbits(62))
    asked_at: float | None = None
    sent_again: set[int | tuple[int, int]] = field(default_factory=set)

    @property
    def number(self) -> int:
        """Return the kernel's number of it."""
        return int(self.dev.partition(":")[2])

    def fileno(self) -> int:
        """Return the descriptor that is read and written; the other ones are only kept open."""
        return self.copies[0]

    def adopt(self, pid: int) -> int | None:
        """Copy a daemon's descriptors, again if it has more; return a new pidfd to be watched.

        Raises OSError where that is refused or it serves no such connection.
        """
        if pid in self.daemons.values():
            if len(copies.numbers(pid, self.number)) > len(self.copies):
                self._replace(copies.of(pid, self.number))
            return None
        found = copies.of(pid, self.number)
        pidfd = syscalls.pidfd_open(pid)
        self.daemons[pidfd] = pid
        self.ids_are_ours = copies.same_pid_namespace(pid)
        self._replace([*found, *self.copies[len(found) :]])
        return pidfd

    def _replace(self, found: list[int]) -> None:
        old, self.copies = self.copies, found
        for fd in old:
            if fd not in found:
                os.close(fd)

    def hold(self) -> None:
        """Take over from the dead daemon: its unanswered requests come back, and are to be read."""
        self.died_at = time.monotonic()
        with contextlib.suppress(OSError):  # nobody uses the connection
            if facilities.has("fuse_resend"):
                self.is_resent = os.write(self.fileno(), wire.RESEND) > 0
        self.unread = 0 if self.is_resent else None
        os.set_blocking(self.fileno(), False)  # the flag was the daemon's too

    def read(self, buffer: bytearray) -> None:
        """Take what the kernel has for us, answering what can be; raises Over."""
        for _ in range(_BURST):
            try:
                length = os.readv(self.fileno(), [buffer])
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    return
                if error.errno in {errno.EINTR, errno.ENOENT}:  # the caller has given it up
                    continue
                raise Over from error
            message = bytes(buffer[:length])
            if self.unread is None and not wire.unique_of(message) % 2:  # of an INTERRUPT it is odd
                self.unread = wire.unique_of(message)
            answer = self._prove(message) or self.line.take(message, time.monotonic())
            if answer is not None:
                self._write(answer)

    def _prove(self, message: bytes) -> bytes | None:
        """Return the answer to our mark, by which this is the superblock's connection."""
        if self.is_proven:
            return None
        with contextlib.suppress(wire.Malformed):
            self.is_proven = wire.is_mark(wire.parse(message), self.mark)
        return wire.reply(wire.unique_of(message), errno.ENODATA) if self.is_proven else None

    def sweep(self) -> None:
        """End some of the requests that the dead daemon may have read, the last ones first.

        Their numbers can be told: the kernel counts by two.  ESTALE has a path walked once more;
        of the pages that were read ahead nobody sees it.
        """
        for _ in range(_SWEPT if self.unread else 0):
            assert self.unread is not None
            self.unread -= 2
            if self.unread <= 0:
                return
            if self.line.has(self.unread):
                continue
            reply = wire.reply(self.unread, errno.ESTALE)
            for fd in self.copies:  # each has those that were read by it
                with contextlib.suppress(OSError):  # almost all were answered long ago
                    os.write(fd, reply)
                    self.tally.walked_again += 1

    def _write(self, *pieces: bytes | memoryview) -> None:
        with contextlib.suppress(OSError):  # nobody waits for it any more
            os.writev(self.fileno(), pieces)

    # -- with the reader -------------------------------------------------------------------------

    def pump(self, may: Callable[[Waiting], bool] | None = None) -> None:
        """Hand the reader what it may be given now, all where nobody says what."""
        if self.link is None:
            return
        try:
            for message in self.line.forgotten():
                self.link.ask(message)
            for waiting, slot, start, length in self.line.at_hand(time.monotonic()):
                data = self.link.slot(slot, length, start)
                self._write(wire.reply(waiting.request.unique, 0, length), data)
                self._count(waiting, length)
            for waiting in self.line.due(may or (lambda _: True)):
                self.link.ask(waiting.message, waiting.slot, waiting.want)
            for waiting in () if may else self.line.look_ahead(time.monotonic()):
                self.link.ask(waiting.message, waiting.slot, waiting.want)
        except OSError:
            self.cut()

    def answered(self) -> None:
        """Pass on what the reader has answered."""
        while self.link is not None:
            try:
                self._pass_on(self.link, self.link.answered())
            except BlockingIOError:
                return
            except (OSError, EOFError):
                self.cut()

    def _pass_on(self, link: Link, answer: Answer) -> None:
        ahead = self.line.ahead.pop(answer.unique, None)
        if ahead is not None:
            self.line.keep(ahead, answer.shared, time.monotonic())
            return
        waiting, slot = self.line.served(answer.unique)
        if waiting is None:
            self.line.release(slot)
            return
        length = min(answer.shared, waiting.span.size) if waiting.span is not None else 0
        data = link.slot(slot, length) if length else memoryview(b"")
        head = wire.reply(answer.unique, answer.error, len(answer.body) + length)
        self._write(head, answer.body, data)
        self._count(waiting, length, answer.error)
        self.line.keep(waiting, answer.shared, time.monotonic())

    def _count(self, waiting: Waiting, length: int, error: int = 0) -> None:
        now = time.monotonic()
        self.first_s = self.first_s or now - self.served_at
        self.tally.served += 1
        self.tally.read_bytes += length
        self.tally.walked_again += error == errno.ESTALE
        self.tally.refused += error == errno.EIO
        self.tally.longest_s = max(self.tally.longest_s, now - waiting.since)

    def rest(self, now: float) -> None:
        """Give the memory of what was read back when nobody reads on."""
        if self.link is not None and self.line.rest(now):
            with contextlib.suppress(OSError):
                self.link.empty()

    def cut(self) -> None:
        """Take note that the reader is gone; what it had waits for the next one."""
        link, self.link = self.link, None
        if link is not None:
            link.close()
        self.line.take_back()

    # -- ends of waits ---------------------------------------------------------------------------

    def fail_all(self) -> None:
        """End all waits with ENOTCONN, as if nothing was held."""
        for waiting in self.line.all_waiting():
            self._end(waiting, errno.ENOTCONN)
            self.tally.failed += 1

    def let_killed_go(self) -> None:
        """End the waits of callers that are to be killed: they cannot end by themselves."""
        waiting = self.line.all_waiting()
        users: frozenset[tuple[int, int]] | None = None
        for each in waiting:
            if not each.interrupted and len(waiting) > _POLLED:
                continue
            request = each.request
            if self.ids_are_ours and request.pid:
                is_killed = callers.is_killed(request.pid)
            elif each.interrupted:
                users = callers.killed_users() if users is None else users
                is_killed = (request.uid, request.gid) in users
            else:
                continue
            if is_killed:
                self._end(each, errno.EINTR)
                self.tally.killed += 1

    def have_walked_again(self, strays: Callable[[str], Mapping[int, tuple[int, int]]]) -> None:
        """Send those to walk again who came to the root by a mount that was taken away since.

        strays finds such threads, as `callers.strays` does, and is asked if anybody waits there.
        Who is in another PID namespace than the daemon is known by his user alone: others of that
        user walk once more as well, and wait again.  Once each: a second time within one call it
        would be the program's error.
        """
        at_root = [
            each
            for each in self.line.all_waiting()
            if each.request.node == wire.ROOT and each.request.op in wire.BY_PATH
        ]
        threads = strays(self.dev) if at_root else {}
        found = {*threads, *threads.values()} - self.sent_again
        for each in at_root:
            request = each.request
            is_told = self.ids_are_ours and request.pid
            who = request.pid if is_told else (request.uid, request.gid)
            if who in found:
                self._end(each, errno.ESTALE)
                self.tally.walked_again += 1
                self.sent_again.add(who)

    def _end(self, waiting: Waiting, error: int) -> None:
        if self.line.give_up(waiting.request.unique):
            self._write(wire.reply(waiting.request.unique, error))

    def close(self) -> None:
        """Let go of everything; the connection ends here if its daemon is dead."""
        self.cut()
        for fd in (*self.copies, *self.daemons):
            os.close(fd)
        self.copies.clear()
        self.daemons.clear()
