"""Copies of the /dev/fuse descriptors of a running daemon: pidfd_getfd(2).

Before Linux 6.16 a descriptor does not tell of which connection it is: all of a process are copied
then, and who owns the copies has to see for himself (`Connection.is_proven`).

While one is open the connection outlives its daemon.  Threads with a descriptor of their own
(FUSE_DEV_IOC_CLONE) may come later: a request that was read by one of which there is no copy is
lost, so they are looked for again now and then.
"""

import errno
import os
from collections.abc import Iterator

from recover.linux import facilities, syscalls

_DEVICE = "/dev/fuse"


def of(pid: int, connection: int) -> list[int]:
    """Return copies of a process's descriptors of one connection, which the caller owns.

    Raises OSError: EPERM where Yama or a security module refuses, ProcessLookupError where it has
    ended or serves no such connection.
    """
    pidfd = syscalls.pidfd_open(pid)
    found: list[int] = []
    try:
        for number in numbers(pid, connection):
            found.append(syscalls.pidfd_getfd(pidfd, number))
            if not _is_of(os.getpid(), found[-1], connection):  # it is another file by now
                os.close(found.pop())
    except BaseException:
        for fd in found:
            os.close(fd)
        raise
    finally:
        os.close(pidfd)
    if not found:
        raise ProcessLookupError(errno.ESRCH, f"process {pid} serves no connection {connection}")
    return found


def numbers(pid: int, connection: int) -> tuple[int, ...]:
    """Return which descriptors of a process are of a connection; none when it has ended."""
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return ()
    return tuple(int(name) for name in names if _is_of(pid, int(name), connection))


def _is_of(pid: int, fd: int, connection: int) -> bool:
    try:
        if os.readlink(f"/proc/{pid}/fd/{fd}") != _DEVICE:
            return False
        if not are_told():
            return True
        with open(f"/proc/{pid}/fdinfo/{fd}", "rb", buffering=0) as file:
            return f"fuse_connection:\t{connection}\n".encode() in (file.read() or b"")
    except OSError:
        return False


def are_told() -> bool:
    """Tell whether the kernel says of which connection a descriptor is."""
    return facilities.has("fuse_connection")


def heirs(connection: int, copy: int, besides: frozenset[int]) -> Iterator[int]:
    """Yield the processes that serve a connection, of which we have a copy, but for those given."""
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in besides:
            found = numbers(int(name), connection)
            if found and (are_told() or any(_is_same(copy, int(name), fd) for fd in found)):
                yield int(name)


def _is_same(copy: int, pid: int, fd: int) -> bool:
    try:
        return syscalls.is_same_file(os.getpid(), copy, pid, fd)
    except OSError:
        return False


def same_pid_namespace(pid: int) -> bool:
    """Tell whether the process ids in a daemon's requests are ours; False if it has ended."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink("/proc/self/ns/pid")
    except OSError:
        return False
