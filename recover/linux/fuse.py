"""FUSE connections and the processes that serve them.

A connection's number is the minor of its mounts' st_dev: fs/fuse/inode.c.  Which process holds its
/dev/fuse descriptor is said by `fuse_connection:` in fdinfo since Linux 6.16, once it is mounted;
before, all processes that hold any such descriptor are possible daemons.
"""

import errno
import os
from collections.abc import Iterable, Iterator

from recover.linux import facilities, mountinfo, procself, syscalls, workshop
from recover.linux.mounts import closing

_DEVICE = "/dev/fuse"


def connection_of(dev: str) -> int:
    """Return the connection number of a FUSE superblock "0:N"."""
    return int(dev.partition(":")[2])


def abort(dev: str) -> None:
    """End the connection of a superblock: every request fails, waiting ones and all to come.

    Documentation/filesystems/fuse: the control filesystem.  Raises OSError: EPERM without
    CAP_SYS_ADMIN, ENOENT where there is no such connection, EINVAL for a superblock on a disk.
    """
    if not dev.startswith("0:"):
        raise OSError(errno.EINVAL, f"superblock {dev} has no number of a FUSE connection")
    with closing(control()) as folder:
        name = f"{connection_of(dev)}/abort"
        with closing(os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=folder)) as fd:
            os.write(fd, b"1")


def control() -> int:
    """Return a descriptor of the control filesystem, which the caller owns; raises OSError.

    A mount of our own that stands nowhere: in a container /sys/fs/fuse/connections is empty, and
    what is not mounted need not be cleaned up.
    """
    if not facilities.has("fsopen"):
        return workshop.run(lambda: workshop.bench("fusectl"))
    with closing(syscalls.fsopen("fusectl", syscalls.FSOPEN_CLOEXEC)) as context:
        syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE)
        return syscalls.fsmount(context, syscalls.FSMOUNT_CLOEXEC, 0)


def daemons(dev: str) -> tuple[int, ...]:
    """Return the process ids that serve a superblock, or may serve it on older kernels."""
    # Where the kernel tells, a descriptor without a number is that of a process about to mount.
    wanted: set[int | None] = {connection_of(dev)}
    if not facilities.has("fuse_connection"):
        wanted.add(None)
    return tuple(pid for pid, serves in _holders() if serves & wanted)


def alone(dev: str, pids: Iterable[int], dead: frozenset[str]) -> tuple[int, ...]:
    """Return the processes that can serve no other superblock than this, besides dead ones.

    There is no other FUSE mount where they are.  It is a guess all the same: they may serve none.
    """
    return tuple(pid for pid in pids if _in_sight_of(pid) - dead == {dev})


def _in_sight_of(pid: int) -> frozenset[str]:
    try:
        return frozenset(mount.dev for mount in mountinfo.read(pid) if mount.is_fuse)
    except OSError:  # it has ended
        return frozenset()


def _holders() -> Iterator[tuple[int, frozenset[int | None]]]:
    for name in os.listdir("/proc"):
        serves = frozenset(_connections(name)) if name.isdigit() else frozenset()
        if serves and not _is_holder(name):
            yield int(name), serves


def _is_holder(pid: str) -> bool:
    try:
        with open(f"/proc/{pid}/comm", "rb", buffering=0) as file:
            return (file.read() or b"").strip() == procself.HOLDER.encode()
    except OSError:
        return False


def _connections(pid: str) -> Iterator[int | None]:
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            if os.readlink(f"/proc/{pid}/fd/{fd}") == _DEVICE:
                yield _connection(pid, fd)
    except OSError:  # the process ended or closed the descriptor meanwhile
        return


def _connection(pid: str, fd: str) -> int | None:
    if not facilities.has("fuse_connection"):
        return None
    with open(f"/proc/{pid}/fdinfo/{fd}", "rb", buffering=0) as file:
        for line in file.read().split(b"\n"):
            if line.startswith(b"fuse_connection:"):
                return int(line.partition(b":")[2])
    return None
