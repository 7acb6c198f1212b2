"""A stand-in for Fluid's own node plugin, as far as it touches mounts; a process on the node.

It binds as Fluid's image does (busybox: also a read-only volume is bound writable), lays one more
bind on what broke (pkg/csi/recover of Fluid: broken is what shares no peer group with the global
mount; nothing is asked and nothing verified), and takes everything off with plain umounts. It
labels no node.
"""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc

from csi_fluid._pb import csi_pb2, csi_pb2_grpc
from csi_fluid.rpc.loop import Loop
from csi_fluid.rpc.registration import Registrar
from tests.cluster.cluster import Cluster
from tests.cluster.fluidobjects import DRIVER, MOUNT_ROOT
from tests.cluster.settings import ROOT
from tests.cluster.waiting import wait_for

KUBELET = Path("/var/lib/kubelet")
SOCKET = KUBELET / "csi-plugins" / DRIVER / "csi.sock"
PERIOD_S = 1.0  # Fluid's RECOVER_FUSE_PERIOD, 5 s by default
CORRUPTED = (errno.ENOTCONN, errno.ESTALE, errno.EIO, errno.EACCES)
_NAME = "fluid-csi"


class FluidPlugin:
    """Fluid's plugin on a cluster's node: starts and stops."""

    def __init__(self, cluster: Cluster) -> None:
        self._node = cluster.node

    def start(self, *, recovery: bool = True) -> None:
        """Run it with the mounts that Fluid's chart gives it; return when it serves.

        recovery: Fluid's gate FuseRecovery, which is off by default.
        """
        shell = f'mount --make-rslave {MOUNT_ROOT} && exec "$@"'
        unshare = ("unshare", "--mount", "--propagation=unchanged", "sh", "-c", shell, "sh")
        program = (sys.executable, "-m", "tests.cluster.fluidplugin", str(recovery))
        before = self._starts()
        self._node.start(_NAME, *unshare, *program, environment={"PYTHONPATH": str(ROOT)})
        wait_for(lambda: self._starts() > before, "Fluid's plugin")

    def _starts(self) -> int:
        return self._node.log(_NAME, 1000).count("registered")

    def stop(self) -> None:
        """End it, if it runs; its mounts stay."""
        if self._node.alive(_NAME):
            self._node.signal(_NAME, signal.SIGTERM)
            wait_for(lambda: not self._node.alive(_NAME), "the end of Fluid's plugin")


class Identity(csi_pb2_grpc.IdentityServicer):
    """Who it is."""

    def GetPluginInfo(self, request: csi_pb2.GetPluginInfoRequest, context: grpc.ServicerContext):
        return csi_pb2.GetPluginInfoResponse(name=DRIVER, vendor_version="1.0.0")

    def Probe(self, request: csi_pb2.ProbeRequest, context: grpc.ServicerContext):
        return csi_pb2.ProbeResponse()


class Node(csi_pb2_grpc.NodeServicer):
    """What kubelet calls."""

    def NodeGetInfo(self, request: csi_pb2.NodeGetInfoRequest, context: grpc.ServicerContext):
        return csi_pb2.NodeGetInfoResponse(node_id="node1")

    def NodeGetCapabilities(
        self, request: csi_pb2.NodeGetCapabilitiesRequest, context: grpc.ServicerContext
    ):
        stage = csi_pb2.NodeServiceCapability.RPC.STAGE_UNSTAGE_VOLUME
        rpc = csi_pb2.NodeServiceCapability.RPC(type=stage)
        capability = csi_pb2.NodeServiceCapability(rpc=rpc)
        return csi_pb2.NodeGetCapabilitiesResponse(capabilities=[capability])

    def NodeStageVolume(
        self, request: csi_pb2.NodeStageVolumeRequest, context: grpc.ServicerContext
    ):
        return csi_pb2.NodeStageVolumeResponse()

    def NodeUnstageVolume(
        self, request: csi_pb2.NodeUnstageVolumeRequest, context: grpc.ServicerContext
    ):
        return csi_pb2.NodeUnstageVolumeResponse()

    def NodePublishVolume(
        self, request: csi_pb2.NodePublishVolumeRequest, context: grpc.ServicerContext
    ):
        source, target = request.volume_context["fluid_path"], request.target_path
        os.makedirs(target, mode=0o750, exist_ok=True)
        if target not in (point for point, _, _ in mounts()):
            if source not in (point for point, _, _ in mounts()):
                context.abort(grpc.StatusCode.INTERNAL, "timeout waiting for FUSE mount point")
            bind(source, target)
        return csi_pb2.NodePublishVolumeResponse()

    def NodeUnpublishVolume(
        self, request: csi_pb2.NodeUnpublishVolumeRequest, context: grpc.ServicerContext
    ):
        target = request.target_path
        while is_mounted(target):
            subprocess.run(["umount", target], check=True, timeout=10)
        os.rmdir(target)
        return csi_pb2.NodeUnpublishVolumeResponse()


def is_mounted(target: str) -> bool:
    """Say what Fluid's plugin takes for a mount point: another device than above, or corrupted."""
    try:
        return os.stat(target).st_dev != os.stat(os.path.dirname(target)).st_dev
    except OSError as error:
        if error.errno in CORRUPTED:
            return True
        raise


def mounts() -> Iterator[tuple[str, str, frozenset[str]]]:
    """Yield mount point, root and peer groups of every mount, lowest first."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        tags = fields[6 : fields.index("-")]
        yield fields[4], fields[3], frozenset(tag.split(":")[1] for tag in tags)


def bind(source: str, target: str) -> None:
    """Bind a directory as it is."""
    subprocess.run(["mount", "--bind", source, target], check=True, timeout=10)


def recover_for_ever() -> None:
    """Look at the mount table again and again, as Fluid's recovery does."""
    while True:
        recover()
        time.sleep(PERIOD_S)  # noqa: TID251 -- Fluid polls


def recover() -> None:
    """Bind the global mount once more over each copy that is of another peer group."""
    sources: dict[str, tuple[str, frozenset[str]]] = {}
    copies: dict[str, tuple[str, str, frozenset[str]]] = {}
    for point, root, peers in mounts():
        parts = point.split("/")
        if point.startswith(f"{MOUNT_ROOT}/") and len(parts) >= 6:
            sources[f"{parts[3]}-{parts[4]}"] = point, peers
        elif "kubernetes.io~csi" in point and parts[-1] == "mount":
            copies[point] = parts[-2], root, peers
        elif "volume-subpaths" in point:
            copies[point] = parts[-3], root, peers
    for point, (key, root, peers) in copies.items():
        source, wanted = sources.get(key, ("", peers))
        if not peers & wanted:
            bind(f"{source}{root}".rstrip("/"), point)


def main() -> None:
    """Serve until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    SOCKET.parent.mkdir(parents=True, exist_ok=True)
    SOCKET.unlink(missing_ok=True)
    server = grpc.server(futures.ThreadPoolExecutor(4))
    # What they leave out the base class answers with UNIMPLEMENTED.
    csi_pb2_grpc.add_IdentityServicer_to_server(Identity(), server)  # type: ignore[abstract]
    csi_pb2_grpc.add_NodeServicer_to_server(Node(), server)  # type: ignore[abstract]
    server.add_insecure_port(f"unix:{SOCKET}")
    server.start()
    loop = Loop()
    loop.start()
    registrar = Registrar(KUBELET / "plugins_registry", str(SOCKET), loop)
    registrar.start()
    if sys.argv[1:] == ["True"]:
        threading.Thread(target=recover_for_ever, daemon=True).start()
    wait_for(lambda: registrar.registered, "kubelet")
    print("registered", flush=True)
    signal.sigwait({signal.SIGTERM})
    registrar.stop()
    loop.stop()
    server.stop(0.5).wait()


if __name__ == "__main__":
    main()
