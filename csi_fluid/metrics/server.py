"""The small HTTP server that Prometheus and health checks ask."""

import contextlib
import logging
import socket
import socketserver
import threading
from collections.abc import Callable

from csi_fluid.metrics import values

_READ_TIMEOUT_S = 5.0
_STOP_TIMEOUT_S = 0.5
_MAX_LINE = 8192
_MAX_HEADERS = 100

_log = logging.getLogger(__name__)


class Server:
    """Serves /metrics, /healthz and /readyz over HTTP, without waking up while nobody asks."""

    def __init__(
        self,
        address: tuple[str, int],
        text: Callable[[], bytes],
        ready: Callable[[], bool],
        unready: str = "the state is being reconciled",
    ) -> None:
        """Listen at (host, port), on every interface for an empty host; raises OSError.

        unready says what is missing while ready() is False.  Neither text nor ready may wait for
        a FUSE daemon: whoever asks takes silence for death.
        """
        host, port = address
        dual = not host and socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual or ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, dualstack_ipv6=dual)
        self._server = _HttpServer(self._socket, text, ready, unready)
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)

    @property
    def port(self) -> int:
        """Return the port, for an address that left the choice to the kernel (:0)."""
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # ends the wait in handle_request
        if self._thread.is_alive():
            self._thread.join(_STOP_TIMEOUT_S)
        self._socket.close()

    def _serve(self) -> None:
        while not self._stopping:
            self._server.handle_request()


class _HttpServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        listening: socket.socket,
        text: Callable[[], bytes],
        ready: Callable[[], bool],
        unready: str,
    ) -> None:
        socketserver.BaseServer.__init__(self, listening.getsockname(), _Handler)
        self.socket = listening
        self.text = text
        self.ready = ready
        self.unready = unready

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
        """Log what a client's connection died of, where the base class prints a traceback."""
        _log.debug("a request for metrics by %s failed", client_address, exc_info=True)


class _Handler(socketserver.StreamRequestHandler):
    """Answers one request on each connection: all that a scraper and a probe need of HTTP."""

    server: _HttpServer
    timeout = _READ_TIMEOUT_S

    def handle(self) -> None:
        """Read a request and answer it."""
        method, _, rest = self.rfile.readline(_MAX_LINE).decode("latin-1").partition(" ")
        for _ in range(_MAX_HEADERS):
            if not self.rfile.readline(_MAX_LINE).strip():
                break
        path = rest.partition(" ")[0].partition("?")[0]
        if method != "GET":
            self._answer("405 Method Not Allowed", b"only GET is answered\n")
        elif path == "/metrics":
            self._answer("200 OK", self.server.text(), values.CONTENT_TYPE)
        elif path == "/healthz":
            self._answer("200 OK", b"ok\n")
        elif path == "/readyz" and self.server.ready():
            self._answer("200 OK", b"ready\n")
        elif path == "/readyz":
            self._answer("503 Service Unavailable", f"{self.server.unready}\n".encode())
        else:
            self._answer("404 Not Found", b"try /metrics, /healthz or /readyz\n")

    def _answer(self, status: str, body: bytes, content_type: str = "text/plain") -> None:
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.wfile.write(head.encode("ascii") + body)
