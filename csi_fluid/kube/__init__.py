"""What the plugin needs of Kubernetes, as an interface; `none` stands in where there is none.

Every call may take until its own time limit, so none is made while a target is locked.  `until` is
a monotonic time by which a call answers; without an answer that can be used it raises Unavailable.
"""

from dataclasses import dataclass
from typing import Protocol

ON_DEMAND = "OnDemand"
ON_RUNTIME_DELETED = "OnRuntimeDeleted"
ON_FUSE_CHANGED = "OnFuseChanged"
SESSION_MANAGER_LABEL = "fluid.io/efc-sessmgr"


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume as a request names it; the runtime's namespace and name are "" where it does not."""

    volume_id: str
    namespace: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Fuse:
    """The FUSE daemon of a volume as Kubernetes knows it.

    label is the node label that brings a pod of its DaemonSet to a node; policy, one of the three
    names above, says when the label goes.  source is the FUSE mount, "" if unknown.  runtime is
    (type, namespace, name), and generation the one that the daemon should have ("" if unknown):
    what OnFuseChanged goes by.
    """

    label: str
    policy: str
    source: str = ""
    runtime: tuple[str, str, str] = ("", "", "")
    generation: str = ""


class Kube(Protocol):
    """The API server, seen from one node."""

    def label_of(self, volume: Volume, until: float) -> str:
        """Return the node label of a volume's FUSE daemon; "" where that cannot be known at all.

        Raises NotFound where the volume is not there or not Fluid's, and Unavailable.
        """

    def fuse_of(self, volume_id: str, until: float) -> Fuse | None:
        """Return the FUSE daemon of a volume, or None where volume, dataset or runtime is gone."""

    def label_node(self, key: str, until: float) -> None:
        """Set a label of this node to "true"; done already is success."""

    def unlabel_node(self, key: str, until: float) -> None:
        """Remove a label of this node; absent is success."""
