"""The small HTTP server that Prometheus and health checks ask.

Whoever reaches the port can connect: so few connections are served at a time, each for one request
and a few seconds, and the oldest one makes room for the next.
"""

import logging
import socket
from collections.abc import Callable
from typing import BinaryIO

from csi_fluid import connections
from csi_fluid.connections import Listener
from csi_fluid.metrics import values

MAX_CONNECTIONS = 16
_TIMEOUT_S = 5.0
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
        listening = connections.listen(address)
        self.port = int(listening.getsockname()[1])  # also where the kernel chose it (:0)
        self._text = text
        self._ready = ready
        self._unready = unready
        self._listener = Listener(listening, self._serve, name="metrics", limit=MAX_CONNECTIONS)

    def start(self) -> None:
        """Answer from now on."""
        self._listener.start()

    def stop(self) -> None:
        """Stop listening, and end what is open."""
        self._listener.stop()

    def _serve(self, peer: socket.socket) -> None:
        """Answer one request, which is all that a scraper and a probe need of HTTP."""
        peer.settimeout(_TIMEOUT_S)
        with peer.makefile("rb") as lines:
            method, path = _read_request(lines)
        peer.sendall(self._answer(method, path))

    def _answer(self, method: str, path: str) -> bytes:
        if method != "GET":
            return _response("405 Method Not Allowed", b"only GET is answered\n")
        match path:
            case "/metrics":
                return _response("200 OK", self._text(), values.CONTENT_TYPE)
            case "/healthz":
                return _response("200 OK", b"ok\n")
            case "/readyz" if self._ready():
                return _response("200 OK", b"ready\n")
            case "/readyz":
                return _response("503 Service Unavailable", f"{self._unready}\n".encode())
            case _:
                return _response("404 Not Found", b"try /metrics, /healthz or /readyz\n")


def _read_request(lines: BinaryIO) -> tuple[str, str]:
    """Read a request without a body and return its method and path."""
    method, _, rest = lines.readline(_MAX_LINE).decode("latin-1").partition(" ")
    for _ in range(_MAX_HEADERS):
        if not lines.readline(_MAX_LINE).strip():
            break
    return method, rest.partition(" ")[0].partition("?")[0]


def _response(status: str, body: bytes, content_type: str = "text/plain") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body
