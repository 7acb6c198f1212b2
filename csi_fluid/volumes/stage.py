"""Stage a volume: bring its FUSE daemon to this node by a node label.  Nothing is mounted.

One stage or unstage of a volume at a time; the label is set again by each, which costs little and
puts right what somebody removed.
"""

from csi_fluid.errors import InUse
from csi_fluid.kube import Kube
from recover.locks import Locks
from recover.store import Store


class Stager:
    """Stages volumes; one for all RPCs."""

    def __init__(self, store: Store, kube: Kube) -> None:
        self._store = store
        self._kube = kube
        self._volumes = Locks()  # its own: that of a target is never held over an API call

    def stage(self, volume_id: str, label: str) -> None:
        """Label this node for the volume's FUSE daemon; label is the key if known, else "".

        Raises Busy, and what kube raises.
        """
        with self._volumes.hold(volume_id):
            fuse = None if label else self._kube.fuse_of(volume_id)
            key = fuse.label if fuse else label
            if key:
                self._kube.label_node(key)

    def unstage(self, volume_id: str) -> None:
        """Remove the label if the volume's clean policy says so.

        Raises Busy, InUse while the volume is published here, and what kube raises.
        """
        with self._volumes.hold(volume_id):
            fuse = self._kube.fuse_of(volume_id)
            if fuse is None or not fuse.on_demand:
                return
            users = [p.target for p in self._store.publications() if p.volume_id == volume_id]
            if users:
                raise InUse(
                    f"volume {volume_id} is still published at {users[0]}; unpublish it first"
                )
            self._kube.unlabel_node(fuse.label)
