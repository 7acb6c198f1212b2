"""The directories of a node as kubelet and the FUSE daemons use them, on a tmpfs of their own.

Shared as on a real node: what is mounted below kubelet's directory or MOUNT_ROOT reaches every
mount namespace that asked for it.  Everything is gone with the namespace that the caller runs in.
"""

from pathlib import Path

from csi_fluid.kubelet import Kubelet
from csi_fluid.testbed import programs
from csi_fluid.testbed.pods import Image


class Node:
    """A node below a folder, which must exist; the caller owns the mount namespace."""

    def __init__(self, root: Path) -> None:
        self.root = root
        programs.run("mount", "-t", "tmpfs", "-o", "mode=0755", "node", root)
        programs.run("mount", "--make-shared", root)
        self.kubelet = self._shared("kubelet")
        self.mount_root = self._shared("runtime-mnt")
        kubelet = Kubelet(str(self.kubelet))
        self.socket = kubelet.socket
        self.state = kubelet.own / "state.db"
        for folder in (self.socket.parent, self.state.parent, Path(kubelet.pods)):
            folder.mkdir(parents=True)
        self.image = Image(root / "image")

    def _shared(self, name: str) -> Path:
        folder = self.root / name
        folder.mkdir()
        programs.run("mount", "--bind", folder, folder)  # a mount of its own, so that a namespace
        return folder  # may make it a slave without the rest

    def folder(self, name: str) -> Path:
        """Return a folder for logs and data, made if need be."""
        path = self.root / "work" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def source(self, dataset: str, *, namespace: str = "default", runtime: str = "thin") -> Path:
        """Return where the FUSE daemon of a dataset mounts (`fluid_path`)."""
        return self.mount_root / runtime / namespace / dataset / f"{runtime}-fuse"

    def target(self, pod_uid: str, volume: str) -> Path:
        """Return kubelet's target path of a pod's volume; its parent exists then."""
        path = Path(Kubelet(str(self.kubelet)).target(pod_uid, volume))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def close(self) -> None:
        """Unmount everything that was made here."""
        self.image.close()
        programs.run("umount", "-l", self.root)
