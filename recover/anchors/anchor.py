"""Anchors: mounts on which copies of a FUSE mount hang, so that one mount reaches them all.

An anchor is a copy of one generation's mount.  Whatever is mounted on it the kernel passes on to
each mount that hangs off it (its peers and slaves), in every mount namespace, with the flags of
what is mounted: mount_namespaces(7).  So each generation keeps its anchor for as long as anybody
may hang off it:

    anchor of generation 1:  [1, dead] [the live one]   -> a copy of generation 1: the same
    anchor of generation 2:  [2, dead] [the live one]   -> one made during generation 2: the same
    anchor of the live one:  [the live one]             -> one made now: [the live one]

Anchors lie in a folder on the host, where they outlive whoever made them and are found again in the
mount table.  The acts here need the context of `namespaces.visit` and touch no FUSE path but by
O_PATH.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from recover.errors import Covered
from recover.linux import mountinfo, mounts
from recover.linux.mountinfo import Mount, MountTable
from recover.linux.mounts import Attributes, Clone

FOLDER = ".csi-fluid"

Key = tuple[int, str]  # number and variant, which an anchor is named by

_NAME = re.compile(r"(?P<number>[0-9]{1,9})(?:-(?P<variant>[a-z0-9-]+))?")


@dataclass(frozen=True, slots=True)
class Anchor:
    """One anchor: the mounts at its path, bottom first; copies hang off the lowest.

    number is that of its generation; variant tells anchors of one generation apart ("" where there
    is one for all).
    """

    path: str
    number: int
    variant: str
    stack: tuple[Mount, ...]

    @property
    def base(self) -> Mount:
        """Return the mount that copies hang off."""
        return self.stack[0]

    @property
    def top(self) -> Mount:
        """Return what the copies that hang off this anchor show."""
        return self.stack[-1]


def is_anchor(mount_point: str) -> bool:
    """Return whether a path is an anchor's, in whatever namespace it is seen."""
    return f"/{FOLDER}/" in mount_point


def find(table: MountTable, folder: Path) -> tuple[Anchor, ...]:
    """Return the anchors of a folder that are in the mount table, oldest first."""
    prefix = f"{folder}/"
    points = {m.mount_point for m in table if m.mount_point.startswith(prefix)}
    named = ((key_of(point[len(prefix) :]), point) for point in points)
    found = (Anchor(point, *key, table.stack(point)) for key, point in named if key)
    return tuple(sorted((a for a in found if a.stack), key=lambda a: (a.number, a.variant)))


def key_of(name: str) -> Key | None:
    """Return what a name says, None if it is no anchor's."""
    found = _NAME.fullmatch(name)
    return (int(found["number"]), found["variant"] or "") if found else None


def take(path: str, dev: str, *, read_only: bool) -> Clone:
    """Return a peer of the mount at a path, which must be of a superblock; raises Covered.

    It has that mount's flags, and "ro" if asked.
    """
    attributes = Attributes(frozenset({"ro"} if read_only else ()), "peer", keep=True)
    return mounts.clone(path, "", attributes, dev)


def uncover(path: str, stack: tuple[Mount, ...], root_fd: int) -> None:
    """Detach all but the lowest mount at a path, here and wherever copies hang off that.

    They then show the lowest, a dead FUSE mount, never the directory beneath.  Where anchors hang
    off one another, some of it went when another one was uncovered.  Raises Covered or OSError.
    """
    left = stack
    while len(left) > 1:
        try:
            detach(path, left[-1], root_fd)
            left = left[:-1]
        except Covered:
            now = mountinfo.read().stack(path)
            if len(now) >= len(left) or now != left[: len(now)]:
                raise
            left = now


def bring(path: str, base: Mount, copy: Clone, root_fd: int) -> None:
    """Mount a copy on an anchor, or another path, that was uncovered; raises Covered or OSError."""
    with mounts.closing(mounts.open_exactly(path, base, root_fd)) as place:
        mounts.attach(copy, place, about=path)


def remove(anchor: Anchor, root_fd: int) -> None:
    """Detach exactly an anchor as it was seen, with all that is on it, and remove its directory."""
    uncover(anchor.path, anchor.stack, root_fd)
    detach(anchor.path, anchor.base, root_fd)
    Path(anchor.path).rmdir()


def clear(path: str) -> None:
    """Take away whatever stands at an anchor's path, and its directory; raises OSError."""
    mounts.unmount_all(path)
    place = Path(path)
    if place.is_dir():
        place.rmdir()
    else:
        place.unlink(missing_ok=True)


def detach(path: str, mount: Mount, root_fd: int) -> None:
    """Detach exactly this mount from the top of a path; raises Covered or OSError."""
    with mounts.closing(mounts.open_exactly(path, mount, root_fd)) as fd:
        mounts.detach(fd)
