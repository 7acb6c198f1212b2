"""What holder and reader share for one connection: a socket for requests, memory for file data.

A request goes over as it came from the kernel, with the slot of the memory that its data may fill.
"""

import mmap
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from recover.seamless.line import NO_SLOT, SLOT_BYTES, SLOTS

_SLOT = struct.Struct("=ii")
_ANSWER = struct.Struct("=QiI")
_ROOM = 256 * 1024
_ERRORS = 512  # the kernel takes no other: whoever waits would wait on
LISTING_BYTES = 64 * 1024  # of what goes over the socket; a shorter listing is asked on


@dataclass(frozen=True, slots=True)
class Answer:
    """What the reader answers: an errno or a body, of which `shared` bytes lie in the slot."""

    unique: int
    error: int = 0
    body: bytes = b""
    shared: int = 0


class Link:
    """One end; `ask` and `answered` are the holder's, `next_request` and `answer` the reader's."""

    def __init__(self, sock: socket.socket, memory_fd: int) -> None:
        """Own a socket and the descriptor of the memory; raises OSError."""
        self._socket = sock
        self.memory_fd = memory_fd
        self._map = mmap.mmap(memory_fd, SLOTS * SLOT_BYTES)
        self._memory = memoryview(self._map)

    @classmethod
    def pair(cls) -> tuple[Self, socket.socket]:
        """Return the holder's end, and the socket of the reader's; raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        memory_fd = os.memfd_create("csi-fluid", os.MFD_CLOEXEC)
        try:
            os.ftruncate(memory_fd, SLOTS * SLOT_BYTES)
            for sock in (ours, theirs):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * _ROOM)
            ours.settimeout(0)
            return cls(ours, memory_fd), theirs
        except BaseException:
            os.close(memory_fd)
            ours.close()
            theirs.close()
            raise

    def fileno(self) -> int:
        """Return the socket's descriptor, to be polled."""
        return self._socket.fileno()

    def slot(self, number: int, length: int, start: int = 0) -> memoryview:
        """Return a part of a slot."""
        begin = number * SLOT_BYTES + start
        return self._memory[begin : begin + length]

    def empty(self) -> None:
        """Give the memory of all slots back; raises OSError."""
        self._map.madvise(mmap.MADV_REMOVE)

    def ask(self, message: bytes, slot: int = NO_SLOT, want: int = 0) -> None:
        """Hand a request over, and into which slot how much is wanted; raises OSError."""
        self._socket.sendmsg([_SLOT.pack(slot, want), message])

    def answered(self) -> Answer:
        """Return the next answer; raises OSError, EOFError at the reader's end."""
        data = self._socket.recv(_ROOM)
        if len(data) < _ANSWER.size:
            raise EOFError
        unique, error, shared = _ANSWER.unpack_from(data)
        if shared > SLOT_BYTES or not 0 <= error < _ERRORS:
            raise EOFError
        return Answer(unique, error, data[_ANSWER.size :], shared)

    def next_request(self) -> tuple[bytes, int, int]:
        """Return a request, its slot and what is wanted in it.

        Raises BlockingIOError where none came in time, OSError, EOFError.
        """
        data = self._socket.recv(_ROOM)
        if len(data) < _SLOT.size:
            raise EOFError
        slot, want = _SLOT.unpack_from(data)
        return data[_SLOT.size :], slot, want

    def answer(self, answer: Answer) -> None:
        """Hand an answer over; raises OSError."""
        head = _ANSWER.pack(answer.unique, answer.error, answer.shared)
        pieces: Sequence[bytes] = (head, answer.body)
        self._socket.sendmsg(pieces)

    def shut(self) -> None:
        """Wake whoever waits in `next_request`: it meets the end."""
        self._socket.shutdown(socket.SHUT_RDWR)

    def settimeout(self, timeout_s: int) -> None:
        """Bound how long threads wait that come to `next_request` from now on; 0: without end.

        By the kernel: Python's own limit would wake all that wait for each request.
        """
        limit = struct.pack("ll", timeout_s, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)

    def close(self) -> None:
        """Release everything; may be called again."""
        self._socket.close()
        self._memory.release()
        self._map.close()
        if self.memory_fd >= 0:
            os.close(self.memory_fd)
            self.memory_fd = -1
