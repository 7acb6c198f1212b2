"""The real services on a unix socket, in this process and without recovery, and a client."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import grpc.aio
import pytest

from csi_fluid._pb import csi_pb2
from csi_fluid.kube import Kube
from csi_fluid.kube.none import NoKube
from csi_fluid.kubelet import Kubelet
from csi_fluid.rpc import controller, identity, node, server
from csi_fluid.rpc.client import Client
from csi_fluid.rpc.loop import Loop
from csi_fluid.testbed.waiting import PACE
from csi_fluid.volumes import (
    health,
    publish,
    readiness,
    stage,
    static,
    stats,
    targets,
    unpublish,
    users,
)
from recover.linux.probe import Prober
from recover.parts import Parts
from recover.rows import Method
from recover.store import Store

NODE_ID = "node-1"
SOON_S = PACE * 0.5  # what somebody waits who is not to wait for long


@functools.cache
def rpc_loop() -> Loop:
    """Return the one loop of this process, as the plugin has one: gRPC's core is bound to it.

    With a loop for each test, made and closed hundreds of times in one process, gRPC's core crashed
    now and then, some tests later.
    """
    made = Loop()
    made.start()
    return made


class Serving:
    """A plugin without recovery: the state, the services, the socket."""

    def __init__(
        self,
        folder: Path,
        *,
        method: Method = Method.BIND,
        probe_timeout_s: float = 3.0,
        max_waiting: int = 4,
        kube: Kube | None = None,
        store: Store | None = None,
        address: str = "",
    ) -> None:
        self.socket = folder / "csi.sock"
        self.loop = rpc_loop()
        self.store = store or Store()
        self.prober = Prober(timeout_s=probe_timeout_s)
        parts = Parts.of(self.store, self.prober, folder)
        self.locks = parts.locks
        self.ready: Callable[[], bool] = lambda: True
        self.changed: list[str] = []
        self.calls: list[tuple[str, str, float]] = []
        claims = self.claims = targets.Claims()
        sources = readiness.Sources(self.prober, max_waiting=max_waiting)
        volumes = node.Volumes(
            stager=stage.Stager(
                kube or NoKube(),
                users.Users(self.store, Kubelet(str(folder))),
                claims,
                self.prober,
                str(folder),
            ),
            publisher=publish.Publisher(
                parts, sources, claims, self.changed.append, targets.Pods(str(folder))
            ),
            unpublisher=unpublish.Unpublisher(parts, claims, self.changed.append),
            stats=stats.Stats(self.store, self.prober),
            health=health.Health(self.store, self.prober, sources),
        )
        self.server = server.Server(
            address or f"unix:{self.socket}",
            identity.Identity(self._is_ready),
            node.Node(NODE_ID, volumes, method),
            controller.Controller(static.StaticVolumes(self.store)),
            lambda *call: self.calls.append(call),
            self.loop,
        )

    def start(self) -> None:
        self.server.start()

    def stop(self, grace_s: float = 0.1) -> None:
        self.server.stop(grace_s)

    def _is_ready(self) -> bool:
        return self.ready()


@contextlib.contextmanager
def serving(folder: Path, **options: object) -> Iterator[tuple[Serving, Client]]:
    """Serve for a block and yield the plugin and a client."""
    plugin = Serving(folder, **options)  # type: ignore[arg-type]
    client = Client(plugin.socket)
    try:
        plugin.start()
        yield plugin, client
    finally:
        client.close()
        plugin.stop()


def capability(
    mode: int = csi_pb2.VolumeCapability.AccessMode.MULTI_NODE_READER_ONLY,
) -> csi_pb2.VolumeCapability:
    """Return a mount capability; mode may be a number that does not exist."""
    kind = csi_pb2.VolumeCapability
    answer = kind(mount=kind.MountVolume(), access_mode=kind.AccessMode())
    answer.access_mode.mode = mode  # type: ignore[assignment]
    return answer


def refusal(code: grpc.StatusCode) -> "Refusal":
    """Expect a call of the block to be refused with a code and a message."""
    return Refusal(code)


class Refusal:
    """Expects an RpcError; afterwards `message` is its text and `seconds` how long it took."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code
        self._started = time.monotonic()
        self.message = ""
        self.seconds = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if error is None:
            pytest.fail(f"the call succeeded; expected {self._code.name}")
        if not isinstance(error, grpc.RpcError):
            return False
        call: Any = error
        self.message, self.seconds = call.details() or "", time.monotonic() - self._started
        assert call.code() is self._code, self.message
        assert self.message
        return True
