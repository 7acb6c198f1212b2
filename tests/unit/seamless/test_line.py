"""Who waits on a held connection, what is answered at once, and what no bound lets in."""

import errno
import struct

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from recover.seamless import line as lines, wire
from recover.seamless.line import (
    NO_SLOT,
    PARKED,
    SENT,
    SLOT_BYTES,
    SLOTS,
    WINDOW_BYTES,
    WINDOW_S,
    Line,
    Waiting,
    Window,
)
from recover.seamless.wire import Op
from tests.unit.seamless import messages
from tests.unit.seamless.messages import message


def read(unique: int, size: int = 4096, *, at: int | None = None) -> bytes:
    """Return a READ, of a place that no other one is about unless said."""
    return messages.read(unique, unique * 100_000 if at is None else at, size)


def error_of(reply: bytes | None) -> int:
    assert reply is not None
    return -int(struct.unpack_from("=IiQ", reply)[1])


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.mark.parametrize("op", sorted(wire.DONE_AT_ONCE))
def test_what_an_exit_waits_for_is_answered_at_once(line: Line, op: Op):
    body = bytes(24)
    assert error_of(line.take(message(op, body=body), 0.0)) == 0
    assert not len(line)


@pytest.mark.parametrize("op", sorted(wire.WRITES))
def test_a_write_is_refused_and_not_kept(line: Line, op: Op):
    assert error_of(line.take(message(op, body=bytes(100)), 0.0)) == errno.EROFS
    assert not len(line)


@pytest.mark.parametrize("op", [Op.POLL, Op.IOCTL, Op.STATX, Op.BMAP, 99])
def test_what_the_kernel_can_do_without_is_said_to_be_missing(line: Line, op: int):
    assert error_of(line.take(message(op), 0.0)) == errno.ENOSYS


def test_a_request_waits_until_it_is_served(line: Line):
    assert line.take(message(Op.GETATTR), 1.0) is None

    (due,) = line.due()
    assert due.since == 1.0
    assert line.served(7) == (due, NO_SLOT)
    assert not len(line)


def test_a_read_that_does_not_fit_is_an_error_and_never_short(line: Line):
    assert error_of(line.take(read(7, SLOT_BYTES + 1), 0.0)) == errno.EIO


def test_each_read_has_a_slot_of_its_own_and_others_do_not_wait_for_one(line: Line):
    for unique in range(SLOTS + 1):
        line.take(read(unique), 0.0)
    line.take(message(Op.GETATTR, 100), 0.0)

    due = list(line.due())
    assert sorted(w.slot for w in due) == [NO_SLOT, *range(SLOTS)]
    assert list(line.parked) == [SLOTS]
    _, slot = line.served(0)
    assert not list(line.due())
    line.release(slot)
    assert [w.request.unique for w in line.due()] == [SLOTS]


def test_a_slot_whose_caller_is_gone_is_not_given_away_before_the_reader_is_done(line: Line):
    line.take(read(1), 0.0)
    (due,) = line.due()

    assert line.give_up(1)
    assert due.slot not in line.free
    waiting, slot = line.served(1)
    assert waiting is None
    assert slot == due.slot


def test_what_a_lost_reader_had_waits_again_before_all_else(line: Line):
    line.take(read(1), 0.0)
    list(line.due())
    line.take(read(2), 0.0)

    line.take_back()
    assert [w.request.unique for w in line.due()] == [1, 2]


def test_a_forget_never_waits_and_wants_no_answer(line: Line):
    assert line.take(message(Op.FORGET, body=bytes(8)), 0.0) is None
    assert not len(line)
    assert len(line.forgotten()) == 1
    assert not line.forgotten()


def test_an_interrupt_marks_the_request_that_it_is_about(line: Line):
    line.take(message(Op.GETATTR, 5), 0.0)
    line.take(message(Op.INTERRUPT, 6, (5).to_bytes(8, "little")), 0.0)

    assert line.parked[5].interrupted


def test_no_more_waits_than_the_bound(line: Line, monkeypatch):
    monkeypatch.setattr(lines, "PARKED", 3)
    for unique in range(3):
        assert line.take(message(Op.GETATTR, unique), 0.0) is None
    assert error_of(line.take(message(Op.GETATTR, 9), 0.0)) == errno.ENOTCONN
    assert PARKED > 3000


def test_the_reader_has_no_more_at_once_than_its_socket_holds(line: Line):
    for unique in range(SENT + 5):
        line.take(message(Op.GETATTR, unique), 0.0)
    assert len(list(line.due())) == SENT


def test_what_is_malformed_is_answered_and_ends_nothing(line: Line):
    assert error_of(line.take(message(Op.READ, 7, b"short"), 0.0)) == errno.EIO
    assert error_of(line.take(b"\1" * 60, 0.0)) == errno.EIO


def test_who_reads_on_gets_more_than_he_asked_for_and_the_rest_from_memory(line: Line):
    line.take(read(1, at=0), 0.0)
    (first,) = line.due()
    assert first.want == 4096
    line.served(1)
    line.keep(first, 4096, 0.0)
    line.take(read(2, at=4096), 0.0)
    line.take(read(3, at=8192), 0.0)
    (second,) = line.due()  # it brings the third one's data, too

    assert second.want == 4 * 4096
    line.served(2)
    line.keep(second, 10_000, 0.0)
    ((third, slot, start, length),) = line.at_hand(0.5)
    assert (third.request.unique, slot) == (3, second.slot)
    assert (start, length) == (4096, 4096)
    line.take(read(4, at=12288), 0.0)
    ((_, _, start, length),) = line.at_hand(0.5)
    assert (start, length) == (8192, 10_000 - 8192)  # the file ends there


def test_what_was_brought_is_not_kept_for_long(line: Line):
    line.windows[line.free.pop()] = Window(1, 0, 8192, is_end=False, at=0.0)
    line.take(read(1, at=0), 0.0)

    assert not list(line.at_hand(WINDOW_S + 0.1))
    assert len(line.free) == SLOTS


def test_a_window_is_given_up_for_a_read_elsewhere(line: Line):
    for number in range(SLOTS):
        line.windows[line.free.pop()] = Window(9, number, 8192, is_end=False, at=0.0)
    line.take(read(1), 0.0)

    assert len(list(line.due())) == 1
    assert len(line.windows) == SLOTS - 1


def test_another_files_window_is_no_answer(line: Line):
    line.windows[line.free.pop()] = Window(2, 0, 8192, is_end=True, at=0.0)
    line.take(read(1, at=0), 0.0)

    assert not list(line.at_hand(0.0))


def read_on(line: Line, unique: int, at: int) -> Waiting:
    """Have somebody read three blocks in a row, of which the second brings a window of four.

    Return what is yet to come.
    """
    for number in range(2):
        line.take(read(unique + 2 * number, at=at + 4096 * number), 0.0)
        (waiting,) = line.due()
        line.served(waiting.request.unique)
        line.keep(waiting, waiting.want, 0.0)
        assert not list(line.look_ahead(0.0))  # nobody has used a window
    line.take(read(unique + 4, at=at + 8192), 0.0)
    assert len(list(line.at_hand(0.0))) == 1
    (ahead,) = line.look_ahead(0.0)
    return ahead


def test_what_a_reader_wants_next_is_asked_for_once_before_he_does(line: Line):
    ahead = read_on(line, 2, 0)

    end = 4096 + 4 * 4096
    assert wire.span(wire.parse(ahead.message).body).offset == end
    assert ahead.want == 8 * 4096  # more each time
    assert ahead.request.unique % 2  # the kernel's are even
    assert not list(line.look_ahead(0.0))
    assert not len(line)  # nobody waits for it

    line.take(read(8, at=end), 0.0)
    assert not list(line.due())  # it comes
    del line.ahead[ahead.request.unique]
    line.keep(ahead, ahead.want, 0.0)
    ((waiting, slot, start, _),) = line.at_hand(0.0)
    assert (waiting.request.unique, slot, start) == (8, ahead.slot, 0)


def test_no_more_is_brought_at_once_than_a_slot_has_room_for(line: Line):
    line.windows[line.free.pop()] = Window(1, 0, WINDOW_BYTES, is_end=False, at=0.0, is_used=True)
    (ahead,) = line.look_ahead(0.0)

    assert ahead.want == WINDOW_BYTES == SLOT_BYTES


def test_what_was_read_to_its_end_makes_room_for_what_comes_after(line: Line):
    read_on(line, 2, 0)
    line.take(read(8, at=4 * 4096), 0.0)

    assert len(list(line.at_hand(0.0))) == 1
    assert not line.windows


def test_memory_is_given_back_once_when_nobody_has_read_for_a_while(line: Line):
    ahead = read_on(line, 2, 0)
    later = 2 * WINDOW_S

    assert not line.rest(0.5 * WINDOW_S)
    assert not line.rest(later)  # the reader writes to it
    del line.ahead[ahead.request.unique]
    line.keep(ahead, ahead.want, 0.0)
    assert line.rest(later)
    assert not line.windows
    assert not line.rest(later)  # there is none any more


def test_no_more_is_asked_for_where_a_file_ends(line: Line):
    line.windows[line.free.pop()] = Window(1, 0, 8192, is_end=True, at=0.0, is_used=True)
    assert not list(line.look_ahead(0.0))


def test_many_readers_keep_the_slots_for_what_they_have_asked_for(line: Line):
    for node in range(SLOTS // 2 + 1):
        line.windows[line.free.pop()] = Window(node, 0, 8192, is_end=False, at=0.0, is_used=True)
    assert not list(line.look_ahead(0.0))


def test_what_was_asked_for_ahead_of_another_daemons_is_thrown_away(line: Line):
    ahead = read_on(line, 2, 0)
    line.close_windows()

    assert not line.ahead
    assert ahead.slot not in line.free  # the reader still writes there
    assert line.served(ahead.request.unique) == (None, ahead.slot)


def test_what_was_asked_for_ahead_is_lost_with_the_reader(line: Line):
    read_on(line, 2, 0)
    line.take_back()

    assert not len(line)
    assert not line.ahead
    assert len(line.free) == SLOTS


class AnyLine(RuleBasedStateMachine):
    """Readers of two files, a reader that answers, and everything that may come between."""

    def __init__(self) -> None:
        super().__init__()
        self.line = Line()
        self.unique = 0
        self.asked: dict[int, Waiting] = {}  # what the reader has

    @rule(node=st.integers(1, 3), block=st.integers(0, 40), step=st.booleans())
    def read(self, node: int, block: int, step: bool) -> None:
        self.unique += 2
        at = next((end.offset for end in self.line.ends.values()), 0) if step else block * 65536
        asked = messages.read(self.unique, at, 65536, node=node)
        assert self.line.take(asked, 0.0) is None

    @rule(now=st.sampled_from([0.0, 0.5, 2.0]))
    def pump(self, now: float) -> None:
        for waiting, slot, start, length in self.line.at_hand(now):
            assert waiting.span is not None
            assert 0 <= start <= start + length <= SLOT_BYTES
            assert slot not in self.line.free
        for waiting in (*self.line.due(), *self.line.look_ahead(now)):
            self.asked[waiting.request.unique] = waiting

    @rule(which=st.integers(0, 9), length=st.sampled_from([0, 65536, WINDOW_BYTES]))
    def answer(self, which: int, length: int) -> None:
        if not self.asked:
            return
        unique = sorted(self.asked)[which % len(self.asked)]
        del self.asked[unique]
        waiting = self.line.ahead.pop(unique, None)
        if waiting is None:
            waiting, slot = self.line.served(unique)
            if waiting is None:
                self.line.release(slot)
        if waiting is not None:
            self.line.keep(waiting, min(length, waiting.want), 0.0)

    @rule(which=st.integers(0, 9))
    def give_up(self, which: int) -> None:
        waiting = self.line.all_waiting()
        if waiting:
            assert self.line.give_up(waiting[which % len(waiting)].request.unique)

    @rule(now=st.sampled_from([0.5, 2.0]))
    def rest(self, now: float) -> None:
        assert not self.line.rest(now) or len(self.line.free) == SLOTS

    @rule()
    def swap(self) -> None:
        self.line.close_windows()

    @rule()
    def lose_the_reader(self) -> None:
        self.line.take_back()
        self.asked.clear()

    @invariant()
    def each_slot_is_somewhere_and_nowhere_twice(self) -> None:
        line = self.line
        used = [w.slot for w in (*line.sent.values(), *line.ahead.values()) if w.slot != NO_SLOT]
        slots = [*line.free, *line.windows, *used, *line.given_up.values()]
        assert sorted(slots) == list(range(SLOTS))


TestAnyLine = AnyLine.TestCase
