"""Messages between plugin, holder and reader: a unix socket, one JSON object and its descriptors.

The socket's file is for root alone, and who connects is asked for by SO_PEERCRED as well.
"""

import fcntl
import json
import os
import re
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recover.linux import procself

VERSION = 1
_ROOM = 128 * 1024
_MAX_FDS = 4
_DEV = re.compile(r"0:[0-9]{1,9}")
_PIDS = 1 << 22  # PID_MAX_LIMIT of the kernel
_DAY_S = 86_400

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]


class Broken(OSError):
    """The other side went away, or does not speak as it should."""


@dataclass(frozen=True, slots=True)
class Message:
    """What was received; whoever takes it owns the descriptors."""

    words: Mapping[str, Json]
    fds: tuple[int, ...] = ()

    def text(self, key: str) -> str:
        """Return a word, "" where it is missing or no text."""
        found = self.words.get(key)
        return found if isinstance(found, str) else ""

    def pids(self) -> tuple[int, ...]:
        """Return a list of process ids, empty where it is missing or is none."""
        found = self.words.get("pids")
        known = found if isinstance(found, list) else ()
        return tuple(n for n in known if isinstance(n, int) and 0 < n < _PIDS)

    def seconds(self, key: str) -> float:
        """Return a time, 0 where it is missing or is none: nothing waits without end."""
        found = self.words.get(key)
        return float(found) if isinstance(found, int | float) and 0 < found <= _DAY_S else 0.0

    def dev(self) -> str:
        """Return the superblock; raises Broken where it is none."""
        found = self.text("dev")
        if not _DEV.fullmatch(found):
            raise Broken(f"{found!r} is no superblock")
        return found

    def descriptors(self, count: int) -> tuple[int, ...]:
        """Return so many descriptors; raises Broken, and closes them, where it has others."""
        if len(self.fds) != count:
            self.close()
            raise Broken(f"{len(self.fds)} descriptors where {count} belong")
        return self.fds

    def close(self) -> None:
        """Close the descriptors that nobody took."""
        for fd in self.fds:
            os.close(fd)


class Channel:
    """One end of a connection; not for several threads at once."""

    def __init__(self, sock: socket.socket) -> None:
        """Own a connected SOCK_SEQPACKET socket."""
        self._socket = sock

    @classmethod
    def connect(cls, path: Path, role: str, timeout_s: float) -> "Channel":
        """Connect to the holder and say who we are; raises OSError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.settimeout(timeout_s)
            sock.connect(str(path))
            channel = cls(sock)
            channel.send({"do": "hello", "role": role, "version": VERSION})
        except BaseException:
            sock.close()
            raise
        return channel

    def fileno(self) -> int:
        """Return the descriptor, to be polled."""
        return self._socket.fileno()

    @property
    def is_over(self) -> bool:
        """Whether something is there where nothing was asked: the end of the other side."""
        return procself.is_readable(self._socket.fileno())

    def settimeout(self, timeout_s: float | None) -> None:
        """Bound what sends and receives from now on; None waits without end."""
        self._socket.settimeout(timeout_s)

    def send(self, words: Mapping[str, Json], fds: Sequence[int] = ()) -> None:
        """Send words, and copies of descriptors; raises OSError."""
        socket.send_fds(self._socket, [json.dumps(words).encode()], list(fds))

    def receive(self) -> Message:
        """Return the next message; raises Broken at the end, OSError."""
        data, fds, flags, _ = socket.recv_fds(
            self._socket, _ROOM, _MAX_FDS, socket.MSG_CMSG_CLOEXEC
        )
        is_whole = bool(data) and not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        words = _object(data) if is_whole else None
        if words is None:
            Message({}, tuple(fds)).close()
            raise Broken("not a JSON object" if data else "the connection ended")
        return Message(words, tuple(fds))

    def ask(self, words: Mapping[str, Json], fds: Sequence[int] = ()) -> Message:
        """Send words and return the answer; raises OSError."""
        self.send(words, fds)
        return self.receive()

    def close(self) -> None:
        """Close it; may be called again."""
        self._socket.close()


def _object(data: bytes) -> dict[str, Json] | None:
    try:
        words = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return words if isinstance(words, dict) else None


class Listener:
    """The holder's socket."""

    def __init__(self, path: Path) -> None:
        """Take the place of an earlier one; raises OSError, BlockingIOError while that lives."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(
            path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        before = os.umask(0o177)
        try:
            self._socket.bind(str(path))
        finally:
            os.umask(before)
        self._socket.listen(8)
        self._socket.settimeout(0)

    def fileno(self) -> int:
        """Return the descriptor, to be polled."""
        return self._socket.fileno()

    def accept(self) -> Channel | None:
        """Return whoever connects, None if he must not; raises OSError."""
        sock, _ = self._socket.accept()
        peer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        if struct.unpack("=iII", peer)[1] != os.geteuid():
            sock.close()
            return None
        sock.settimeout(0)
        return Channel(sock)

    def close(self) -> None:
        """Close it, and remove its file."""
        self._path.unlink(missing_ok=True)
        self._socket.close()
        os.close(self._lock)
