"""Where the anchors of a serverless pod's mount point lie, and what is done at that mount point.

An application of a serverless pod holds a slave copy of the FUSE mount that was there when its
container started.  So the anchor of a generation is a *peer* of its mount at the mount point; it
lies beside it, as `.csi-fluid/POD/NAME/NUMBER`, in the directory that agent, FUSE sidecar and host
share.

The acts here need the context of `namespaces.visit` and touch no FUSE path but by O_PATH.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recover.anchors import anchor as anchors
from recover.anchors.anchor import FOLDER, Anchor
from recover.linux import mounts
from recover.linux.mountinfo import Mount
from recover.linux.mounts import Clone

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


def is_guarded(mount_point: str) -> bool:
    """Return whether an agent of some pod guards a mount point; asks the directory around it."""
    path = Path(mount_point)
    try:
        return any((pod / path.name).is_dir() for pod in (path.parent / FOLDER).iterdir())
    except OSError:
        return False


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
        with anchors.take(source.mount_point, source.dev, read_only=False) as copy:
            mounts.attach_bare(copy, str(path), root_fd)
    except BaseException:
        with contextlib.suppress(OSError):
            path.rmdir()
        raise


def put_back(anchor: Anchor, mount_point: str, root_fd: int) -> None:
    """Mount an anchor's generation at the mount point, where nothing is mounted now.

    Raises Covered or OSError.
    """
    with anchors.take(anchor.path, anchor.base.dev, read_only=False) as copy:
        mounts.attach_bare(copy, mount_point, root_fd)


def clear(mount: Mount, root_fd: int) -> None:
    """Detach exactly this mount from the top of its mount point, on the host and everywhere."""
    anchors.detach(mount.mount_point, mount, root_fd)


def flatten(stack: Sequence[Mount], places: Mapping[Mount, Path], root_fd: int) -> None:
    """Leave one mount of a stack, the topmost, which is live; the dead ones beneath it go.

    Each dead one that has a place is bound there as an anchor when it is uncovered.  Whatever
    fails, the live one stays at the mount point.  Raises Covered or OSError.
    """
    live = stack[-1]
    with (
        anchors.take(live.mount_point, live.dev, read_only=False) as copy,
        _on_top_at_worst(copy, live.mount_point, root_fd),
    ):
        for covered, cover in reversed(list(itertools.pairwise(stack))):
            clear(cover, root_fd)
            if covered in places:
                bind(covered, places[covered], root_fd)
        mounts.swap(copy, tuple(stack[:1]), root_fd)


@contextlib.contextmanager
def _on_top_at_worst(copy: Clone, path: str, root_fd: int) -> Iterator[None]:
    """Mount a detached copy on whatever is at a path if the block fails before that is done."""
    try:
        yield
    except BaseException:
        with (
            contextlib.suppress(OSError),  # it was done
            mounts.closing(mounts.open_path(path, root_fd)) as place,
        ):
            mounts.attach(copy, place, about=path)
        raise
