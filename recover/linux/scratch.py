"""A private place of one mount, where a copy gets its attributes before anybody sees it.

For kernels that cannot detach a mount (before Linux 5.2).  Each scratch is a folder with a private
tmpfs in it, on which the copy stands until it is moved away (MS_MOVE wants a parent that is not
shared).
"""

import errno
import os
from pathlib import Path

from recover.linux import attributes, procself, syscalls, tuck, workshop
from recover.linux.attributes import Attributes
from recover.linux.hideout import Hideout
from recover.linux.procself import closing

_PREFIX = "csi-fluid-scratch-"


class Scratch:
    """One copy of a mount, read-only from its first instant that anybody could see."""

    def __init__(self, source_fd: int, wanted: Attributes) -> None:
        """Copy the mount at a descriptor, from there on; raises OSError."""
        if not _is_reachable():
            raise OSError(errno.ENOSYS, "without open_tree(2) no mount is taken out of a container")
        self._hideout = Hideout(_PREFIX)
        self._tmpfs = self._hideout.path / "tmpfs"
        try:
            self.fd = self._copy(source_fd, wanted)
        except BaseException:
            self.close()
            raise

    def _copy(self, source_fd: int, wanted: Attributes) -> int:
        self._tmpfs.mkdir()
        syscalls.mount("scratch", str(self._tmpfs), "tmpfs", 0)
        syscalls.mount("", str(self._tmpfs), "", syscalls.MS_PRIVATE)
        place = self._tmpfs / "copy"
        place.mkdir()
        try:
            _bind(source_fd, place)
        except NotADirectoryError:
            place.rmdir()
            place.touch()
            _bind(source_fd, place)
        fd = os.open(place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            attributes.put_on(fd, wanted)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def move_to(self, place_fd: int) -> None:
        """Move the copy onto what a descriptor refers to; raises OSError."""
        if not _is_reachable():
            raise OSError(errno.ENOSYS, "without move_mount(2) no mount gets into a container")
        source, target = procself.path(self.fd), procself.path(place_fd)
        syscalls.mount(source, target, "", syscalls.MS_MOVE)

    def pass_on(self, folder_fd: int, name: str) -> None:
        """Mount the copy on a name in a peer of a folder's mount: see tuck.py."""
        peer = self._tmpfs / "peer"
        peer.mkdir()
        _bind(folder_fd, peer)
        with closing(os.open(peer, os.O_PATH | os.O_CLOEXEC)) as fd:
            try:
                with closing(tuck.open_place(fd, name)) as place:
                    self.move_to(place)
            finally:  # first: what is taken off a peer is taken off its peers too
                attributes.set_propagation(fd, "private", recursive=True)
                syscalls.umount2(str(peer), syscalls.MNT_DETACH)

    def close(self) -> None:
        """Remove the scratch, and the copy if it still stands there; the descriptor stays open."""
        workshop.run_at_home(self._hideout.close)


def _is_reachable() -> bool:
    """Return whether the calling thread sees scratches: it is in no container."""
    return not procself.in_visit() or procself.is_home()


def _bind(source_fd: int, place: Path) -> None:
    syscalls.mount(procself.path(source_fd), str(place), "", syscalls.MS_BIND)
