"""The CSI server on its socket: who may listen, how many calls run, what is told of each.

Around every call it parses the request, logs one line, counts, and makes a status of whatever is
raised.  Handlers run in a pool that grows as needed; publishes that wait are bounded below its
size (volumes.readiness), so that Unpublish and Probe always find a thread.
"""

import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path

from csi_fluid._pb import csi_pb2
from csi_fluid.rpc import requests, services, sockets, status
from csi_fluid.rpc.controller import Controller
from csi_fluid.rpc.identity import Identity
from csi_fluid.rpc.node import Node
from csi_fluid.rpc.services import Method
from csi_fluid.rpc.status import Code
from csi_fluid.rpc.unary import Call, CallServer, Reply
from csi_fluid.volumes.readiness import MAX_WAITING

_WORKERS = MAX_WAITING + 32
_UNIX = "unix:"
# Only these fields of a request are ever logged: others may hold secrets or credentials.
_LOGGED = {
    "volume_id": "volume",
    "target_path": "target",
    "volume_path": "target",
    "name": "volume",
}
# What kubelet asks every minute, or before every other call.
_ROUTINE = frozenset({"Probe", "NodeGetCapabilities", "NodeGetVolumeStats", "NodeGetVolumeHealth"})
# It asks so each time about a volume that is staged and still waits for its FUSE mount.
_UNPUBLISHED = ("NodeGetVolumeHealth", Code.NOT_FOUND)

Observe = Callable[[str, str, float], None]  # method, code, seconds

_log = logging.getLogger(__name__)


class Server:
    """Serves the three services at one address."""

    def __init__(
        self,
        address: str,
        identity: Identity,
        node: Node,
        controller: Controller,
        observe: Observe,
        *,
        workers: int = _WORKERS,
    ) -> None:
        """Take "unix:/path" or "host:port", the services, and who counts calls."""
        self._address = address
        self._methods = services.methods(
            csi_pb2.DESCRIPTOR, Identity=identity, Node=node, Controller=controller
        )
        self._observe = observe
        self._workers = workers
        self._calls: CallServer | None = None
        self._socket: sockets.Place | None = None

    def start(self) -> None:
        """Listen and serve, and return; raises EndpointInUse or OSError."""
        self._calls = CallServer(self._listen(), self._answer, name="rpc", workers=self._workers)
        self._calls.start()
        _log.info("serving at %s", self._address)

    def _listen(self) -> socket.socket:
        if not self._address.startswith(_UNIX):
            _log.warning("listening at %s: anybody who reaches it can mount volumes", self._address)
            return sockets.listen_at(self._address)
        path = Path(self._address.removeprefix(_UNIX))
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if sockets.check_free(path, "choose another endpoint"):
            path.unlink(missing_ok=True)
        listening = sockets.listen(path)
        self._socket = sockets.Place(path)
        return listening

    def stop(self, grace_s: float) -> None:
        """Refuse new calls, give those under way grace_s, and end them; the socket is removed."""
        if self._socket is not None:
            self._socket.remove()
        if self._calls is not None:
            self._calls.stop(grace_s)

    def _answer(self, path: str, data: bytes, call: Call) -> Reply:
        method = self._methods.get(path)
        return services.unknown(path) if method is None else self._run(method, data, call)

    def _run(self, method: Method, data: bytes, call: Call) -> Reply:
        started = time.monotonic()
        request: object = None
        failure: Exception | None = None
        try:
            request = method.parse(data)
            reply = Reply(method.handle(request, call).SerializeToString())
        except Exception as error:  # noqa: BLE001  the top of the call: everything becomes a status
            failure, reply = error, services.refused(error)
        seconds = time.monotonic() - started
        self._observe(method.name, reply.code.name, seconds)
        unexpected = failure if failure and status.is_unexpected(failure) else None
        _log.log(
            _level(method.name, reply.code, unexpected=unexpected is not None),
            "%s %s%s",
            method.name,
            reply.code.name,
            f": {reply.reason}" if reply.reason else "",
            extra=_fields(request) | {"code": reply.code.name, "ms": round(seconds * 1000, 2)},
            exc_info=unexpected,
        )
        return reply


def _level(method: str, code: Code, *, unexpected: bool) -> int:
    if unexpected:
        return logging.ERROR
    if (method, code) == _UNPUBLISHED:
        return logging.DEBUG
    if code is not Code.OK:
        return logging.WARNING
    return logging.DEBUG if method in _ROUTINE else logging.INFO


def _fields(request: object) -> dict[str, object]:
    given = ((key, getattr(request, field, "")) for field, key in _LOGGED.items())
    return {key: _short(value) for key, value in given if value}


def _short(value: str) -> str:
    return value if len(value) <= 300 else requests.shorten(value)
