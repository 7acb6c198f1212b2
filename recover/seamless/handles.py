"""Node numbers and paths by file handle: what the kernel knows of a connection, without a request.

name_to_handle_at(2) tells the number of any FUSE inode, and open_by_handle_at(2) finds an inode by
number in the kernel's cache: its path in the volume, and its attributes as last seen.
"""

import contextlib
import errno
import os
import struct
from collections.abc import Iterator

from recover.linux import procself, syscalls
from recover.linux.syscalls import Handle
from recover.seamless.files import Owned
from recover.seamless.names import Node, version_of
from recover.seamless.wire import MARK, ROOT, mark_name

_KIND = 0x81  # FILEID_INO64_GEN, fs/fuse/inode.c
_ID = struct.Struct("=III")
_DELETED = " (deleted)"
_UNASKED = syscalls.AT_STATX_DONT_SYNC | syscalls.AT_EMPTY_PATH | syscalls.AT_NO_AUTOMOUNT
_LINK = syscalls.AT_STATX_DONT_SYNC | syscalls.AT_NO_AUTOMOUNT


def number_of(fd: int) -> tuple[int, int]:
    """Return number and generation of what a descriptor, also an O_PATH one, refers to."""
    high, low, generation = _ID.unpack_from(syscalls.name_to_handle_at(fd).data)
    return high << 32 | low, generation


class Anchor:
    """A descriptor in a volume, not an O_PATH one, by whose mount numbers are found.

    place is where that mount shows the volume's root, as the kernel prints it: "" in a mount that
    stands nowhere.
    """

    def __init__(self, owned: Owned, place: str = "") -> None:
        self._owned = owned
        self._place = place

    def find(self, number: int, generation: int) -> Node:
        """Return what a number means; raises OSError where the kernel does not know it."""
        fd = self._open(number, generation)
        with procself.closing(fd):
            path = os.readlink(f"/proc/self/fd/{fd}").removesuffix(_DELETED).rstrip("/")
            found = syscalls.statx(fd, "", _UNASKED, syscalls.STATX_BASIC_STATS)
        if not f"{path}/".startswith(f"{self._place}/"):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
        version = version_of(found.mode, found.size, found.mtime_ns)
        return Node(path[len(self._place) :].strip("/"), generation, found.ino, version)

    def above(self, number: int, generation: int) -> Iterator[int]:
        """Yield the directories above one, but for the volume's root; raises OSError.

        The kernel may ask whether we may walk there.  A descriptor is closed when the next one is
        asked for.
        """
        folder = Owned(self._open(number, generation))
        while True:
            folder = Owned(os.open("..", os.O_PATH | os.O_CLOEXEC, dir_fd=folder.fd))
            if number_of(folder.fd)[0] == ROOT:
                return
            yield folder.fd

    def mark(self, number: int) -> None:
        """Send a mark to the daemon, which takes it for nonsense: always raises OSError."""
        try:
            fd = self._open(ROOT, 0)
            with procself.closing(fd):
                os.getxattr(f"/proc/self/fd/{fd}", mark_name(number))
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
        try:  # that daemon has no such attributes: they do not reach it
            syscalls.ioctl_by_value(self._owned.fd, MARK, number)
        except OSError as error:
            if error.errno != errno.ENOTTY:
                raise
        os.lseek(self._owned.fd, number, os.SEEK_SET)  # its library is older than these
        syscalls.getdents64(self._owned.fd, bytearray(4096))

    def _open(self, number: int, generation: int) -> int:
        data = _ID.pack(number >> 32, number & 0xFFFFFFFF, generation)
        return syscalls.open_by_handle_at(self._owned.fd, Handle(_KIND, data), os.O_PATH)


def held(devs: frozenset[str]) -> Iterator[tuple[str, int]]:
    """Yield superblock and O_PATH descriptor of all that other processes have of superblocks.

    Open files, directories, mappings, working and root directories.
    A descriptor is closed when the next one is asked for.
    """
    for link in _links():
        with contextlib.suppress(OSError):  # closed meanwhile
            dev = syscalls.statx(syscalls.AT_FDCWD, link, _LINK, 0).dev
            if dev in devs:
                place = Owned(os.open(link, os.O_PATH | os.O_CLOEXEC))
                yield dev, place.fd


def _links() -> Iterator[str]:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) != os.getpid():
            yield from _links_of(f"/proc/{pid}")


def _links_of(process: str) -> Iterator[str]:
    yield f"{process}/cwd"
    yield f"{process}/root"
    for folder in ("fd", "map_files"):
        with contextlib.suppress(OSError):  # the process ended
            yield from (f"{process}/{folder}/{name}" for name in os.listdir(f"{process}/{folder}"))


def borrow(dev: str) -> Anchor | None:
    """Return an anchor by a descriptor that another process has of a superblock, None without one.

    It has to be in a mount of the whole volume, or paths would come out wrong.
    """
    for pid in filter(str.isdigit, os.listdir("/proc")):
        fd = None if int(pid) == os.getpid() else _borrow_from(pid, dev)
        anchor = None if fd is None else _anchored(Owned(fd))
        if anchor is not None:
            return anchor
    return None


def _anchored(owned: Owned) -> Anchor | None:
    with contextlib.suppress(OSError):
        if root := Anchor(owned).find(ROOT, 0).path:
            return Anchor(owned, f"/{root}")
        if _is_whole(owned.fd):  # a mount that stands nowhere any more
            return Anchor(owned)
    return None


def _is_whole(fd: int) -> bool:
    """Tell whether a mount, which stands nowhere, has the volume's root: that has a way upward.

    May ask for the attributes of the root.
    """
    root = syscalls.open_by_handle_at(fd, Handle(_KIND, _ID.pack(0, ROOT, 0)), os.O_PATH)
    with procself.closing(root), contextlib.suppress(FileNotFoundError):  # outside of its mount
        os.close(os.open("..", os.O_PATH | os.O_CLOEXEC, dir_fd=root))
        return True
    return False


def _borrow_from(pid: str, dev: str) -> int | None:
    with contextlib.suppress(OSError):  # the process ended
        for name in os.listdir(f"/proc/{pid}/fd"):
            link = f"/proc/{pid}/fd/{name}"
            if syscalls.statx(syscalls.AT_FDCWD, link, _LINK, 0).dev == dev and _is_real(pid, name):
                return _copy(int(pid), int(name))
    return None


def _copy(pid: int, number: int) -> int:
    with procself.closing(syscalls.pidfd_open(pid)) as pidfd:
        return syscalls.pidfd_getfd(pidfd, number)


def _is_real(pid: str, name: str) -> bool:
    """Tell whether a descriptor is more than a path."""
    with open(f"/proc/{pid}/fdinfo/{name}", encoding="ascii") as file:
        flags = next((line.split()[1] for line in file if line.startswith("flags:")), "0")
    return not int(flags, 8) & os.O_PATH
