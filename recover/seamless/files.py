"""Files of the newest mount, opened beneath its root and nowhere else.

A root is a descriptor of a detached copy of the whole mount.  Paths are made of names that the
kernel gave, but what lies there is the dataset's: no link is followed, and nothing leads out.
"""

import collections
import os
import stat
import threading

from recover.linux import syscalls
from recover.seamless import callers
from recover.seamless.names import Node, Version, version_of
from recover.seamless.wire import Entry

_BENEATH = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_NO_SYMLINKS
_PLACE = os.O_PATH | os.O_NOFOLLOW
_ENTRIES = 200_000  # the largest directory that is served
_KEPT = 128  # files of one connection that are kept open
_DIRENT = 19  # bytes before the name in struct linux_dirent64


class Owned:
    """A descriptor, closed when the last thread has let go of it.

    Closed under a running read its number could become another file's.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class Caller:
    """In whose name a place is opened; root where the kernel has checked the modes already."""

    def __init__(self, uid: int = 0, gid: int = 0) -> None:
        self.uid = uid
        self.gid = gid


ROOT = Caller()


class Root:
    """The newest mount of a dataset, as it was when its daemon came."""

    def __init__(self, dev: str, fd: int) -> None:
        """Own a readable descriptor of the root directory of superblock dev."""
        self.dev = dev
        self.owned = Owned(fd)

    def open(self, path: str, flags: int, caller: Caller = ROOT) -> int:
        """Open a path; only its last step is taken as the caller.  Raises OSError.

        So a caller who has a directory open needs no right to those above, as it is with files.
        """
        if not path:
            with callers.acting_as(caller.uid, caller.gid):
                return syscalls.openat2(self.owned.fd, ".", flags, _BENEATH)
        folder, _, name = path.rpartition("/")
        if not folder or caller is ROOT:
            with callers.acting_as(caller.uid, caller.gid):
                return syscalls.openat2(self.owned.fd, path, flags, _BENEATH)
        above = syscalls.openat2(self.owned.fd, folder, os.O_PATH | os.O_DIRECTORY, _BENEATH)
        try:
            with callers.acting_as(caller.uid, caller.gid):
                return syscalls.openat2(above, name, flags, _BENEATH)
        finally:
            os.close(above)

    def place(self, path: str, caller: Caller = ROOT) -> Owned:
        """Open a place as it is, links too, with O_PATH; raises OSError."""
        return Owned(self.open(path, _PLACE, caller))

    def stat(self, path: str, caller: Caller = ROOT) -> os.stat_result:
        """Return the attributes of a place; raises OSError."""
        place = self.place(path, caller)  # kept until the call has ended
        return os.fstat(place.fd)

    def listing(self, path: str, caller: Caller = ROOT) -> list[Entry]:
        """Return all entries of a directory with the daemon's own cookies; raises OSError."""
        folder = Owned(self.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, caller))
        entries: list[Entry] = []
        buffer = bytearray(1 << 16)
        while length := syscalls.getdents64(folder.fd, buffer):
            entries += _entries(buffer, length)
            if len(entries) > _ENTRIES:
                raise OverflowError(f"more than {_ENTRIES} entries in {path!r}")
        return entries


def _entries(buffer: bytearray, length: int) -> list[Entry]:
    found, at = [], 0
    while at < length:
        size = int.from_bytes(buffer[at + 16 : at + 18], "little")
        name = bytes(buffer[at + _DIRENT : at + size]).partition(b"\0")[0]
        ino = int.from_bytes(buffer[at : at + 8], "little")
        cookie = int.from_bytes(buffer[at + 8 : at + 16], "little")
        found.append(Entry(name, ino, buffer[at + 18], cookie))
        at += size
    return found


def version(found: os.stat_result) -> Version | None:
    """Return the version of a file, None unless it is a regular one."""
    return version_of(found.st_mode, found.st_size, found.st_mtime_ns)


class Changed(Exception):
    """A file is not the version that was read before."""


class Backings:
    """The files that are read on behalf of one connection, each open in the newest mount."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: collections.OrderedDict[int, tuple[Root, Owned]] = collections.OrderedDict()

    def of(self, number: int, node: Node, root: Root, caller: Caller = ROOT) -> Owned:
        """Return the file of a node, compared once with what was read of it before.

        It is opened anew for a caller whose right to do so is to be seen.
        Raises Changed, so that no mixture of two versions is ever read; OSError.
        """
        with self._lock:
            known = self._open.get(number)
            if known is not None and known[0] is root and caller is ROOT:
                self._open.move_to_end(number)
                return known[1]
        file = Owned(root.open(node.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, caller))
        found = os.fstat(file.fd)
        if not stat.S_ISREG(found.st_mode) or version(found) != node.version:
            raise Changed(node.path)
        with self._lock:
            self._open[number] = root, file
            if len(self._open) > _KEPT:
                self._open.popitem(last=False)
        return file

    def drop(self, number: int) -> None:
        """Close the file of a node, if it is open."""
        with self._lock:
            self._open.pop(number, None)

    def keep_only(self, root: Root | None) -> None:
        """Close what is open in other mounts: it would keep their superblocks alive."""
        with self._lock:
            for number in [n for n, (where, _) in self._open.items() if where is not root]:
                del self._open[number]
