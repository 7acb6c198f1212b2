"""The plugin as a process, and a client that calls it as kubelet does."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from csi_fluid import driver
from csi_fluid._pb import csi_pb2, csi_pb2_grpc
from csi_fluid.demo import programs
from csi_fluid.demo.errors import DemoError
from csi_fluid.demo.node import Node
from csi_fluid.demo.waiting import pause

COMMAND = (sys.executable, "-m", "csi_fluid", "start")
_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 6.0  # the plugin promises to end 5 s after SIGTERM
_RPC_TIMEOUT_S = 30.0
# The first attempts meet no socket yet; gRPC would wait a second before the next.
_RECONNECT = (("grpc.initial_reconnect_backoff_ms", 20), ("grpc.max_reconnect_backoff_ms", 200))

Mode = csi_pb2.VolumeCapability.AccessMode


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume of a dataset, as Fluid's PersistentVolume describes it."""

    volume_id: str
    source: Path
    mount_type: str
    sub_path: str = ""
    read_only: bool = True
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def context(self) -> dict[str, str]:
        """Return the volume attributes."""
        runtime_namespace, runtime_name = self.source.parts[-3:-1]
        return {
            driver.FLUID_PATH: str(self.source),
            driver.MOUNT_TYPE: self.mount_type,
            driver.RUNTIME_NAMESPACE: runtime_namespace,
            driver.RUNTIME_NAME: runtime_name,
            **({driver.FLUID_SUB_PATH: self.sub_path} if self.sub_path else {}),
            **self.attributes,
        }

    @property
    def capability(self) -> csi_pb2.VolumeCapability:
        """Return what kubelet asks for: ReadOnlyMany or ReadWriteMany, as a file system."""
        mode = Mode.MULTI_NODE_READER_ONLY if self.read_only else Mode.MULTI_NODE_MULTI_WRITER
        return csi_pb2.VolumeCapability(
            mount=csi_pb2.VolumeCapability.MountVolume(), access_mode=Mode(mode=mode)
        )


class Client:
    """The calls that kubelet makes, typed; each raises grpc.RpcError.

    identity, controller and node are the bare stubs, for what has no method here.
    """

    def __init__(self, socket: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=_RECONNECT)
        self.identity = csi_pb2_grpc.IdentityStub(self._channel)
        self.controller = csi_pb2_grpc.ControllerStub(self._channel)
        self.node = csi_pb2_grpc.NodeStub(self._channel)

    def ready(self) -> bool:
        """Tell whether the plugin answers and says that it is ready."""
        with contextlib.suppress(grpc.RpcError):
            return self.identity.Probe(csi_pb2.ProbeRequest(), timeout=2).ready.value
        return False

    def publish(
        self, volume: Volume, target: Path, *, timeout_s: float = _RPC_TIMEOUT_S
    ) -> csi_pb2.NodePublishVolumeResponse:
        """Bind a volume to a pod's target path."""
        request = csi_pb2.NodePublishVolumeRequest(
            volume_id=volume.volume_id,
            target_path=str(target),
            volume_capability=volume.capability,
            volume_context=volume.context,
        )
        return self.node.NodePublishVolume(request, timeout=timeout_s)

    def unpublish(
        self, volume: Volume, target: Path, *, timeout_s: float = _RPC_TIMEOUT_S
    ) -> csi_pb2.NodeUnpublishVolumeResponse:
        """Remove a volume from a pod's target path."""
        request = csi_pb2.NodeUnpublishVolumeRequest(
            volume_id=volume.volume_id, target_path=str(target)
        )
        return self.node.NodeUnpublishVolume(request, timeout=timeout_s)

    def stats(
        self, volume: Volume, path: Path, *, timeout_s: float = _RPC_TIMEOUT_S
    ) -> csi_pb2.NodeGetVolumeStatsResponse:
        """Ask for sizes and counts of a published volume."""
        request = csi_pb2.NodeGetVolumeStatsRequest(
            volume_id=volume.volume_id, volume_path=str(path)
        )
        return self.node.NodeGetVolumeStats(request, timeout=timeout_s)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


class Plugin:
    """One life of the plugin on a node; `start` may be called again after `stop` or `kill`."""

    def __init__(
        self,
        node: Node,
        *,
        strategy: str = "namespace",
        options: Sequence[str] = (),
        command: Sequence[str] = COMMAND,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare a plugin; command and options allow another one that takes Fluid's flags."""
        self.client = Client(node.socket)
        self.log = node.folder("plugin") / "log"
        self._command = [
            *command,
            "--nodeid=node1",
            f"--endpoint=unix://{node.socket}",
            "--feature-gates=FuseRecovery=true",
            "--metrics-addr=0",
            *(_own_options(node, strategy) if strategy else ()),
            *options,
        ]
        self._environ = {
            **(programs.environment(node.root) if environ is None else environ),
            "MOUNT_ROOT": str(node.mount_root),
            "KUBELET_ROOTDIR": str(node.kubelet),
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Return the process id of the running plugin, or of the last one."""
        assert self._process is not None, "never started"
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Tell whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def words(self) -> str:
        """Return the end of the log."""
        return programs.last_words(self.log)

    def start(self) -> None:
        """Start and return when Probe says ready; raises DemoError with the plugin's last words."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
                start_new_session=True,
            )
        end = time.monotonic() + _START_TIMEOUT_S
        while not self.client.ready():
            if not self.alive:
                raise DemoError(f"the plugin ended with {self._process.returncode}: {self.words}")
            if time.monotonic() > end:
                raise DemoError(f"the plugin was not ready in time: {self.words}")
            pause(0.02)

    def stop(self) -> int:
        """Ask the plugin to end, as kubelet does, and return its exit status."""
        assert self._process is not None, "never started"
        os.killpg(self._process.pid, signal.SIGTERM)  # also through an unshare before it
        return self._process.wait(_STOP_TIMEOUT_S)

    def kill(self) -> None:
        """End the plugin at once, wherever it is."""
        if self._process is not None:
            programs.stop(self._process)

    def close(self) -> None:
        """End the plugin and close the client."""
        self.kill()
        self.client.close()


def _own_options(node: Node, strategy: str) -> tuple[str, ...]:
    """Return what Fluid's plugin would not take; a cluster that is here has no part in it."""
    return f"--strategy={strategy}", f"--state={node.state}", "--kube=none"
