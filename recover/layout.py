"""What paths mean on this node, as whoever runs recovery knows it: handed in, never assumed.

Recovery sees mount points and rows.  Which of them are volumes of pods, and of which, and what a
source's own path says about it, is the business of those who laid the directories out:
`csi_fluid.kubelet` and `csi_fluid.mountroot`.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class PodVolume:
    """A volume as one pod has it: pods is the directory in which all pods are."""

    pods: str
    pod_uid: str
    name: str


@dataclass(frozen=True, slots=True)
class Note:
    """What was written beside a target when it was published; is_ours: for us to serve."""

    volume_id: str
    is_ours: bool


@dataclass(frozen=True, slots=True)
class Dataset:
    """What the path of a source says: whose it is, and the id of its volume."""

    namespace: str
    name: str
    volume_id: str


class Pods(Protocol):
    """Where pods have their volumes.  Pure over paths, which are canonical, except `note`."""

    def published(self, path: str) -> PodVolume | None:
        """Return the volume whose target a path is, None where it is no target."""

    def sub_path(self, path: str) -> PodVolume | None:
        """Return the volume of which a path is a sub-path bind, None where it is none."""

    def is_in_pod(self, path: str) -> bool:
        """Return True if a mount at a path belongs to some pod: it is no source then."""

    def note(self, target: str) -> Note | None:
        """Return the note beside a target, None without one that can be used.

        Reads a file on the node's disk, never one of a volume.
        """


class Sources(Protocol):
    """Where FUSE daemons mount.  Pure over canonical paths."""

    @property
    def root(self) -> str:
        """Return the directory below which sources normally are."""

    def dataset(self, source: str) -> Dataset | None:
        """Return what a source's path says, None where it is not named by the convention."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The directories of a node."""

    pods: Pods
    sources: Sources
