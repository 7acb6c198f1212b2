"""What kubelet asks of the plugin, typed: for whoever calls it on its socket."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from csi_fluid import driver
from csi_fluid._pb import csi_pb2, csi_pb2_grpc

_TIMEOUT_S = 30.0
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
        """Return whether the plugin answers and says that it is ready."""
        with contextlib.suppress(grpc.RpcError):
            return self.identity.Probe(csi_pb2.ProbeRequest(), timeout=2).ready.value
        return False

    def publish(
        self, volume: Volume, target: Path, *, timeout_s: float = _TIMEOUT_S
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
        self, volume: Volume, target: Path, *, timeout_s: float = _TIMEOUT_S
    ) -> csi_pb2.NodeUnpublishVolumeResponse:
        """Remove a volume from a pod's target path."""
        request = csi_pb2.NodeUnpublishVolumeRequest(
            volume_id=volume.volume_id, target_path=str(target)
        )
        return self.node.NodeUnpublishVolume(request, timeout=timeout_s)

    def stats(
        self, volume: Volume, path: Path, *, timeout_s: float = _TIMEOUT_S
    ) -> csi_pb2.NodeGetVolumeStatsResponse:
        """Ask for sizes and counts of a published volume."""
        request = csi_pb2.NodeGetVolumeStatsRequest(
            volume_id=volume.volume_id, volume_path=str(path)
        )
        return self.node.NodeGetVolumeStats(request, timeout=timeout_s)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()
