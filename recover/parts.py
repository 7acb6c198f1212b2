"""What publishing and healing have in common."""

from dataclasses import dataclass
from pathlib import Path

from recover.anchors.keeper import Keeper
from recover.linux import boot
from recover.linux.probe import Prober
from recover.locks import Locks
from recover.store import Store


@dataclass(frozen=True, slots=True)
class Parts:
    """One of each for the whole process; locks are those of targets."""

    store: Store
    locks: Locks
    prober: Prober
    keeper: Keeper

    @classmethod
    def of(cls, store: Store, prober: Prober, anchors: Path, locks: Locks | None = None) -> "Parts":
        """Build them around a store; anchors is the plugin's own folder in kubelet's directory.

        Targets and sources are different paths, so that one set of locks does for both.
        """
        locks = locks or Locks()
        return cls(store, locks, prober, Keeper(store, anchors, boot.boot_id(), locks))
