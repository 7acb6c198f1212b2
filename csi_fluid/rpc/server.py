"""The gRPC server on its socket: who may listen, how many calls run, what is told of each.

One interceptor stands around every call: it parses the request, logs one line, counts, and makes a
status of whatever is raised.  The wire is an event loop's, which sleeps while nobody calls;
handlers run in a pool that grows as needed.  Publishes that wait are bounded below its size
(volumes.readiness), so that Unpublish and Probe always find a thread.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent import futures
from pathlib import Path
from typing import Any, TypeAlias

import grpc.aio
from google.protobuf import message

from csi_fluid._pb import csi_pb2_grpc
from csi_fluid.errors import InvalidArgument
from csi_fluid.rpc import requests, sockets, status
from csi_fluid.rpc.call import PooledCall
from csi_fluid.rpc.controller import Controller
from csi_fluid.rpc.identity import Identity
from csi_fluid.rpc.loop import Loop
from csi_fluid.rpc.node import Node
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
_UNPUBLISHED = ("NodeGetVolumeHealth", grpc.StatusCode.NOT_FOUND)

Observe = Callable[[str, str, float], None]  # method, code, seconds
# Generic for the type checker alone.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

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
        loop: Loop,
    ) -> None:
        """Take "unix:/path" or "host:port", the services, who counts calls, and where to serve."""
        self._address = address
        self._services = identity, node, controller
        self._loop = loop
        self._pool = futures.ThreadPoolExecutor(_WORKERS, thread_name_prefix="rpc")
        self._around = _Around(self._pool, observe)
        self._server: grpc.aio.Server | None = None
        self._socket: sockets.Place | None = None

    def start(self) -> None:
        """Listen and serve, and return; raises EndpointInUse or OSError."""
        self._loop.run(self._serve())
        _log.info("serving at %s", self._address)

    async def _serve(self) -> None:
        identity, node, controller = self._services
        server = self._server = grpc.aio.server(
            interceptors=[self._around], options=(("grpc.so_reuseport", 0),)
        )
        csi_pb2_grpc.add_IdentityServicer_to_server(identity, server)
        csi_pb2_grpc.add_NodeServicer_to_server(node, server)
        csi_pb2_grpc.add_ControllerServicer_to_server(controller, server)
        if self._address.startswith(_UNIX):
            path = Path(self._address.removeprefix(_UNIX))
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            sockets.check_free(path, "choose another endpoint")
            self._socket = await sockets.offer(server, path)
        else:
            _log.warning("listening at %s: anybody who reaches it can mount volumes", self._address)
            sockets.listen(server, self._address)
            await server.start()

    def stop(self, grace_s: float) -> None:
        """Refuse new calls, give those under way grace_s, and end them; the socket is removed."""
        if self._socket is not None:
            self._socket.remove()
        if self._server is not None:
            self._loop.run(self._server.stop(grace_s))
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Around(grpc.aio.ServerInterceptor):
    """Stands around every call."""

    def __init__(self, pool: futures.Executor, observe: Observe) -> None:
        self._pool = pool
        self._observe = observe

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "Awaitable[Handler | None]"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Wrap the handler of a method; None for a method that is not there."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method.rpartition("/")[2]

        async def answer(data: bytes, context: Context) -> object:
            return await self._answer(method, handler, data, context)

        # No deserializer: what cannot be parsed is a wrong argument, not an internal error.
        return grpc.unary_unary_rpc_method_handler(
            answer, response_serializer=handler.response_serializer
        )

    async def _answer(self, method: str, handler: Handler, data: bytes, context: Context) -> object:
        """Answer from a thread: a handler may wait, for a FUSE mount or the disk."""
        call = PooledCall(context.time_remaining())
        running = asyncio.get_running_loop()
        try:
            return await running.run_in_executor(
                self._pool, self._handle, method, handler, data, call
            )
        except asyncio.CancelledError:  # the caller is gone, or the server's grace is over
            call.end()
            raise
        except Exception as error:  # noqa: BLE001  the top of the call: everything becomes a status
            await context.abort(status.code_of(error), status.message_of(error))

    def _handle(self, method: str, handler: Handler, data: bytes, call: Any) -> object:
        started = time.monotonic()
        request: object = None
        try:
            request = _parse(method, handler, data)
            assert handler.unary_unary is not None
            response = handler.unary_unary(request, call)
        except Exception as error:
            self._tell(method, request, started, error)
            raise
        self._tell(method, request, started)
        return response

    def _tell(
        self, method: str, request: object, started: float, error: Exception | None = None
    ) -> None:
        seconds = time.monotonic() - started
        code = grpc.StatusCode.OK if error is None else status.code_of(error)
        unexpected = error if error is not None and status.is_unexpected(error) else None
        self._observe(method, code.name, seconds)
        _log.log(
            _level(method, code, unexpected=unexpected is not None),
            "%s %s%s",
            method,
            code.name,
            "" if error is None else f": {status.message_of(error)}",
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
