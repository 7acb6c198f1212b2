"""Unpublish a volume: remove whatever stands at its target, dead, hung, stacked or a symbolic link.

Unpublish wins: it ends a publish that waits, and it forgets the record before it unmounts, so that
no heal begins on the target afterwards.  Unmounting is lazy and asks no daemon, so it always ends.
"""

import logging
from collections.abc import Callable

from csi_fluid import kubelet
from csi_fluid.errors import Occupied
from csi_fluid.volumes import targets
from csi_fluid.volumes.publish import LOCK_WAIT_S
from csi_fluid.volumes.targets import Claims, Kind
from recover.errors import Busy
from recover.linux import mountinfo, mounts
from recover.parts import Parts

_log = logging.getLogger(__name__)


class Unpublisher:
    """Unpublishes volumes; one for all RPCs."""

    def __init__(
        self,
        parts: Parts,
        claims: Claims,
        changed: Callable[[str], None],
    ) -> None:
        """Take the collaborators; changed(source) is told which source lost a publication."""
        self._store = parts.store
        self._locks = parts.locks
        self._prober = parts.prober
        self._keeper = parts.keeper
        self._claims = claims
        self._changed = changed

    def unpublish(self, target: str) -> None:
        """Remove what is published at a target, and the target; absent is success.

        Raises Busy, Occupied, Unanswered, OSError.
        """
        (path,) = targets.canonical(self._prober, target)
        self._claims.revoke(path)
        with self._locks.hold(path, wait_s=LOCK_WAIT_S):
            row = self._store.publication(path)
            if row is None:
                self._refuse_foreign(path)
            else:
                self._store.remove_publication(path)
            try:
                mounts.unmount_all(path)
            except BaseException:
                if row is not None:
                    self._store.put_publication(row)
                raise
            targets.clear(path)
        if row is not None:
            self._drop_anchors(row.source)
            self._changed(row.source)

    def _drop_anchors(self, source: str) -> None:
        try:
            self._keeper.drop(source)
        except (Busy, OSError) as error:  # the volume is gone all the same
            _log.warning(
                "anchors of %s stay until its next unpublish or the next start: %s", source, error
            )

    def _refuse_foreign(self, path: str) -> None:
        """Raise Occupied for a mount nobody published: a source, or neither FUSE nor a pod's."""
        if targets.look(path).kind is not Kind.MOUNT or kubelet.volume_of(path):
            return
        stack = mountinfo.read().stack(path)
        is_ours = path not in self._store.sources() and any(mount.is_fuse for mount in stack)
        if stack and not is_ours:
            raise Occupied(
                f"{path} is a mount of {stack[-1].fs_type} that this plugin did not publish; "
                "unmount it by hand if it is not wanted"
            )
