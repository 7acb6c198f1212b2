"""The node service without privileges: symbolic links to plain directories."""

import os
from concurrent import futures
from pathlib import Path
from typing import Any

from csi_fluid._pb import csi_pb2
from csi_fluid.rpc.client import Client
from csi_fluid.testbed.waiting import until
from tests.rpc.serving import Serving, capability

Mode = csi_pb2.VolumeCapability.AccessMode
SKIP_CHECK = "fluid.io/skip-check-mount-ready-target"


class World:
    """A plugin, a dataset that is a plain directory, and a place for targets."""

    def __init__(self, folder: Path, plugin: Serving, client: Client) -> None:
        self.plugin, self.client, self.node = plugin, client, client.node
        self.source = folder / "source"
        (self.source / "sub").mkdir(parents=True)
        self.pods = folder / "pods"
        self.pods.mkdir()
        self.target = self.pods / "mount"

    def request(self, **changes: Any) -> csi_pb2.NodePublishVolumeRequest:
        """Return a publish that succeeds, but for the changes; attributes adds to the context."""
        attributes = {
            "fluid_path": str(self.source),
            "node_publish_method": "symlink",
            SKIP_CHECK: "All",
        } | changes.pop("attributes", {})
        fields = {
            "volume_id": "vol-1",
            "target_path": str(self.target),
            "staging_target_path": "/staging",
            "volume_capability": capability(),
            "volume_context": attributes,
        } | changes
        return csi_pb2.NodePublishVolumeRequest(**fields)

    def publish(self, *, timeout: float = 10, **changes: Any) -> None:
        self.node.NodePublishVolume(self.request(**changes), timeout=timeout)

    def publish_later(
        self, pool: futures.Executor, *, timeout: float = 10, **changes: Any
    ) -> "futures.Future[None]":
        """Publish what is not mounted; return when the call waits."""
        name = f"absent-{len(self.waiting)}"
        before = len(self.waiting)
        attributes = {"fluid_path": str(self.source / name), SKIP_CHECK: ""}
        call = pool.submit(self.publish, timeout=timeout, attributes=attributes, **changes)
        until(lambda: len(self.waiting) > before or call.done(), "the publish waits")
        return call

    @property
    def waiting(self) -> list[str]:
        """Return the mount tables open in this process: one for each publish that waits."""
        links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
        return [link for link in links if os.path.lexists(link) and _is_table(link)]

    def unpublish(self, target: Path | None = None, volume_id: str = "vol-1") -> None:
        path = str(target or self.target)
        self.node.NodeUnpublishVolume(
            csi_pb2.NodeUnpublishVolumeRequest(volume_id=volume_id, target_path=path), timeout=10
        )

    def everything(self) -> list[str]:
        return sorted(str(path) for path in self.pods.rglob("*"))


def _is_table(link: str) -> bool:
    try:
        return os.readlink(link).endswith("/mountinfo")
    except FileNotFoundError:
        return False
