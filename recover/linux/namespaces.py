"""Mount namespaces of the machine, and visits to them.

setns(2) into a mount namespace needs a thread that shares its root and working directory with no
other, and such a thread is never used for anything but visits again: it is run by a Prober, because
a path inside a container may lead over a hung FUSE mount.
Finding them needs the host's PID namespace; without it only our own is seen.
"""

import contextlib
import os
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Self, TypeVar

from recover.linux import confinement, facilities, mountinfo, procself, syscalls
from recover.linux.mountinfo import Mount
from recover.linux.mounts import closing
from recover.linux.probe import Prober

T = TypeVar("T")

_INITIAL_PID_NS = 0xEFFFFFFC  # PROC_PID_INIT_INO, <linux/proc_ns.h>


@dataclass(frozen=True, slots=True)
class Namespace:
    """A mount namespace: its inode number, and the lowest process id that lives in it."""

    inode: int
    pid: int

    def __str__(self) -> str:
        return f"the mount namespace of process {self.pid}"


def home() -> Namespace:
    """Return this process's own mount namespace."""
    return Namespace(_inode("self") or 0, os.getpid())


def node() -> Namespace:
    """Return the mount namespace of the node's first process; our own where that is not seen."""
    inode = _inode(1) if sees_host() else None
    return home() if inode in {None, _inode("self")} else Namespace(inode or 0, 1)


def others() -> Iterator[Namespace]:
    """Yield every other mount namespace in which a process lives, once each."""
    seen = {_inode("self")}
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        inode = _inode(pid)
        if inode is not None and inode not in seen:
            seen.add(inode)
            yield Namespace(inode, pid)


def _inode(pid: int | str) -> int | None:
    try:
        return int(os.readlink(f"/proc/{pid}/ns/mnt")[5:-1])  # "mnt:[4026531841]"
    except OSError:  # the process ended, or is a kernel thread without a namespace
        return None


def sees_host() -> bool:
    """Tell whether the processes of the whole machine (or node) are visible.

    Either ours is the initial one, or process 1 lives in another mount namespace than we do, as on
    a node that is itself a container.
    """
    pid_ns = int(os.readlink("/proc/self/ns/pid")[5:-1])
    return pid_ns == _INITIAL_PID_NS or _inode(1) not in {None, _inode("self")}


def is_foreign(namespace: Namespace) -> bool:
    """Tell whether a namespace is another user namespace's: nothing attached there is locked."""
    try:
        with closing(_open_of(namespace, "ns/mnt", os.O_RDONLY)) as fd:
            return procself.is_foreign(fd)
    except ProcessLookupError:
        return False
    except PermissionError:  # the user namespace is none below ours
        return True


def is_passed_on(mount: Mount) -> bool:
    """Tell whether what is mounted in a mount of ours reaches another namespace.

    Where those of others are not seen, or not ours to look at, a shared mount is taken to do so.
    """
    if not mount.shared or not sees_host() or _inode(1) is None:
        return bool(mount.shared)
    mark = b" shared:%d " % mount.shared
    return any(mark in _table(other) for other in others())


def _table(namespace: Namespace) -> bytes:
    try:
        return mountinfo.read_bytes(namespace.pid)
    except OSError:  # the process ended
        return b""


def can_mount_inside() -> bool:
    """Tell whether a visit may enter, take a mount along and attach it (Linux 5.2)."""
    if "CAP_SYS_CHROOT" in confinement.lacking():  # setns(2) wants it for a mount namespace
        return False
    return facilities.has("open_tree") and facilities.has("move_mount")


def visit(
    namespace: Namespace,
    func: Callable[[int], T],
    prober: Prober,
    *,
    key: Hashable | Callable[[], Hashable] = None,
    timeout_s: float | None = None,
    release: Callable[[], None] = lambda: None,
) -> T:
    """Run func(root_fd) on a thread inside a mount namespace and return what it returns.

    root_fd is the root directory of the namespace's process, for `mounts.open_path`.  The thread's
    working directory is our own /proc/self/fd, for `mounts.detach`.  release is called once, when
    the visit ends or could not begin, even if it was given up before.  While a visit that was given
    up sleeps, no other of the same key (by default: to the same namespace) begins.
    Raises ProcessLookupError when the namespace's process is gone, Unanswered or Crowded from the
    prober, and what func raises.
    """
    if key is None:
        key = "namespace", namespace.inode
    payer = None if namespace.inode == _inode("self") else namespace.inode
    return prober.run(key, lambda: _inside(namespace, func), timeout_s, release, payer=payer)


def _inside(namespace: Namespace, func: Callable[[int], T]) -> T:
    with Traveller() as traveller, traveller.at(namespace) as root_fd:
        return func(root_fd)


class Traveller:
    """The calling thread on its way from namespace to namespace, from which it does not come back.

    For a thread that does nothing else, run by a Prober: see `visit`.
    """

    def __init__(self) -> None:
        """Leave what the thread shares with others."""
        syscalls.unshare(syscalls.CLONE_FS)
        self._inode = _inode("self")  # of where it is, None: nobody knows
        self._descriptors = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptors)

    @contextlib.contextmanager
    def at(self, namespace: Namespace) -> Iterator[int]:
        """Be in a namespace for a block, whose root is given; raises ProcessLookupError."""
        # /proc is that of the namespace where it is: the way goes by a descriptor of our own
        proc = self._descriptors
        with closing(_open_of(namespace, "root", os.O_PATH | os.O_DIRECTORY, proc)) as root_fd:
            if namespace.inode != self._inode:
                self._enter(namespace)
            os.fchdir(self._descriptors)
            yield root_fd

    def _enter(self, namespace: Namespace) -> None:
        with closing(_open_of(namespace, "ns/mnt", os.O_RDONLY, self._descriptors)) as fd:
            if os.fstat(fd).st_ino != namespace.inode:
                raise ProcessLookupError(f"{namespace} ended and its number was given away")
            self._inode = None
            syscalls.setns(fd, syscalls.CLONE_NEWNS)
            self._inode = namespace.inode


def _open_of(namespace: Namespace, name: str, flags: int, descriptors: int | None = None) -> int:
    """Open a file of a process; descriptors is our own /proc/self/fd where /proc is another one."""
    proc = "/proc" if descriptors is None else "../.."
    try:
        return os.open(f"{proc}/{namespace.pid}/{name}", flags, dir_fd=descriptors)
    except FileNotFoundError as error:
        raise ProcessLookupError(f"{namespace} ended") from error
