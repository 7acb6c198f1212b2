"""Connections that others open: a bounded number of them, each with a thread of its own.

Where there is no room for one more, the oldest that is not being answered goes: whoever connects
and says nothing takes no place from those who ask.
"""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable

BACKLOG = 128  # connections that wait for accept(2)
_SHUT_S = 1.0  # a thread finds the end of its connection at once, unless the machine is busy
_PAUSE_S = 0.1
# Where each new one ends an old one: it leaves the processor to others, and an old one some time.
_CROWDED_S = 0.002

_log = logging.getLogger(__name__)


def listen(address: tuple[str, int]) -> socket.socket:
    """Listen at (host, port), on every interface for an empty host; raises OSError."""
    host, port = address
    dual = not host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual or ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, dualstack_ipv6=dual, backlog=BACKLOG)


class Connections:
    """The open connections, oldest first, with how many requests of each are being answered."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._changed = threading.Condition()
        self._open: dict[socket.socket, int] = {}

    def add(self, connection: socket.socket) -> bool:
        """Take one more in, and tell whether another had to go.

        Raises OSError where all others are being answered.
        """
        with self._changed:
            is_full = len(self._open) >= self._limit
            if is_full:
                self._shed()
            self._open[connection] = 0
        return is_full

    def _shed(self) -> None:
        """End the oldest idle connection and wait until its thread has closed it."""
        idle = next((each for each, answers in self._open.items() if not answers), None)
        if idle is None:
            raise OSError(f"all {self._limit} connections are in use")
        _shut(idle)
        if not self._changed.wait_for(lambda: len(self._open) < self._limit, _SHUT_S):
            raise OSError(f"none of {self._limit} connections ended in time")

    def begin(self, connection: socket.socket) -> None:
        """Note that one more request of a connection is being answered."""
        self._count(connection, 1)

    def done(self, connection: socket.socket) -> None:
        """Note that a request of a connection was answered."""
        self._count(connection, -1)

    def _count(self, connection: socket.socket, step: int) -> None:
        with self._changed:
            if connection in self._open:
                self._open[connection] += step
            self._changed.notify_all()

    def remove(self, connection: socket.socket) -> None:
        """Forget one that is closed."""
        with self._changed:
            self._open.pop(connection, None)
            self._changed.notify_all()

    def end(self, grace_s: float) -> None:
        """End every connection, those that are being answered after a grace."""
        until = time.monotonic() + grace_s
        with self._changed:
            self._changed.wait_for(lambda: not any(self._open.values()), grace_s)
            for connection in self._open:
                _shut(connection)
            left_s = max(until - time.monotonic(), _SHUT_S)
            self._changed.wait_for(lambda: not self._open, left_s)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)  # its thread then finds the end, and closes it


class Listener:
    """Accepts connections; no thread of it wakes up while nobody connects."""

    def __init__(
        self,
        listening: socket.socket,
        serve: Callable[[socket.socket], None],
        *,
        name: str,
        limit: int,
    ) -> None:
        """Take a listening socket, which is closed by stop(), and what serves one connection.

        serve returns when the connection is done with; it is closed then.
        """
        self.connections = Connections(limit)
        self._socket = listening
        self._serve = serve
        self._name = name
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._accept, name=name, daemon=True)

    def start(self) -> None:
        """Accept from now on."""
        self._thread.start()

    def close(self) -> None:
        """Accept no more; what is open stays."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # ends the wait in accept(2)
        if self._thread.is_alive():
            self._thread.join(_SHUT_S)
        self._socket.close()

    def stop(self, grace_s: float = 0.0) -> None:
        """Accept no more, give answers under way so long, and end what is left."""
        self.close()
        self.connections.end(grace_s)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError as error:
                if not self._stopping.is_set():
                    _log.debug("%s: no connection could be accepted: %s", self._name, error)
                    self._stopping.wait(_PAUSE_S)  # out of descriptors, for one
                continue
            self._take(connection)

    def _take(self, connection: socket.socket) -> None:
        try:
            is_crowded = self.connections.add(connection)
            thread = threading.Thread(
                target=self._run, args=(connection,), name=f"{self._name} peer", daemon=True
            )
            thread.start()
            if is_crowded:
                self._stopping.wait(_CROWDED_S)
        except (OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
            _log.debug("%s: a connection was refused: %s", self._name, error)
            self._drop(connection)

    def _run(self, connection: socket.socket) -> None:
        try:
            self._serve(connection)
        except OSError as error:
            _log.debug("%s: a connection failed: %s", self._name, error)
        finally:
            self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        connection.close()
        self.connections.remove(connection)
