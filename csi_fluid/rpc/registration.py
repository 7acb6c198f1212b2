"""How kubelet learns of the plugin: a socket in its directory plugins_registry.

kubelet watches that directory, asks whoever listens on a new socket who it is, connects to the CSI
socket named in the answer, and says how that went.  After a restart it asks every socket again, so
the plugin only has to be there.  Names beginning with "." are not looked at
(kubernetes: pkg/kubelet/pluginmanager/pluginwatcher/README.md).
"""

import logging
import threading
from pathlib import Path

import grpc.aio

from csi_fluid import driver
from csi_fluid._pb import registration_pb2, registration_pb2_grpc
from csi_fluid.rpc import requests, sockets
from csi_fluid.rpc.loop import Loop

SOCKET = f"{driver.NAME}-reg.sock"  # also the name that node-driver-registrar gives it

_KIND = "CSIPlugin"
_CSI_VERSIONS = ("1.0.0",)  # kubelet compares the major number
_GRACE_S = 0.5
_INSTEAD = "leave --kubelet-registration-path out where a registrar sidecar does this"

_log = logging.getLogger(__name__)


class Registrar(registration_pb2_grpc.RegistrationServicer):
    """Keeps the plugin registered with kubelet.

    A socket that cannot be made, or that somebody removed, is made again: volumes that are mounted
    already are healed meanwhile, so no failure here ends the plugin.
    """

    def __init__(
        self,
        folder: Path,
        endpoint: str,
        loop: Loop,
        *,
        retry_s: float = 2.0,
        check_s: float = 30.0,
    ) -> None:
        """Take kubelet's plugins_registry as seen here, and the CSI socket as kubelet sees it.

        A socket that could not be made is tried again after retry_s; whether it is still there is
        looked at every check_s.
        """
        self._retry_s = retry_s
        self._check_s = check_s
        self._path = folder / SOCKET
        self._endpoint = endpoint
        self._loop = loop
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="registration", daemon=True)
        self._server: grpc.aio.Server | None = None
        self._socket: sockets.Place | None = None
        self._trouble = ""
        self.registered = False  # what kubelet said last

    def start(self) -> None:
        """Be found from now on; returns at once and does not raise."""
        self._thread.start()

    def stop(self) -> None:
        """Remove the socket, by which kubelet takes the plugin for gone."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_GRACE_S)
        self._close()

    async def GetInfo(
        self, request: registration_pb2.InfoRequest, context: object
    ) -> registration_pb2.PluginInfo:
        """Return who the plugin is and where its CSI socket is."""
        return registration_pb2.PluginInfo(
            type=_KIND, name=driver.NAME, endpoint=self._endpoint, supported_versions=_CSI_VERSIONS
        )

    async def NotifyRegistrationStatus(
        self, request: registration_pb2.RegistrationStatus, context: object
    ) -> registration_pb2.RegistrationStatusResponse:
        """Take note of whether kubelet could use the plugin."""
        self.registered = request.plugin_registered
        if self.registered:
            _log.info("registered with kubelet", extra={"endpoint": self._endpoint})
        else:
            _log.warning(
                "kubelet did not register the plugin: %s; it must find the CSI socket at %s, which "
                "is what --kubelet-registration-path says",
                requests.shorten(request.error),
                self._endpoint,
            )
        return registration_pb2.RegistrationStatusResponse()

    def _keep(self) -> None:
        while True:
            try:
                if self._socket is None or not self._socket.is_ours:
                    self._serve()
                self._tell("")
            except OSError as error:
                self._close()
                self._tell(str(getattr(error, "strerror", "") or error))
            if self._stop.wait(self._retry_s if self._trouble else self._check_s):
                return

    def _tell(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            _log.warning("cannot make kubelet's registration socket %s: %s", self._path, trouble)
        self._trouble = trouble

    def _serve(self) -> None:
        """Listen; raises OSError, EndpointInUse among them."""
        self._close()
        self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        sockets.check_free(self._path, _INSTEAD)
        self._loop.run(self._offer())
        _log.info("offered to kubelet at %s", self._path)

    async def _offer(self) -> None:
        self._server = grpc.aio.server()
        registration_pb2_grpc.add_RegistrationServicer_to_server(self, self._server)
        self._socket = await sockets.offer(self._server, self._path)

    def _close(self) -> None:
        place, self._socket = self._socket, None
        if place is not None:
            place.remove()
        server, self._server = self._server, None
        if server is not None:
            self._loop.run(server.stop(_GRACE_S))
