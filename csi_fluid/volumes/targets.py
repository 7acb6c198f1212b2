"""The places where volumes are published: what stands there, made and removed without losing data.

Paths here are canonical: the real path of the parent directory and a name, so that one target has
one key, whichever way it was spelt.  kubelet's directories lie on local disks; only the walk there
is bounded by a Prober, because a path in a request may lead anywhere.
"""

import contextlib
import enum
import errno
import hashlib
import itertools
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from csi_fluid import kubelet
from csi_fluid.errors import Occupied, Unseen, Withdrawn
from recover.errors import Busy
from recover.layout import PodVolume
from recover.linux import mountinfo, mounts, namespaces, resolve
from recover.linux.probe import Prober

_MODE = 0o750  # as Fluid makes them
_NAMED_AT_MOST = 3


class Kind(enum.Enum):
    """What can stand at a target."""

    NOTHING = "nothing"
    DIRECTORY = "a directory"
    FILE = "a file"
    LINK = "a symbolic link"
    MOUNT = "a mount"


@dataclass(frozen=True, slots=True)
class Seen:
    """What stands at a target: of a mount its superblock, of a symbolic link its text."""

    kind: Kind
    dev: str = ""
    link: str = ""


def canonical(prober: Prober, *paths: str) -> tuple[str, ...]:
    """Return paths with the links in their parent directories resolved; raises Unanswered."""
    if all(resolve.is_canonical(str(Path(path).parent)) for path in paths):  # mostly: asks nobody
        return paths
    return prober.call(f"the way to {' and to '.join(paths)}", resolve.canonical, *paths)


class Pods:
    """The folders of pods in kubelet's directory, in which alone a pod sees a volume."""

    def __init__(self, kubelet_root: str) -> None:
        """Take kubelet's directory as this process was told it."""
        self._root = kubelet_root
        self._shared = 0  # a mount that was found to be shared

    def check(self, target: str, *, is_mount: bool, asked: str = "") -> None:
        """Raise Unseen unless the node sees what is published at a canonical path of kubelet's.

        That is so below the folder that kubelet made for the pod; and if it is a mount, only where
        mounts are passed on to the node.  What is missing above the pod's folder is never made:
        it would be a directory of this container, which hides that kubelet's is somewhere else.
        asked is the target as kubelet spells it, which tells where its directory is.
        A target that is not as kubelet's are is its caller's business.
        """
        volume = kubelet.volume_of(target)
        if volume is None:
            return
        pod = Path(volume.pods, volume.pod_uid)
        fact = ""
        if not pod.is_dir():
            fact = f"{pod} is not there, although kubelet makes it before it calls"
        elif is_mount and not self._is_passed_on(pod):
            fact = f"mounts in {pod} are not passed on to the node"
        if fact:
            raise self._unseen(fact, kubelet.volume_of(asked) or volume)

    def _is_passed_on(self, folder: Path) -> bool:
        with mounts.closing(mounts.open_path(str(folder))) as fd:
            mnt_id = mountinfo.mount_id(fd)
        if mnt_id != self._shared and not _is_node():
            mount = mountinfo.read().by_id.get(mnt_id)
            if mount is None or not namespaces.is_passed_on(mount):
                return False
            self._shared = mnt_id  # tables are long: they are read once
        return True

    def _unseen(self, fact: str, volume: PodVolume) -> Unseen:
        root = str(Path(volume.pods).parent)
        step = f"the node's {root} must be mounted here at {root}, mountPropagation: Bidirectional"
        if root != self._root:
            step = (
                f"KUBELET_ROOTDIR is {self._root}, and must be kubelet's directory {root} (with "
                f"Helm: csi.kubelet.rootDir={root}); {step}"
            )
        return Unseen(f"{fact}: no pod would see the volume; {step}")


def _is_node() -> bool:
    """Tell whether this process lives in the node's own mount namespace."""
    own, first = Path("/proc/self/ns/mnt"), Path("/proc/1/ns/mnt")
    return namespaces.sees_host() and own.readlink() == first.readlink()


def look(path: str) -> Seen:
    """Tell what stands at a target, without asking a daemon and without following a link."""
    try:
        return _look(path)
    except (FileNotFoundError, NotADirectoryError):  # also if it went away meanwhile
        return Seen(Kind.NOTHING)


def _look(path: str) -> Seen:
    shown = mounts.shown(path)
    if shown is None:
        return Seen(Kind.NOTHING)
    if shown.is_mount:
        return Seen(Kind.MOUNT, dev=shown.dev)
    mode = Path(path).lstat().st_mode
    if stat.S_ISLNK(mode):
        return Seen(Kind.LINK, link=str(Path(path).readlink()))
    return Seen(Kind.DIRECTORY if stat.S_ISDIR(mode) else Kind.FILE)


@contextlib.contextmanager
def directory(path: Path) -> Iterator[None]:
    """Have a directory at path for a block; what had to be made goes again if the block fails."""
    made: list[Path] = []
    try:
        for missing in _missing(path):
            with contextlib.suppress(FileExistsError):  # another publish made the same parent
                missing.mkdir(_MODE)
                made.append(missing)
        yield
    except BaseException:
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _missing(path: Path) -> list[Path]:
    """Return what is missing of a path, outermost first."""
    missing = itertools.takewhile(lambda place: not os.path.lexists(place), (path, *path.parents))
    return [*missing][::-1]


def link(path: str, to: str) -> None:
    """Make path a symbolic link, in place of a link or of an empty file or directory.

    Raises Occupied where there is data.
    """
    if look(path).kind is not Kind.LINK:
        clear(path)
        Path(path).symlink_to(to)
        return
    temporary = _temporary(path)
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(to)
    try:
        temporary.rename(path)  # replaces the old link in one step
    except BaseException:
        temporary.unlink()
        raise


def clear(path: str) -> None:
    """Remove the link, empty file or empty directory at path, and what a killed `link` left.

    Raises Occupied where there is data.
    """
    with contextlib.suppress(OSError):
        _temporary(path).unlink()
    place, kind = Path(path), look(path).kind
    if kind is Kind.LINK or (kind is Kind.FILE and _is_empty_file(place)):
        place.unlink()
    elif kind is Kind.DIRECTORY:
        _remove_directory(place)
    elif kind is not Kind.NOTHING:
        raise Occupied(f"{path} is {kind.value} that is not ours; remove it by hand")


def _is_empty_file(place: Path) -> bool:
    found = place.lstat()
    return stat.S_ISREG(found.st_mode) and found.st_size == 0


def _remove_directory(place: Path) -> None:
    try:
        place.rmdir()
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
        names = sorted(entry.name for entry in place.iterdir())
        some = ", ".join(map(repr, names[:_NAMED_AT_MOST]))
        raise Occupied(
            f"{place} holds {len(names)} entries on the node's own disk, such as {some}; "
            "move them away, then try again"
        ) from error


def _temporary(path: str) -> Path:
    place = Path(path)
    return place.parent / f".{hashlib.sha256(os.fsencode(place.name)).hexdigest()[:16]}.new"


class Claim:
    """A publish under way; an unpublish of the same target revokes it."""

    def __init__(self, target: str, volume_id: str = "") -> None:
        self._target = target
        self.volume_id = volume_id
        self.revoked = False

    def check(self) -> None:
        """Raise Withdrawn if the target was unpublished meanwhile."""
        if self.revoked:
            raise Withdrawn(
                f"{self._target} was unpublished while its publish waited; "
                "publish it again if it is wanted"
            )


class Claims:
    """Which targets are being published.

    A publish may wait long for its FUSE mount and must not hold the target's lock meanwhile, which
    unpublish and healing want; the claim keeps a second publish of the target out, and lets an
    unpublish win.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, Claim] = {}
        self._leaving: set[str] = set()  # volumes

    @contextlib.contextmanager
    def hold(self, target: str, volume_id: str = "") -> Iterator[Claim]:
        """Claim a target for a block.

        Raises Busy if it is being published already, or if its volume is being unstaged.
        """
        claim = Claim(target, volume_id)
        with self._lock:
            if volume_id in self._leaving:
                raise Busy(f"volume {volume_id}")
            if self._held.setdefault(target, claim) is not claim:
                raise Busy(target)
        try:
            yield claim
        finally:
            with self._lock:
                del self._held[target]

    @contextlib.contextmanager
    def bar(self, volume_id: str) -> Iterator[None]:
        """Keep a volume from being published for a block; raises Busy while it is."""
        with self._lock:
            if any(claim.volume_id == volume_id for claim in self._held.values()):
                raise Busy(f"volume {volume_id}")
            self._leaving.add(volume_id)
        try:
            yield
        finally:
            with self._lock:
                self._leaving.discard(volume_id)

    def revoke(self, target: str) -> None:
        """End the publish of a target that is waiting, if any, before it makes anything."""
        with self._lock:
            if claim := self._held.get(target):
                claim.revoked = True
