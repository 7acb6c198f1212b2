"""The requests of one held connection that wait for an answer: pure, in the order of their coming.

What needs no data is answered at once, because exit(2) sends FLUSH and waits for it beyond SIGKILL;
writes are refused at once, so that nothing large is kept.  All else waits until a reader may serve
it, and then until it has.
"""

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field

from recover.seamless import wire
from recover.seamless.wire import Op, Request

NO_SLOT = -1
SLOTS = 4  # READs of a connection that are served at once
SLOT_BYTES = 1 << 20  # the largest READ: 256 pages, FUSE_MAX_MAX_PAGES
SENT = 24  # requests of a connection that the reader has at once
PARKED = 16384  # requests of a connection that wait; more are failed


@dataclass(slots=True)
class Waiting:
    """A request as it came, since when (monotonic seconds), and its slot while it is served."""

    request: Request
    message: bytes
    since: float
    slot: int = NO_SLOT
    interrupted: bool = False


@dataclass(slots=True)
class Line:
    """What waits on one connection; `parked` is not with the reader, `sent` is.

    `given_up` holds the slots of READs whose callers are gone while the reader still writes there.
    """

    parked: dict[int, Waiting] = field(default_factory=dict)
    sent: dict[int, Waiting] = field(default_factory=dict)
    given_up: dict[int, int] = field(default_factory=dict)
    free: list[int] = field(default_factory=lambda: list(range(SLOTS)))
    forgets: list[bytes] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.parked) + len(self.sent)

    def take(self, message: bytes, now: float) -> bytes | None:
        """Return the answer to a request, or None if it waits or wants none."""
        try:
            request = wire.parse(message)
            return self._take(request, message, now)
        except wire.Malformed:
            return wire.reply(wire.unique_of(message), errno.EIO)

    def _take(self, request: Request, message: bytes, now: float) -> bytes | None:
        op = request.op
        if op in wire.UNANSWERED:
            self._note(request, message)
            return None
        if op == Op.RELEASEDIR:
            self._keep(message)  # the reader keeps listings by handle
        error = self._at_once(request)
        if error is not None:
            return wire.reply(request.unique, error)
        self.parked[request.unique] = Waiting(request, message, now)
        return None

    def _at_once(self, request: Request) -> int | None:
        """Return the errno of what can be answered without a reader (0: done), None for others."""
        op = request.op
        if op in wire.DONE_AT_ONCE:
            return 0
        if op in wire.WRITES:
            return errno.EROFS
        if op not in wire.SERVED:
            return errno.ENOSYS  # the kernel has another way, for each
        if op == Op.READ and wire.span(request.body).size > SLOT_BYTES:
            return errno.EIO  # a short answer would mean the end of the file
        if op == Op.LOOKUP and wire.name(request.body) in {b".", b".."}:
            return (
                errno.ESTALE
            )  # the kernel asks for a number that it has forgotten: nobody holds it
        return errno.ENOTCONN if len(self) >= PARKED else None

    def _note(self, request: Request, message: bytes) -> None:
        if request.op == Op.INTERRUPT:
            waiting = self._find(wire.interrupted(request.body))
            if waiting is not None:
                waiting.interrupted = True
        elif request.op in {Op.FORGET, Op.BATCH_FORGET}:
            self._keep(message)

    def _keep(self, message: bytes) -> None:
        if len(self.forgets) < PARKED:  # one that is lost costs the reader a few bytes
            self.forgets.append(message)

    def _find(self, unique: int) -> Waiting | None:
        return self.parked.get(unique) or self.sent.get(unique)

    def due(self) -> Iterator[Waiting]:
        """Yield what the reader may be given now, with a slot for each READ."""
        for unique, waiting in list(self.parked.items()):
            if len(self.sent) + len(self.given_up) >= SENT:
                return
            if waiting.request.op == Op.READ:
                if not self.free:
                    continue
                waiting.slot = self.free.pop()
            del self.parked[unique]
            self.sent[unique] = waiting
            yield waiting

    def forgotten(self) -> list[bytes]:
        """Return the messages that want no answer, which the reader is to know."""
        kept, self.forgets = self.forgets, []
        return kept

    def served(self, unique: int) -> tuple[Waiting | None, int]:
        """Return what the reader has answered, None if it was given up; and the slot to free."""
        waiting = self.sent.pop(unique, None)
        slot = self.given_up.pop(unique, NO_SLOT) if waiting is None else waiting.slot
        return waiting, slot

    def release(self, slot: int) -> None:
        """Take a slot back whose data nobody needs any more."""
        if slot != NO_SLOT:
            self.free.append(slot)

    def give_up(self, unique: int) -> bool:
        """Stop waiting for a request that somebody else has answered; False if it is unknown."""
        if self.parked.pop(unique, None) is not None:
            return True
        waiting = self.sent.pop(unique, None)
        if waiting is None:
            return False
        self.given_up[unique] = waiting.slot
        return True

    def take_back(self) -> None:
        """Take note that the reader is gone: all that it had waits again, before all else."""
        again = dict(self.sent)
        for waiting in again.values():
            waiting.slot = NO_SLOT
        self.parked = again | self.parked
        self.sent = {}
        self.given_up = {}
        self.free = list(range(SLOTS))

    def all_waiting(self) -> list[Waiting]:
        """Return everything that waits."""
        return [*self.parked.values(), *self.sent.values()]
