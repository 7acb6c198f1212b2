"""Our own /proc/self, also in a visit, where /proc is another one.

In a visit (`namespaces.visit`) the thread's working directory is this process's /proc/self/fd: a
path that begins there leads over nothing that a container could bend.
"""

import contextlib
import fcntl
import os
import select
import threading
from collections.abc import Iterator

HOLDER = "csi-fluid-hold"  # has copies of FUSE descriptors, and serves nobody alive
_NS_GET_USERNS = 0xB701  # <linux/nsfs.h>


@contextlib.contextmanager
def closing(fd: int) -> Iterator[int]:
    """Own a descriptor for the length of a block."""
    try:
        yield fd
    finally:
        os.close(fd)


def is_readable(*fds: int) -> bool:
    """Tell whether one of these has something to read, or has ended: poll(2), without waiting."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def path(fd: int) -> str:
    """Return a path to exactly what a descriptor refers to, for calls that take no descriptor."""
    return str(fd) if in_visit() else f"/proc/self/fd/{fd}"


def mount_id(fd: int) -> int:
    """Return the mount id behind a descriptor, as in mountinfo: proc_pid_fdinfo(5)."""
    for line in _read(f"fdinfo/{fd}").split(b"\n"):
        if line.startswith(b"mnt_id:"):
            return int(line.partition(b":")[2])
    raise AssertionError("every fdinfo has a mnt_id")


def mountinfo() -> bytes:
    """Return the raw mountinfo of the namespace that the calling thread is in."""
    return _read(f"{_thread()}/mountinfo")


def in_visit() -> bool:
    """Tell whether the calling thread's working directory is our own /proc/self/fd."""
    return os.path.exists(f"../{_thread()}")


def is_home() -> bool:
    """Tell whether the calling thread is in the mount namespace of its process."""
    return os.readlink(_own(f"{_thread()}/ns/mnt")) == os.readlink(_own("ns/mnt"))


def open_namespace() -> int:
    """Return a descriptor of the mount namespace of this process."""
    return os.open(_own("ns/mnt"), os.O_RDONLY | os.O_CLOEXEC)


def is_locked() -> bool:
    """Tell whether the calling thread's mount namespace is foreign."""
    with closing(os.open(_own(f"{_thread()}/ns/mnt"), os.O_RDONLY | os.O_CLOEXEC)) as fd:
        return is_foreign(fd)


def is_foreign(namespace_fd: int) -> bool:
    """Tell whether a mount namespace belongs to another user namespace than this process.

    What stood in it when it was made, and what the kernel passed on to it, is locked there: its
    root can neither take it away nor weaken its flags.  What is attached in it is not:
    mount_namespaces(7).
    """
    with closing(fcntl.ioctl(namespace_fd, _NS_GET_USERNS)) as owner:
        return not os.path.samestat(os.fstat(owner), os.stat(_own("ns/user")))


def _thread() -> str:
    return f"task/{threading.get_native_id()}"


def _own(name: str) -> str:
    return f"../{name}" if in_visit() else f"/proc/self/{name}"


def _read(name: str) -> bytes:
    with open(_own(name), "rb", buffering=0) as file:
        return file.readall()
