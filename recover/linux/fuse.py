"""FUSE connections and the processes that serve them.

A connection's number is the minor of its mounts' st_dev: fs/fuse/inode.c.  Which process holds its
/dev/fuse descriptor is said by `fuse_connection:` in fdinfo since Linux 6.16; before, all processes
that hold any such descriptor are possible daemons.
"""

import os
from collections.abc import Iterator

_DEVICE = "/dev/fuse"


def connection_of(dev: str) -> int:
    """Return the connection number of a FUSE superblock "0:N"."""
    return int(dev.partition(":")[2])


def daemons(dev: str) -> tuple[int, ...]:
    """Return the process ids that serve a superblock, or may serve it on older kernels."""
    connection = connection_of(dev)
    return tuple(
        pid for pid, serves in _holders() if connection in serves or (serves and None in serves)
    )


def _holders() -> Iterator[tuple[int, frozenset[int | None]]]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            serves = frozenset(_connections(name))
            if serves:
                yield int(name), serves


def _connections(pid: str) -> Iterator[int | None]:
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            if os.readlink(f"/proc/{pid}/fd/{fd}") == _DEVICE:
                yield _connection(pid, fd)
    except OSError:  # the process ended or closed the descriptor meanwhile
        return


def _connection(pid: str, fd: str) -> int | None:
    with open(f"/proc/{pid}/fdinfo/{fd}", "rb", buffering=0) as file:
        for line in file.read().split(b"\n"):
            if line.startswith(b"fuse_connection:"):
                return int(line.partition(b":")[2])
    return None
