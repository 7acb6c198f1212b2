"""Who uses a volume on this node: what must be gone before its FUSE daemon may go.

Asked of the state file, of the mount table and of kubelet's own notes, because an earlier plugin's
mounts and links need not be in the state file.  No FUSE mount is touched.
"""

from collections.abc import Iterator

from csi_fluid.kubelet import Kubelet
from csi_fluid.volumes import targets
from csi_fluid.volumes.targets import Kind
from recover.linux import mountinfo
from recover.linux.mountinfo import MountTable
from recover.rows import Method
from recover.store import Store


class Users:
    """Finds the users of volumes."""

    def __init__(self, store: Store, kubelet: Kubelet) -> None:
        self._store = store
        self._kubelet = kubelet

    def of(self, volume_id: str, source: str) -> str:
        """Return a path at which the volume is used, "" where there is none.

        source is the volume's FUSE mount if known, else "".  Volumes of reference datasets have
        the same id and source, so that their users count.
        """
        for publication in self._store.publications():
            if publication.method is Method.SIDECAR:  # it has a daemon of its own
                continue
            if publication.volume_id == volume_id or (source and publication.source == source):
                return publication.target
        table = mountinfo.read()
        return next(self._copies(table, source), "") or next(self._published(table, volume_id), "")

    def _copies(self, table: MountTable, source: str) -> Iterator[str]:
        """Yield the mounts in pods that show the source, sub paths included."""
        mount = table.at(source) if source else None
        below = f"{self._kubelet.pods}/"
        for each in table:
            if mount is not None and each.dev == mount.dev and each.mount_point.startswith(below):
                yield each.mount_point

    def _published(self, table: MountTable, volume_id: str) -> Iterator[str]:
        """Yield what stands where kubelet says that the volume is: a mount, dead too, or a link."""
        kubelet = self._kubelet
        points = (mount.mount_point for mount in table)
        parts = {volume: point for point in points if (volume := kubelet.sub_path(point))}
        for target in kubelet.targets():
            note = kubelet.note(target)
            if note is None or not note.is_ours or note.volume_id != volume_id:
                continue
            if table.at(target) or targets.look(target).kind in {Kind.MOUNT, Kind.LINK}:
                yield target
            volume = kubelet.published(target)
            if volume in parts:
                yield parts[volume]
