"""The gRPC server on its socket: who may listen, how many calls run, what is told of each.

One interceptor stands around every call: it parses the request, logs one line, counts, and makes a
status of whatever is raised.  Handlers run in a pool that grows as needed; publishes that wait are
bounded below its size (volumes.readiness), so that Unpublish and Probe always find a thread.
"""

import errno
import logging
import os
import time
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf import message

from csi_fluid._pb import csi_pb2_grpc
from csi_fluid.errors import EndpointInUse, InvalidArgument
from csi_fluid.rpc import requests, sockets, status
from csi_fluid.rpc.controller import Controller
from csi_fluid.rpc.identity import Identity
from csi_fluid.rpc.node import Node
from csi_fluid.volumes.readiness import MAX_WAITING

_WORKERS = MAX_WAITING + 32
_UNIX = "unix:"
_SOCKET_UMASK = 0o177  # root alone: who can connect can mount
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
_UNPUBLISHED = ("NodeGetVolumeHealth", grpc.StatusCode.NOT_FOUND)

Observe = Callable[[str, str, float], None]  # method, code, seconds
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic for the type checker alone

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
        self._pool = futures.ThreadPoolExecutor(workers, thread_name_prefix="rpc")
        self._server = grpc.server(
            self._pool, interceptors=[_Around(observe)], options=(("grpc.so_reuseport", 0),)
        )
        csi_pb2_grpc.add_IdentityServicer_to_server(identity, self._server)
        csi_pb2_grpc.add_NodeServicer_to_server(node, self._server)
        csi_pb2_grpc.add_ControllerServicer_to_server(controller, self._server)

    def start(self) -> None:
        """Listen and serve, and return; raises EndpointInUse or OSError.

        Call it before other threads make files: the umask of the process is narrowed for a moment,
        so that the socket is never open to others.
        """
        if not self._address.startswith(_UNIX):
            _log.warning("listening at %s: anybody who reaches it can mount volumes", self._address)
            self._listen()
        else:
            path = Path(self._address.removeprefix(_UNIX))
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            if sockets.check_free(path, "choose another endpoint"):
                path.unlink(missing_ok=True)
            umask = os.umask(_SOCKET_UMASK)
            try:
                self._listen()
            finally:
                os.umask(umask)
        self._server.start()
        _log.info("serving at %s", self._address)

    def _listen(self) -> None:
        try:
            self._server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise EndpointInUse(
                errno.EADDRINUSE,
                f"cannot listen at {self._address}: {error}; choose another endpoint",
            ) from error

    def stop(self, grace_s: float) -> None:
        """Refuse new calls, give those under way grace_s, and end them; the socket is removed."""
        self._server.stop(grace_s).wait()
        self._pool.shutdown(wait=False)


class _Around(grpc.ServerInterceptor):
    """Stands around every call."""

    def __init__(self, observe: Observe) -> None:
        self._observe = observe

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "Handler | None"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Wrap the handler of a method; None for a method that is not there."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method.rpartition("/")[2]

        def call(data: bytes, context: grpc.ServicerContext) -> object:
            return self._call(method, handler, data, context)

        # No deserializer: what cannot be parsed is a wrong argument, not an internal error.
        return grpc.unary_unary_rpc_method_handler(
            call, response_serializer=handler.response_serializer
        )

    def _call(
        self,
        method: str,
        handler: Handler,
        data: bytes,
        context: grpc.ServicerContext,
    ) -> object:
        started = time.monotonic()
        request: object = None
        try:
            request = _parse(method, handler, data)
            assert handler.unary_unary is not None
            response = handler.unary_unary(request, context)
        except Exception as error:  # noqa: BLE001  the top of the call: everything becomes a status
            self._fail(method, request, error, started, context)
        self._tell(method, request, grpc.StatusCode.OK, started)
        return response

    def _fail(
        self,
        method: str,
        request: object,
        error: Exception,
        started: float,
        context: grpc.ServicerContext,
    ) -> NoReturn:
        code, text = status.code_of(error), status.message_of(error)
        self._tell(method, request, code, started, error=error, text=text)
        context.abort(code, text)

    def _tell(
        self,
        method: str,
        request: object,
        code: grpc.StatusCode,
        started: float,
        *,
        error: Exception | None = None,
        text: str = "",
    ) -> None:
        seconds = time.monotonic() - started
        self._observe(method, code.name, seconds)
        unexpected = error if error is not None and status.is_unexpected(error) else None
        _log.log(
            _level(method, code, unexpected=unexpected is not None),
            "%s %s%s",
            method,
            code.name,
            f": {text}" if text else "",
            extra=_fields(request) | {"code": code.name, "ms": round(seconds * 1000, 2)},
            exc_info=unexpected,
        )


def _parse(method: str, handler: Handler, data: bytes) -> object:
    assert handler.request_deserializer is not None
    try:
        return handler.request_deserializer(data)
    except message.DecodeError as error:
        raise InvalidArgument(
            f"the request is not a {method}Request of CSI 1.x ({len(data)} bytes); check the caller"
        ) from error


def _level(method: str, code: grpc.StatusCode, *, unexpected: bool) -> int:
    if unexpected:
        return logging.ERROR
    if (method, code) == _UNPUBLISHED:
        return logging.DEBUG
    if code is not grpc.StatusCode.OK:
        return logging.WARNING
    return logging.DEBUG if method in _ROUTINE else logging.INFO


def _fields(request: object) -> dict[str, object]:
    given = ((key, getattr(request, field, "")) for field, key in _LOGGED.items())
    return {key: _short(value) for key, value in given if value}


def _short(value: str) -> str:
    return value if len(value) <= 300 else requests.shorten(value)
