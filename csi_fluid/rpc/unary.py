"""Calls of gRPC with one message each way, over HTTP/2: the protocol's PROTOCOL-HTTP2.md.

Requests are read by a thread for each connection and answered by a pool.  That is all of gRPC that
kubelet asks of a plugin; the usual library takes half of a plugin's memory and wakes up hundreds
of times a minute.
"""

import contextlib
import math
import socket
import string
import struct
import time
import urllib.parse
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass

from csi_fluid.connections import Listener
from csi_fluid.rpc import http2
from csi_fluid.rpc.hpack import Header
from csi_fluid.rpc.http2 import Connection, Stream
from csi_fluid.rpc.status import Code

MAX_CONNECTIONS = 64
_PREFIX = struct.Struct(">BL")  # compressed or not, length
_HEADERS = ((b":status", b"200"), (b"content-type", b"application/grpc"))
_NO_GRPC = ((b":status", b"415"),)
_DIGITS = 8  # of a timeout
_UNITS = {b"H": 3_600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_PLAIN = "".join(sorted({*string.printable[:95]} - {"%"}))  # what a message is not escaped for


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a call: a message, or a code with the reason."""

    body: bytes = b""
    code: Code = Code.OK
    reason: str = ""


class Call:
    """Somebody who waits for an answer."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._until = time.monotonic() + _timeout(stream.headers.get(b"grpc-timeout", b""))

    def time_remaining(self) -> float:
        """Return the seconds that the caller still waits, infinity where it did not say."""
        return max(self._until - time.monotonic(), 0.0)

    def is_active(self) -> bool:
        """Tell whether the caller still waits."""
        return self._stream.is_open and self._until > time.monotonic()


def _timeout(text: bytes) -> float:
    number, unit = text[:-1], text[-1:]
    if len(number) > _DIGITS or not number.isdigit() or unit not in _UNITS:
        return math.inf
    return int(number) * _UNITS[unit]


Answer = Callable[[str, bytes, Call], Reply]
"""Makes the reply to a message for "/package.Service/Method"; does not raise."""


class CallServer:
    """Answers calls on a listening socket."""

    def __init__(
        self,
        listening: socket.socket,
        answer: Answer,
        *,
        name: str,
        workers: int,
    ) -> None:
        """Take the socket, which is closed by stop(), and how many calls are answered at once."""
        self._answer = answer
        self._pool = futures.ThreadPoolExecutor(workers, thread_name_prefix=name)
        self._listener = Listener(listening, self._serve, name=name, limit=MAX_CONNECTIONS)
        self._connections: set[Connection] = set()

    def start(self) -> None:
        """Answer from now on."""
        self._listener.start()

    def stop(self, grace_s: float) -> None:
        """Refuse new calls, give those under way so long, and end them."""
        self._listener.close()
        for connection in tuple(self._connections):
            connection.finish()
        self._listener.stop(grace_s)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _serve(self, peer: socket.socket) -> None:
        def request(stream: Stream) -> None:
            self._listener.connections.begin(peer)
            with contextlib.suppress(RuntimeError):  # the server is stopped
                self._pool.submit(self._run, peer, connection, stream)

        connection = Connection(peer, request)
        self._connections.add(connection)
        try:
            connection.serve()
        finally:
            self._connections.discard(connection)

    def _run(self, peer: socket.socket, connection: Connection, stream: Stream) -> None:
        try:
            if stream.headers.get(b"content-type", b"").startswith(b"application/grpc"):
                connection.answer(stream, _HEADERS, *_wire(self._reply(stream)))
            else:
                connection.answer(stream, _NO_GRPC, b"", ())
        finally:
            self._listener.connections.done(peer)

    def _reply(self, stream: Stream) -> Reply:
        body = bytes(stream.body)
        if len(body) > http2.MAX_BODY:
            reason = f"the request is larger than {http2.MAX_BODY} bytes"
            return Reply(code=Code.RESOURCE_EXHAUSTED, reason=reason)
        is_compressed, length = _PREFIX.unpack_from(body.ljust(_PREFIX.size, b"\0"))
        if is_compressed:
            return Reply(code=Code.UNIMPLEMENTED, reason="compression is not offered; leave it out")
        if len(body) != _PREFIX.size + length:
            reason = f"expected one message; got {len(body)} bytes that are something else"
            return Reply(code=Code.INVALID_ARGUMENT, reason=reason)
        path = stream.headers.get(b":path", b"").decode("ascii", "replace")
        return self._answer(path, body[_PREFIX.size :], Call(stream))


def _wire(reply: Reply) -> tuple[bytes, list[Header]]:
    """Return the body and the trailers of a reply."""
    status = (b"grpc-status", str(reply.code.value).encode())
    if reply.code is Code.OK:
        return _PREFIX.pack(0, len(reply.body)) + reply.body, [status]
    reason = urllib.parse.quote(reply.reason, _PLAIN, errors="replace")
    return b"", [status, (b"grpc-message", reason.encode())]
