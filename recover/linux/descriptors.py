"""What the kernel says about our own descriptors, also in a visit, where /proc is another one.

In a visit (`namespaces.visit`) the thread's working directory is this process's /proc/self/fd: a
path that begins there leads over nothing that a container could bend.
"""

import os
import threading

_SELF = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)  # before any visit


def in_visit() -> bool:
    """Tell whether the calling thread's working directory is our own /proc/self/fd."""
    return os.path.samestat(os.stat("."), os.stat("fd", dir_fd=_SELF))


def path(fd: int) -> str:
    """Return a path to exactly what a descriptor refers to, for calls that take no descriptor."""
    return str(fd) if in_visit() else f"/proc/self/fd/{fd}"


def is_home() -> bool:
    """Tell whether the calling thread is in the mount namespace of its process."""
    return os.readlink(f"task/{_tid()}/ns/mnt", dir_fd=_SELF) == os.readlink("ns/mnt", dir_fd=_SELF)


def mount_id(fd: int) -> int:
    """Return the mount id behind a descriptor, as in mountinfo: proc_pid_fdinfo(5)."""
    for line in _read(f"fdinfo/{fd}").split(b"\n"):
        if line.startswith(b"mnt_id:"):
            return int(line.partition(b":")[2])
    raise AssertionError("every fdinfo has a mnt_id")


def mountinfo() -> bytes:
    """Return the raw mountinfo of the namespace that the calling thread is in."""
    return _read(f"task/{_tid()}/mountinfo")


def _tid() -> int:
    return threading.get_native_id()


def _read(name: str) -> bytes:
    with open(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=_SELF), "rb", buffering=0) as file:
        return file.readall()
