"""The requests of one held connection that wait for an answer: pure, in the order of their coming.

What needs no data is answered at once, because exit(2) sends FLUSH and waits for it beyond SIGKILL;
writes are refused at once, so that nothing large is kept.  All else waits until a reader may serve
it, and then until it has.
"""

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from recover.seamless import wire
from recover.seamless.wire import Op, Request, Span

NO_SLOT = -1
SLOTS = 4  # READs of a connection that are served at once
SLOT_BYTES = 1 << 20  # the largest READ: 256 pages, FUSE_MAX_MAX_PAGES
WINDOW_BYTES = SLOT_BYTES  # the most that is read at once for who reads on where he ended
_GROWTH = 2  # how much more that is each time: who stops soon has cost little
WINDOW_S = 1.0  # how long that may wait for its reader: the content behind may change
SENT = 24  # requests of a connection that the reader has at once
PARKED = 16384  # requests of a connection that wait; more are failed


@dataclass(slots=True)
class Waiting:
    """A request as it came, since when (monotonic seconds), and its slot while it is served.

    span is what a READ asks for, None of others; want how much the reader is to bring.
    """

    request: Request
    message: bytes
    since: float
    span: Span | None = None
    slot: int = NO_SLOT
    want: int = 0
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """What lies in a slot: a part of a file, and whether the file ends with it.

    is_used says that somebody reads on there, who will soon want what comes next.
    """

    node: int
    offset: int
    length: int
    is_end: bool
    at: float  # monotonic, when it was read
    is_used: bool = False

    @property
    def end(self) -> int:
        """Return the offset of what comes next."""
        return self.offset + self.length

    def has(self, waiting: Waiting) -> bool:
        """Tell whether it answers a READ as a whole."""
        span = waiting.span
        if span is None or waiting.request.node != self.node or span.offset < self.offset:
            return False
        return self.is_end or span.offset + span.size <= self.end


@dataclass(frozen=True, slots=True)
class End:
    """Where the READs by a handle have come to, and how many bytes without a gap."""

    offset: int
    row: int


@dataclass(slots=True)
class Line:
    """What waits on one connection; `parked` is not with the reader, `sent` is.

    `given_up` holds the slots of READs whose callers are gone while the reader still writes there;
    `ahead` the READs that nobody has asked for yet; `filled_at` is when data came last (monotonic),
    None once its memory was given back.
    """

    parked: dict[int, Waiting] = field(default_factory=dict)
    sent: dict[int, Waiting] = field(default_factory=dict)
    given_up: dict[int, int] = field(default_factory=dict)
    ahead: dict[int, Waiting] = field(default_factory=dict)
    last: int = -1  # number of those: the kernel's are even
    free: list[int] = field(default_factory=lambda: list(range(SLOTS)))
    windows: dict[int, Window] = field(default_factory=dict)  # by slot, oldest first
    ends: dict[tuple[int, int], End] = field(default_factory=dict)  # by number and handle
    forgets: list[bytes] = field(default_factory=list)
    filled_at: float | None = None

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
        span = wire.span(request.body) if op == Op.READ else None
        self.parked[request.unique] = Waiting(request, message, now, span)
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

    def has(self, unique: int) -> bool:
        """Tell whether a request waits here."""
        return self._find(unique) is not None

    def _find(self, unique: int) -> Waiting | None:
        return self.parked.get(unique) or self.sent.get(unique)

    def at_hand(self, now: float) -> Iterator[tuple[Waiting, int, int, int]]:
        """Yield READs whose data a window has: slot, where in it, and how much."""
        for slot, window in list(self.windows.items()):
            if now - window.at > WINDOW_S:
                self._close(slot)
        for unique, waiting in list(self.parked.items()) if self.windows else ():
            for slot, window in self.windows.items():
                if window.has(waiting):
                    del self.parked[unique]
                    yield waiting, slot, *self._part(waiting, window)
                    self._use(slot, window, waiting)
                    break

    def _use(self, slot: int, window: Window, waiting: Waiting) -> None:
        """Make room behind who reads on, once what comes next is there."""
        assert waiting.span is not None
        is_last = waiting.span.offset + waiting.span.size >= window.end
        if is_last and not window.is_end and self._comes(window.node, window.end):
            self._close(slot)
        else:
            self.windows[slot] = replace(window, is_used=True)

    def look_ahead(self, now: float) -> Iterator[Waiting]:
        """Yield READs of what those want next who read on, while two slots each are enough."""
        reads = (*self.sent.values(), *self.ahead.values())
        nodes = {each.request.node for each in reads if each.span is not None}
        nodes |= {window.node for window in self.windows.values()}
        if 2 * len(nodes) > SLOTS:
            return
        for window in list(self.windows.values()):
            if not window.is_used or window.is_end or self._comes(window.node, window.end):
                continue
            if not self.free:
                return
            self.last += 2
            message = wire.read(self.last, window.node, window.end)
            waiting = Waiting(wire.parse(message), message, now, Span(0, window.end, 0))
            waiting.slot = self.free.pop()
            waiting.want = min(WINDOW_BYTES, _GROWTH * window.length)
            self.ahead[self.last] = waiting
            yield waiting

    def _comes(self, node: int, offset: int) -> bool:
        """Tell whether what begins at an offset is here, or was asked for."""
        windows = (*self.windows.values(), *self._coming(node))
        return any(each.node == node and each.offset <= offset < each.end for each in windows)

    def _coming(self, node: int) -> Iterator[Window]:
        """Yield what the reader was asked for of a file."""
        for each in (*self.sent.values(), *self.ahead.values()):
            if each.span is not None and each.request.node == node:
                yield Window(node, each.span.offset, each.want, is_end=False, at=0.0)

    def _part(self, waiting: Waiting, window: Window) -> tuple[int, int]:
        assert waiting.span is not None
        self._note_end(waiting)
        start = min(waiting.span.offset - window.offset, window.length)
        return start, min(waiting.span.size, window.length - start)

    def _note_end(self, waiting: Waiting) -> None:
        span = waiting.span
        assert span is not None
        key = waiting.request.node, span.handle
        before = self.ends.pop(key, None)
        row = before.row if before is not None and before.offset == span.offset else 0
        self.ends[key] = End(span.offset + span.size, row + span.size)
        if len(self.ends) > 8 * SLOTS:
            del self.ends[next(iter(self.ends))]

    def due(self, may: Callable[[Waiting], bool] = lambda _: True) -> Iterator[Waiting]:
        """Yield what the reader may be given now, with a slot for each READ.

        Of what waits only that which `may` allows.
        """
        for unique, waiting in list(self.parked.items()):
            if not may(waiting):
                continue
            if len(self.sent) + len(self.given_up) >= SENT:
                return
            if waiting.span is not None and not self._prepare(waiting, waiting.span):
                continue
            del self.parked[unique]
            self.sent[unique] = waiting
            yield waiting

    def _prepare(self, waiting: Waiting, span: Span) -> bool:
        """Give a READ a slot; False if none is free, or if another one brings its data too."""
        node = waiting.request.node
        if any(coming.has(waiting) for coming in self._coming(node)):
            return False
        if not self.free and self.windows:
            self._close(next(iter(self.windows)))
        if not self.free:
            return False
        self._note_end(waiting)
        waiting.slot = self.free.pop()
        row = self.ends[node, span.handle].row
        waiting.want = span.size if row == span.size else min(WINDOW_BYTES, _GROWTH * row)
        return True

    def keep(self, waiting: Waiting, length: int, now: float) -> None:
        """Keep what a READ brought, for those that go on there, or free its slot."""
        span = waiting.span
        if span is not None:
            self.filled_at = now
        if span is None or length <= span.size:
            self.release(waiting.slot)
            return
        is_end = length < waiting.want
        self.windows[waiting.slot] = Window(waiting.request.node, span.offset, length, is_end, now)

    def _close(self, slot: int) -> None:
        del self.windows[slot]
        self.release(slot)

    def close_windows(self) -> None:
        """Forget what was brought from a mount that is no longer the newest."""
        for slot in list(self.windows):
            self._close(slot)
        for unique, waiting in self.ahead.items():
            self.given_up[unique] = waiting.slot
        self.ahead.clear()

    def rest(self, now: float) -> bool:
        """Tell, once, that nobody wants or brings data any more: its memory may be given back."""
        if self.filled_at is None or now - self.filled_at <= WINDOW_S:
            return False
        if self.sent or self.ahead or self.given_up:
            return False
        self.close_windows()
        self.filled_at = None
        return True

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
        self.ahead = {}
        self.windows = {}
        self.filled_at = None
        self.free = list(range(SLOTS))

    def all_waiting(self) -> list[Waiting]:
        """Return everything that waits."""
        return [*self.parked.values(), *self.sent.values()]
