"""How full a volume is, as its FUSE daemon says: one statfs(3), in bounded time."""

import os
from dataclasses import dataclass

from csi_fluid.errors import NotFound, NotReady
from csi_fluid.volumes import readiness, targets
from csi_fluid.volumes.targets import Kind
from recover.errors import Unanswered
from recover.linux import probe
from recover.linux.probe import Prober
from recover.rows import Publication
from recover.store import Store

_MOST = 2**63 - 1  # an int64 on the wire; object stores claim to be larger


@dataclass(frozen=True, slots=True)
class Usage:
    """What is there, free and used, in one unit."""

    total: int
    available: int
    used: int

    @classmethod
    def of(cls, total: int, free: int, available: int) -> "Usage":
        """Make a usage of the numbers of statfs, which need not make sense."""
        return cls(*(max(0, min(number, _MOST)) for number in (total, available, total - free)))


class Stats:
    """Measures published volumes."""

    def __init__(self, store: Store, prober: Prober) -> None:
        self._store = store
        self._prober = prober

    def usage(self, volume_id: str, path: str) -> tuple[Usage, Usage]:
        """Return (bytes, inodes) of a volume at a path; raises NotFound, NotReady."""
        (target,) = targets.canonical(self._prober, path)
        row = self._store.publication(target)
        if row is None or volume_id not in {row.volume_id, *(("",) if row.adopted else ())}:
            raise NotFound(f"volume {volume_id} is not published at {path}; publish it first")
        seen = targets.look(target)
        if seen.kind not in {Kind.MOUNT, Kind.LINK}:
            raise NotFound(
                f"nothing is mounted at {path}, where volume {volume_id} was; publish it again"
            )
        found = self._statfs(row, seen.dev)
        unit = found.f_frsize or found.f_bsize
        return (
            Usage.of(found.f_blocks * unit, found.f_bfree * unit, found.f_bavail * unit),
            Usage.of(found.f_files, found.f_ffree, found.f_favail),
        )

    def _statfs(self, row: Publication, dev: str) -> os.statvfs_result:
        try:
            # A hung daemon costs one sleeping call, not one for each pod.
            return self._prober.call(("statfs", row.source, dev), os.statvfs, row.target)
        except Unanswered as error:
            raise NotReady(
                "FuseHung",
                f"the FUSE mount behind {row.target} does not answer; look at the FUSE pod of "
                f"{row.source} on this node",
            ) from error
        except OSError as error:
            if error.errno not in probe.DEAD_ERRNOS:
                raise readiness.refused(row.target, error) from error
            raise NotReady(
                "FuseNotConnected",
                f"{row.target} is dead ({error.strerror}): it is healed when the FUSE daemon of "
                f"{row.source} mounts again",
            ) from error
