"""Who uses a volume on this node: what must be gone before its FUSE daemon may go.

Asked of the state file, of the mount table and of kubelet's own notes, because an earlier plugin's
mounts and links need not be in the state file.  No FUSE mount is touched.
"""

from collections.abc import Iterator
from pathlib import Path

from csi_fluid.volumes import targets
from csi_fluid.volumes.targets import Kind
from recover.adopt import DRIVER, read_vol_data
from recover.linux import mountinfo
from recover.linux.mountinfo import MountTable
from recover.store import Store

_CSI = "volumes/kubernetes.io~csi"


class Users:
    """Finds the users of volumes."""

    def __init__(self, store: Store, kubelet_root: str) -> None:
        self._store = store
        self._pods = Path(kubelet_root, "pods")

    def of(self, volume_id: str, source: str) -> str:
        """Return a path at which the volume is used, "" where there is none.

        source is the volume's FUSE mount if known, else "".  Volumes of reference datasets have
        the same id and source, so that their users count.
        """
        for publication in self._store.publications():
            if publication.method == "sidecar":  # it has a daemon of its own
                continue
            if publication.volume_id == volume_id or (source and publication.source == source):
                return publication.target
        table = mountinfo.read()
        return next(self._copies(table, source), "") or next(self._published(table, volume_id), "")

    def _copies(self, table: MountTable, source: str) -> Iterator[str]:
        """Yield the mounts in pods that show the source, sub paths included."""
        mount = table.at(source) if source else None
        below = f"{self._pods}/"
        for each in table:
            if mount is not None and each.dev == mount.dev and each.mount_point.startswith(below):
                yield each.mount_point

    def _published(self, table: MountTable, volume_id: str) -> Iterator[str]:
        """Yield what stands where kubelet says that the volume is: a mount, dead too, or a link."""
        for folder in self._folders():
            target = str(folder / "mount")
            data = read_vol_data(str(folder)) or {}
            if data.get("driverName") != DRIVER or data.get("volumeHandle") != volume_id:
                continue
            if table.at(target) or targets.look(target).kind in {Kind.MOUNT, Kind.LINK}:
                yield target
            yield from (
                each.mount_point
                for each in table
                if each.mount_point.startswith(
                    f"{folder.parents[2]}/volume-subpaths/{folder.name}/"
                )
            )

    def _folders(self) -> Iterator[Path]:
        for pod in _entries(self._pods):
            yield from _entries(pod / _CSI)


def _entries(folder: Path) -> list[Path]:
    """Return what is in a folder; kubelet may remove it meanwhile."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
