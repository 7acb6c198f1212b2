"""Anchors: members of the peer groups that an application's copies of a FUSE mount hang off.

An application of a serverless pod holds a slave copy of the FUSE mount that was there when its
container started.  What is mounted on any member of that mount's peer group reaches the copy; when
the mount point is unmounted, no member may be left.  So each generation is bound once more, as a
peer, beside its mount point: `.csi-fluid/POD/NAME/NUMBER` in the directory that agent, FUSE
sidecar and host share.  There the anchors outlive the agent and are found again in the mount table.

    anchor of generation 1:  [1, dead] [the live one]   -> application: [1, dead] [the live one]
    anchor of generation 2:  [2, dead] [the live one]   -> one started during generation 2: the same
    anchor of the live one:  [the live one]             -> one started now: [the live one]

Everything here needs the context of `namespaces.visit` and touches no FUSE path but by O_PATH.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recover.errors import Covered
from recover.linux import mountinfo, mounts
from recover.linux.mountinfo import Mount, MountTable
from recover.linux.mounts import Attributes

FOLDER = ".csi-fluid"
_TURN = ".turn"  # agents of the pods that share a mount point take turns with it
_NODE = ".node"  # held by the node plugin for as long as it heals the applications


@dataclass(frozen=True, slots=True)
class Place:
    """Where the anchors of one mount point are kept for one pod."""

    mount_point: str
    pod: str

    @property
    def shared(self) -> Path:
        """Return the folder that the pods on a node share for this directory of mount points."""
        return Path(self.mount_point).parent / FOLDER

    @property
    def folder(self) -> Path:
        """Return the folder of this pod's anchors."""
        return self.shared / self.pod / Path(self.mount_point).name

    @property
    def leaving(self) -> Path:
        """Return the file that says that the pod is being deleted."""
        return self.shared / self.pod / f"{Path(self.mount_point).name}.leaving"

    @property
    def turn(self) -> Path:
        """Return the file by which agents take turns at the mount point."""
        return turn_of(self.mount_point)

    @property
    def node(self) -> Path:
        """Return the file by which the node plugin says that it heals."""
        return node_of(self.mount_point)

    def make(self) -> None:
        """Make the folders; raises OSError."""
        for folder in (self.shared, self.folder.parent, self.folder):
            folder.mkdir(mode=0o700, exist_ok=True)
        for lock in (self.turn, self.node):  # now: on the day of the crash the disk may be full
            lock.touch(mode=0o600)

    def remove(self) -> None:
        """Remove what is empty, and the lock files with the last pod."""
        with contextlib.suppress(OSError):  # not empty: anchors or another pod are there
            self.leaving.unlink(missing_ok=True)
            for reserved in self.folder.iterdir():  # of an agent that was killed before it used it
                reserved.rmdir()
            self.folder.rmdir()
            self.folder.parent.rmdir()
            if not any(entry.is_dir() for entry in self.shared.iterdir()):
                for lock in (self.turn, self.node):
                    lock.unlink(missing_ok=True)
                self.shared.rmdir()


def turn_of(mount_point: str) -> Path:
    """Return the file by which those who change a mount point take turns."""
    path = Path(mount_point)
    return path.parent / FOLDER / f"{path.name}{_TURN}"


def node_of(mount_point: str) -> Path:
    """Return the file that the node plugin locks while it heals a mount point's applications."""
    path = Path(mount_point)
    return path.parent / FOLDER / f"{path.name}{_NODE}"


def is_anchor(mount_point: str) -> bool:
    """Tell whether a path is an anchor's, in whatever namespace it is seen."""
    return f"/{FOLDER}/" in mount_point


def is_guarded(mount_point: str) -> bool:
    """Tell whether an agent of some pod guards a mount point; asks the directory around it."""
    path = Path(mount_point)
    try:
        return any((pod / path.name).is_dir() for pod in (path.parent / FOLDER).iterdir())
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Anchor:
    """One anchor: the mounts at its path, bottom first; the lowest is the member of the group."""

    path: str
    stack: tuple[Mount, ...]

    @property
    def base(self) -> Mount:
        """Return the member of the peer group."""
        return self.stack[0]

    @property
    def top(self) -> Mount:
        """Return what the applications on this anchor see."""
        return self.stack[-1]


def find(table: MountTable, place: Place) -> tuple[Anchor, ...]:
    """Return a place's anchors that are in the mount table, oldest first."""
    prefix = f"{place.folder}/"
    points = {m.mount_point for m in table if m.mount_point.startswith(prefix)}
    numbered = sorted((int(p[len(prefix) :]), p) for p in points if p[len(prefix) :].isdecimal())
    stacks = ((point, table.stack(point)) for _, point in numbered)
    return tuple(Anchor(point, stack) for point, stack in stacks if stack)


def reserve(place: Place) -> Path:
    """Make and return the directory of a place's next anchor; raises OSError (a full disk)."""
    place.make()
    number = 1 + max((int(p.name) for p in place.folder.iterdir() if p.name.isdecimal()), default=0)
    path = place.folder / str(number)
    path.mkdir(mode=0o700)
    return path


def bind(source: Mount, path: Path, root_fd: int) -> None:
    """Bind the mount at the mount point, a member of whose peer group is wanted, as an anchor.

    Raises Covered when another one stands there now, or OSError.
    """
    try:
        os.close(mounts.open_exactly(source.mount_point, source, root_fd))
        with take(source, read_only=False) as clone:
            mounts.attach_bare(clone, str(path), root_fd)
    except BaseException:
        with contextlib.suppress(OSError):
            path.rmdir()
        raise


def take(source: Mount, *, read_only: bool) -> mounts.Clone:
    """Return a peer of a mount with its flags, and "ro" if asked; raises Covered.

    A peer of the live mount: what hangs off the copy goes on hanging off the mount on the host,
    also when every anchor is lost.
    """
    attributes = Attributes(frozenset({"ro"} if read_only else ()), "peer", keep=True)
    return mounts.clone(source.mount_point, "", attributes, source.dev)


def bare(anchor: Anchor, root_fd: int) -> None:
    """Detach what was mounted on the anchor's base, here and in the applications.

    They then see the base, a dead FUSE mount, never the directory beneath.  Where anchors hang off
    one another, some of it went with what another one was bared of.
    """
    left = anchor.stack
    while len(left) > 1:
        try:
            _detach(anchor.path, left[-1], root_fd)
            left = left[:-1]
        except Covered:
            now = mountinfo.read().stack(anchor.path)
            if len(now) >= len(left) or now != left[: len(now)]:
                raise
            left = now


def remove(anchor: Anchor, root_fd: int) -> None:
    """Detach an anchor with all that is on it, and remove its directory."""
    bare(anchor, root_fd)
    _detach(anchor.path, anchor.base, root_fd)
    Path(anchor.path).rmdir()


def put_back(anchor: Anchor, mount_point: str, root_fd: int) -> None:
    """Mount an anchor's generation at the mount point, where nothing is mounted now.

    Raises Covered or OSError.
    """
    with take(anchor.base, read_only=False) as clone:
        mounts.attach_bare(clone, mount_point, root_fd)


def clear(mount: Mount, root_fd: int) -> None:
    """Detach exactly this mount from the top of its mount point, on the host and everywhere."""
    _detach(mount.mount_point, mount, root_fd)


def flatten(stack: Sequence[Mount], places: Mapping[Mount, Path], root_fd: int) -> None:
    """Leave one mount of a stack, the topmost, which is live; the dead ones beneath it go.

    Each dead one that has a place is bound there as an anchor when it is uncovered.  Whatever
    fails, the live one stays at the mount point.  Raises Covered or OSError.
    """
    with (
        take(stack[-1], read_only=False) as clone,
        _on_top_at_worst(clone, stack[-1].mount_point, root_fd),
    ):
        for covered, cover in reversed(list(itertools.pairwise(stack))):
            clear(cover, root_fd)
            if covered in places:
                bind(covered, places[covered], root_fd)
        mounts.swap(clone, tuple(stack[:1]), root_fd)


@contextlib.contextmanager
def _on_top_at_worst(clone: mounts.Clone, path: str, root_fd: int) -> Iterator[None]:
    """Mount a copy on whatever is at a path if the block fails before that is done."""
    try:
        yield
    except BaseException:
        with (
            contextlib.suppress(OSError),  # it was done
            mounts.closing(mounts.open_path(path, root_fd)) as place,
        ):
            mounts.attach(clone, place, about=path)
        raise


def _detach(path: str, mount: Mount, root_fd: int) -> None:
    with mounts.closing(mounts.open_exactly(path, mount, root_fd)) as fd:
        mounts.detach(fd)


def bring(anchor: Anchor, source: Mount, view: str, root_fd: int, *, read_only: bool) -> int:
    """Mount the source on an anchor that was bared; return the layers that an application has.

    view is a directory of our own, on which a slave of the anchor stands meanwhile, as the
    application's copy does: what arrives there is left mounted for the caller to ask, and to
    take away with `mounts.unmount_all`.  Raises Covered or OSError.
    """
    with mounts.closing(mounts.open_exactly(anchor.path, anchor.base, root_fd)) as base:
        slave = mounts.clone(anchor.path, "", Attributes(frozenset(), "slave", keep=True))
        with slave:
            mounts.attach_bare(slave, view, root_fd)
        with take(source, read_only=read_only) as clone:
            mounts.attach(clone, base, about=anchor.path)
    return len(mountinfo.read().stack(view))
