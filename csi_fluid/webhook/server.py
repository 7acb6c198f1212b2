"""The HTTPS server that API servers ask: POST /mutate; GET /healthz and /readyz beside it.

Anybody in the cluster can connect, so everything that a client can make us hold is bounded: the
number of connections (the oldest idle one goes), the size of a request, the time of every read, and
of the wait for a turn.  Large reviews take turns with each other alone, so a small one never waits
for a large one.
"""

import contextlib
import http.server
import logging
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

from csi_fluid import __version__, connections
from csi_fluid.connections import Connections
from csi_fluid.webhook.keeper import Identity
from csi_fluid.webhook.review import Malformed

PATH = "/mutate"
_MAX_BODY = 4 * 1024 * 1024  # bytes; an API server takes objects of at most 3 MiB
_MAX_CONNECTIONS = 32
_LARGE = 256 * 1024  # bytes; a pod of a few kilobytes is usual
_MAX_AT_ONCE = {
    True: 1,
    False: 4,
}  # if large, or not; it takes many times its size while it is read
_WAIT_S = 5.0  # for a turn; the API server waits no longer for the answer: timeoutSeconds
_READ_S = 15.0  # also how long a connection may stay idle
_JOIN_S = 1.0

Respond = Callable[[bytes], bytes]
"""Makes the body of the answer from that of the question; raises Malformed."""

_log = logging.getLogger(__name__)


class Server:
    """Serves over TLS with whatever certificate the identity has when a client connects."""

    def __init__(
        self,
        address: tuple[str, int],
        identity: Identity,
        answer: Respond,
        is_ready: Callable[[], bool],
    ) -> None:
        """Listen at (host, port), on every interface for an empty host; raises OSError."""
        self._socket = connections.listen(address)
        self._server = _Tls(self._socket, identity, answer, is_ready)
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="https", daemon=True)

    @property
    def port(self) -> int:
        """Return the port, for an address that left the choice to the kernel (:0)."""
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """Take no new connections, give answers under way so long, and end what is left."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # ends the wait in handle_request
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)
        self._server.connections.end(grace_s)
        self._socket.close()

    def _serve(self) -> None:
        while not self._stopping:
            self._server.handle_request()


class _Busy(Exception):
    """No turn came in time."""


class _Turns:
    """Bounds how many reviews are answered at the same time, the large ones apart."""

    def __init__(self) -> None:
        self._free = {is_large: threading.Semaphore(n) for is_large, n in _MAX_AT_ONCE.items()}

    @contextlib.contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Have a turn for a review of so many bytes; raises _Busy."""
        free = self._free[size > _LARGE]
        if not free.acquire(timeout=_WAIT_S):
            raise _Busy(f"no turn within {_WAIT_S:g} s: others send too many reviews")
        try:
            yield
        finally:
            free.release()


class _Tls(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        listening: socket.socket,
        identity: Identity,
        answer: Respond,
        is_ready: Callable[[], bool],
    ) -> None:
        socketserver.BaseServer.__init__(self, listening.getsockname(), _Handler)
        self.socket = listening
        self.identity = identity
        self.answer = answer
        self.is_ready = is_ready
        self.connections = Connections(_MAX_CONNECTIONS)
        self.turns = _Turns()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; its handshake is made by its own thread."""
        plain, address = super().get_request()
        try:
            plain.settimeout(_READ_S)
            wrapped = self._wrap(plain)
        except OSError:
            plain.close()
            raise  # the base class goes on with the next one
        try:
            self.connections.add(wrapped)
        except OSError:
            wrapped.close()
            raise
        return wrapped, address

    def _wrap(self, plain: socket.socket) -> ssl.SSLSocket:
        context = self.identity.context
        if context is None:
            raise OSError("there is no certificate yet")
        return context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Make the handshake, then answer."""
        request.do_handshake()
        super().finish_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        self.connections.remove(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Log what a client's connection died of, where the base class prints a traceback."""
        _log.debug("a connection of %s failed", client_address, exc_info=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = f"csi-fluid/{__version__}"
    sys_version = ""
    timeout = _READ_S
    wbufsize = -1  # head and body in one record
    server: _Tls
    connection: ssl.SSLSocket

    def do_GET(self) -> None:
        """Answer a health check."""
        if self.path == "/healthz":
            self._answer(200, b"ok\n", "text/plain")
        elif self.path == "/readyz":
            is_ready = self.server.is_ready()
            text = b"ready\n" if is_ready else b"no certificate that is trusted yet\n"
            self._answer(200 if is_ready else 503, text, "text/plain")
        else:
            self._refuse(404, f"expected POST {PATH}, or GET /healthz or /readyz")

    def do_POST(self) -> None:
        """Answer an admission review."""
        size = self.headers.get("Content-Length", "")
        if self.path.partition("?")[0] != PATH:  # an API server adds ?timeout=5s
            self._refuse(404, f"reviews are answered at {PATH}")
        elif not size.isascii() or not size.isdecimal():
            self._refuse(411, "expected a Content-Length")
        elif len(size) > 12 or int(size) > _MAX_BODY:
            self._refuse(413, f"expected at most {_MAX_BODY} bytes")
        else:
            self._review(int(size))

    def _review(self, size: int) -> None:
        body = self.rfile.read(size)
        if len(body) < size:
            self.close_connection = True
            return
        self.server.connections.begin(self.connection)
        try:
            with self.server.turns.take(size):
                answer = self.server.answer(body)
            self._answer(200, answer, "application/json")
        except Malformed as error:
            self._refuse(400, str(error))
        except _Busy as error:
            self._refuse(503, str(error))
        finally:
            self.server.connections.done(self.connection)

    def _refuse(self, status: int, reason: str) -> None:
        self.close_connection = True  # the body may not have been read
        self._answer(status, f"{reason}\n".encode(), "text/plain")

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()  # before it counts as idle, which a stop may end

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
        """Log a request where somebody looks for it; what it came to is told by the review."""
        _log.debug("%s %s", self.client_address[0], format % args)
