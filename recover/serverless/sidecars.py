"""FUSE sidecars of serverless pods on this node, healed by the plugin in the place of their agents.

Such a pod publishes nothing here: its volume is a hostPath, the FUSE mount itself.  Its agent shows
that it asks for recovery, by the folder beside the mount point (`place`).  For each such mount
point a row is kept as if it were a publication, and the healer does the rest: it enters the
containers, which leaves one layer and reaches any propagation, where the agent leaves two.

Who heals is decided by a lock beside the mount point, which the kernel releases when its holder
ends.  The plugin holds it as long as it heals; an agent takes it for each heal, and stands back if
it cannot have it.  So one of them acts, an agent takes over when the plugin ends, and the plugin
again when it is back.
"""

import logging
from collections.abc import Iterator

from recover.anchors import anchor
from recover.lease import LockFile
from recover.linux.mountinfo import Mount, MountTable
from recover.rows import Method, Publication
from recover.serverless import place
from recover.store import Store

_log = logging.getLogger(__name__)


class Sidecars:
    """Keeps rows and locks of the guarded mount points; used by one thread."""

    def __init__(self, store: Store, mount_root: str) -> None:
        self._store = store
        self._below = mount_root.rstrip("/") + "/"
        self._locks: dict[str, LockFile] = {}

    def update(self, table: MountTable) -> None:
        """Bring rows and locks in line with what is mounted; touches no FUSE path."""
        found = {mount.mount_point: mount for mount in self._guarded(table)}
        for source in self._rows() | found.keys():
            if source not in found and not place.is_guarded(source):
                self._give_up(source)
            elif not self._lock(source).take():
                self._store.remove_publication(source)  # an agent heals just now; try again
            elif source in found:
                self._record(found[source])

    @property
    def is_settled(self) -> bool:
        """Return whether every lock that is wanted is held."""
        return all(lock.is_held for lock in self._locks.values())

    def close(self) -> None:
        """Leave healing to the agents; the rows stay for the next start."""
        for lock in self._locks.values():
            lock.close()
        self._locks.clear()

    def _rows(self) -> set[str]:
        return {p.source for p in self._store.publications() if p.method is Method.SIDECAR}

    def _guarded(self, table: MountTable) -> Iterator[Mount]:
        for mount in table:
            point = mount.mount_point
            if mount.is_fuse and point.startswith(self._below) and not anchor.is_anchor(point):
                stack = table.stack(point)
                around = table.by_id.get(stack[0].parent_id) if stack else None
                on_fuse = around is not None and around.is_fuse
                if stack[-1:] == (mount,) and not on_fuse and place.is_guarded(point):
                    yield mount

    def _lock(self, source: str) -> LockFile:
        lock = self._locks.get(source)
        if lock is None or not lock.is_valid:
            if lock is not None:
                lock.close()
            self._locks[source] = lock = LockFile(place.node_of(source))
        return lock

    def _record(self, mount: Mount) -> None:
        row = Publication(
            target=mount.mount_point,
            volume_id="",
            source=mount.mount_point,
            mount_type=mount.fs_type,
            method=Method.SIDECAR,
            read_only=mount.read_only or mount.superblock_read_only,
        )
        if self._store.publication(row.target) != row:
            self._store.put_publication(row)
            _log.info("healing the containers of a FUSE sidecar", extra={"source": row.source})

    def _give_up(self, source: str) -> None:
        self._store.remove_publication(source)
        lock = self._locks.pop(source, None)
        if lock is not None:
            lock.close()
        _log.info("the pod of a FUSE sidecar is gone", extra={"source": source})
