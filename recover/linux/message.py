"""Python values and open descriptors on their way between two processes of ours.

One message is one datagram of a SOCK_SEQPACKET pair, so none is ever half read.  The pairs have no
name and both ends are this program's: nothing else can send a pickle.
"""

import contextlib
import io
import os
import pickle
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_MAX_BYTES = 128 * 1024  # paths have 4 KiB, and the socket's buffer more than this
MOST_DESCRIPTORS = 64  # in one message; the kernel's limit is 253


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A descriptor in a message; whoever receives it gets the number of its own."""

    number: int


class Closed(Exception):
    """The other process has gone."""


class Late(Exception):
    """Nothing came within the time limit of the channel."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a new channel."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(channel: socket.socket, value: object) -> list[int]:
    """Send a value, return which descriptors were in it; raises Closed, or Late."""
    packed = io.BytesIO()
    pickler = _Pickler(packed)
    pickler.dump(value)
    with _told():
        socket.send_fds(channel, [packed.getbuffer()], pickler.numbers)
    return pickler.numbers


def receive(channel: socket.socket) -> tuple[Any, list[int]]:
    """Return a value and the descriptors in it, now the caller's own; raises as `send` does."""
    with _told():
        packed, numbers, _, _ = socket.recv_fds(
            channel, _MAX_BYTES, MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
    if not packed:
        raise Closed
    try:
        return _Unpickler(io.BytesIO(packed), numbers).load(), numbers
    except BaseException:
        for number in numbers:
            os.close(number)
        raise


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.numbers: list[int] = []

    def persistent_id(self, obj: object) -> int | None:
        if not isinstance(obj, Descriptor):
            return None
        self.numbers.append(obj.number)
        return len(self.numbers) - 1


class _Unpickler(pickle.Unpickler):  # noqa: S301  of our own
    def __init__(self, file: io.BytesIO, numbers: list[int]) -> None:
        super().__init__(file)
        self._numbers = numbers

    def persistent_load(self, pid: int) -> int:
        return self._numbers[pid]


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise Late from error
    except (BrokenPipeError, ConnectionResetError) as error:
        raise Closed from error
