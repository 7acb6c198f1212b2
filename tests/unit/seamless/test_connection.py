"""A held connection: whose it is, what its daemon had read, and who is sent to walk again."""

import errno
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from recover.seamless import wire
from recover.seamless.connection import Connection
from recover.seamless.wire import Op
from tests.unit.seamless.messages import GROUP, PROCESS, USER, listing, message, read

MARK = 1 << 61 | 12345


def xattr(unique: int, name: str) -> bytes:
    return message(Op.GETXATTR, unique, struct.pack("=II", 0, 0) + name.encode() + b"\0")


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return the device, as the holder has it, and the kernel behind it."""
    device, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with device, kernel:
        device.setblocking(False)
        kernel.setblocking(False)
        yield device, kernel


@pytest.fixture
def connection(ends: tuple[socket.socket, socket.socket]) -> Connection:
    made = Connection("/source", "0:9", is_proven=False, mark=MARK, unread=None)
    made.copies = [ends[0].fileno()]
    return made


def replies(kernel: socket.socket) -> list[tuple[int, int]]:
    """Return errno and number of what was answered."""
    found: list[tuple[int, int]] = []
    while True:
        try:
            _, error, unique = struct.unpack_from("=IiQ", os.read(kernel.fileno(), 1 << 16))
        except BlockingIOError:
            return found
        found.append((-error, unique))


def ask(connection: Connection, kernel: socket.socket, *messages: bytes) -> list[tuple[int, int]]:
    for each in messages:
        kernel.send(each)
    connection.read(bytearray(1 << 16))
    return replies(kernel)


def ioctl(unique: int, command: int, number: int) -> bytes:
    return message(Op.IOCTL, unique, struct.pack("=QIIQII", 1, 8, command, number, 0, 0))


@pytest.mark.parametrize(
    "proof",
    [xattr(20, wire.mark_name(MARK)), ioctl(20, wire.MARK, MARK), listing(20, MARK)],
    ids=["xattr", "ioctl", "listing"],
)
def test_its_mark_proves_a_connection_and_is_answered_at_once(connection, ends, proof: bytes):
    assert ask(connection, ends[1], proof) == [(errno.ENODATA, 20)]
    assert connection.is_proven
    assert not len(connection.line)


@pytest.mark.parametrize(
    "other",
    [
        xattr(20, wire.mark_name(MARK + 1)),
        xattr(20, "user.other"),
        listing(20, 0),
        ioctl(20, wire.MARK, MARK + 1),
        ioctl(20, 0x5401, MARK),
        message(Op.LOOKUP, 20, wire.mark_name(MARK).encode() + b"\0"),
        message(Op.GETXATTR, 20, b"short"),
        message(Op.IOCTL, 20, b"short"),
    ],
)
def test_nothing_else_does(connection, ends, other: bytes):
    ask(connection, ends[1], other)
    assert not connection.is_proven


def test_what_the_dead_daemon_may_have_read_is_ended_and_nothing_that_waits_here(connection, ends):
    waiting = message(Op.STATFS, 8), message(Op.STATFS, 12)
    interrupt = message(Op.INTERRUPT, 5, struct.pack("=Q", 4))  # of a request that he had read
    assert ask(connection, ends[1], interrupt, waiting[1], waiting[0]) == []

    connection.sweep()

    assert replies(ends[1]) == [(errno.ESTALE, number) for number in (10, 6, 4, 2)]
    connection.sweep()
    assert replies(ends[1]) == []


def test_nothing_is_ended_where_the_kernel_asks_again(connection, ends):
    connection.unread = 0
    ask(connection, ends[1], message(Op.STATFS, 8))
    connection.sweep()

    assert replies(ends[1]) == []


ASKED = (
    message(Op.GETATTR, 2, bytes(16)),
    message(Op.OPENDIR, 4, bytes(8)),
    message(Op.GETATTR, 6, bytes(16), node=5),
    listing(8, 0),
    read(10, 0),
)


@pytest.mark.parametrize(
    ("found", "ids_are_ours", "sent"),
    [
        ({PROCESS: (USER, GROUP)}, True, [2, 4]),
        ({PROCESS + 1: (USER, GROUP)}, True, []),
        ({PROCESS + 1: (USER, GROUP)}, False, [2, 4]),
        ({PROCESS: (USER, GROUP + 1)}, False, []),
        ({}, False, []),
    ],
    ids=["its thread", "another thread", "its user", "another group", "nobody"],
)
def test_who_came_by_a_mount_that_is_gone_is_sent_to_walk_again(
    connection: Connection,
    ends: tuple[socket.socket, socket.socket],
    found: dict[int, tuple[int, int]],
    ids_are_ours: bool,
    sent: list[int],
):
    connection.is_proven, connection.ids_are_ours = True, ids_are_ours
    assert ask(connection, ends[1], *ASKED) == []

    connection.have_walked_again(lambda _: found)

    assert replies(ends[1]) == [(errno.ESTALE, unique) for unique in sent]
    assert len(connection.line) == len(ASKED) - len(sent)
    assert connection.tally.walked_again == len(sent)
    assert ask(connection, ends[1], *(message(Op.GETATTR, n + 20) for n in sent)) == []
    connection.have_walked_again(lambda _: found)
    assert replies(ends[1]) == []  # they came by another mount, so they wait
