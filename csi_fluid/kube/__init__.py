"""What the plugin needs of Kubernetes, as an interface; `none` stands in where there is none.

Every call may take until its own time limit, so none is made while a target is locked.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Fuse:
    """The FUSE daemon of a volume as Kubernetes knows it.

    label is the node label that brings a pod of its DaemonSet to a node; on_demand tells that the
    label goes when no pod of the node uses the volume any more (clean policy OnDemand).
    """

    label: str
    on_demand: bool


class Kube(Protocol):
    """The API server, seen from one node."""

    def fuse_of(self, volume_id: str) -> Fuse | None:
        """Return the FUSE daemon of a volume, or None where the volume is not known."""

    def label_node(self, key: str) -> None:
        """Set a label of this node to "true"; done already is success."""

    def unlabel_node(self, key: str) -> None:
        """Remove a label of this node; absent is success."""
