"""Node numbers and paths by file handle: what the kernel knows of a connection, without a request.

name_to_handle_at(2) tells the number of any FUSE inode, and open_by_handle_at(2) finds an inode by
number in the kernel's cache: its path in the volume, and its attributes as last seen.
"""

import contextlib
import os
import struct
from collections.abc import Iterator

from recover.linux import procself, syscalls
from recover.linux.syscalls import Handle
from recover.seamless.names import Node, version_of

_KIND = 0x81  # FILEID_INO64_GEN, fs/fuse/inode.c
_ID = struct.Struct("=III")
_DELETED = " (deleted)"
_UNASKED = syscalls.AT_STATX_DONT_SYNC | syscalls.AT_EMPTY_PATH | syscalls.AT_NO_AUTOMOUNT
_LINK = syscalls.AT_STATX_DONT_SYNC | syscalls.AT_NO_AUTOMOUNT


def number_of(fd: int) -> tuple[int, int]:
    """Return number and generation of what a descriptor, also an O_PATH one, refers to."""
    high, low, generation = _ID.unpack_from(syscalls.name_to_handle_at(fd).data)
    return high << 32 | low, generation


def find(anchor: int, number: int, generation: int) -> Node:
    """Return what a number means; anchor is a descriptor of the volume's root, not an O_PATH one.

    Raises OSError where the kernel does not know it.
    """
    data = _ID.pack(number >> 32, number & 0xFFFFFFFF, generation)
    fd = syscalls.open_by_handle_at(anchor, Handle(_KIND, data), os.O_PATH)
    try:
        path = os.readlink(f"/proc/self/fd/{fd}").removesuffix(_DELETED).strip("/")
        found = syscalls.statx(fd, "", _UNASKED, syscalls.STATX_BASIC_STATS)
    finally:
        os.close(fd)
    version = version_of(found.mode, found.size, found.mtime_ns)
    return Node(path, generation, found.ino, version)


def held(devs: frozenset[str]) -> Iterator[tuple[str, int]]:
    """Yield superblock and O_PATH descriptor of all that other processes have of superblocks.

    Open files, directories, mappings, working and root directories; and the directories above
    each.  A descriptor is closed when the next one is asked for.
    """
    for link in _links():
        with contextlib.suppress(OSError):  # closed meanwhile
            dev = syscalls.statx(syscalls.AT_FDCWD, link, _LINK, 0).dev
            if dev in devs:
                yield from _upwards(dev, os.open(link, os.O_PATH | os.O_CLOEXEC))


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


def _upwards(dev: str, fd: int) -> Iterator[tuple[str, int]]:
    while True:
        try:
            yield dev, fd
            above = os.open("..", os.O_PATH | os.O_CLOEXEC, dir_fd=fd)
        except NotADirectoryError:  # the walk by handle finds the folder of a file
            return
        finally:
            os.close(fd)
        fd = above
        if syscalls.statx(fd, "", _UNASKED, 0).dev != dev or number_of(fd)[0] == 1:
            os.close(fd)
            return


def borrow(dev: str) -> int | None:
    """Return a copy of a descriptor that another process has of a superblock, to find by handle."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) != os.getpid() and (fd := _borrow_from(pid, dev)) is not None:
            return fd
    return None


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
