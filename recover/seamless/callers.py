"""Who waits in a request: whether it is to be killed, by which mount it came, acting in its name.

Only files of /proc that take no lock of the caller's memory are read: `cmdline`, `maps` and `mem`
may wait for a page of the very mount that is held.
"""

import contextlib
import os
from collections.abc import Iterator

from recover.linux import syscalls

_SIGKILL = 1 << 8
_NODE = "/proc/1/ns/mnt"  # has the mounts that pods get their volumes from
_ASLEEP = (b"request_wait_answer", b"fuse_simple_request", b"fuse_request_send")  # may be inlined
_UNASKED = syscalls.AT_STATX_DONT_SYNC | syscalls.AT_NO_AUTOMOUNT
_BELOW = -100  # AT_FDCWD, of a path that may begin anywhere below the working directory or root
_STATS_BY_MACHINE: dict[str, dict[int, int | None]] = {
    "x86_64": {4: None, 6: None, 262: 3, 332: 2},  # stat lstat newfstatat statx: where flags are
    "aarch64": {79: 3, 291: 2},
}
_STATS = _STATS_BY_MACHINE.get(os.uname().machine, {})


def is_killed(tid: int) -> bool:
    """Tell whether a thread has SIGKILL pending, as after any signal that ends its process."""
    status = _status(f"/proc/{tid}/status")
    return status is None or bool(_pending(status) & _SIGKILL)


def waits(tid: int) -> int | None:
    """Return how often a thread has waited so far, None if it has ended."""
    status = _status(f"/proc/{tid}/status") or []
    key = b"voluntary_ctxt_switches:"
    return next((int(line.split()[1]) for line in status if line.startswith(key)), None)


def killed_users() -> frozenset[tuple[int, int]]:
    """Return fsuid and fsgid of the threads on this machine that have SIGKILL pending.

    For callers whose thread is not known: those in another PID namespace than their daemon's.
    """
    return frozenset(_killed())


def _killed() -> Iterator[tuple[int, int]]:
    for thread in _threads():
        status = _status(f"{thread}/status")
        if status is not None and _pending(status) & _SIGKILL:
            yield _fsid(status, b"Uid:"), _fsid(status, b"Gid:")


def strays(dev: str) -> dict[int, tuple[int, int]]:
    """Return fsuid and fsgid of threads that wait for a FUSE daemon and are in no pod of dev's.

    They are on the node, or where dev is not mounted.  Walked again their paths may lead elsewhere,
    if the mount by which they came was taken away.  By thread; reads all of /proc.
    """
    found, is_pod = {}, {}
    for thread in filter(_is_asleep, _threads()):
        with contextlib.suppress(OSError):  # it ended
            namespace = os.readlink(f"{thread}/ns/mnt")
            if namespace not in is_pod:
                is_pod[namespace] = namespace != os.readlink(_NODE) and _has_mount(thread, dev)
            status = _status(f"{thread}/status")
            if status is not None and not is_pod[namespace]:
                user = _fsid(status, b"Uid:"), _fsid(status, b"Gid:")
                found[int(thread.rpartition("/")[2])] = user
    return found


def _is_asleep(thread: str) -> bool:
    """Tell whether a thread waits for a FUSE daemon, by the function that it sleeps in."""
    where = _read(f"{thread}/wchan")
    if where == b"0":  # before Linux 5.16 also where the kernel has no frame pointers
        where = _read(f"{thread}/stack")
    return any(name in where for name in _ASLEEP)


def _read(path: str) -> bytes:
    with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
        return file.readall()
    return b""


def _has_mount(thread: str, dev: str) -> bool:
    """Tell whether a superblock is mounted where a thread is; so it is said of one that ended."""
    table = _read(f"{thread}/mountinfo")
    return not table or f" {dev} ".encode() in table  # in its paths there are no spaces


def _threads() -> Iterator[str]:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # the process ended
            for tid in os.listdir(f"/proc/{pid}/task"):
                yield f"/proc/{pid}/task/{tid}"


def _status(path: str) -> list[bytes] | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, 8192).split(b"\n")
    except OSError:
        return None
    finally:
        os.close(fd)


def _pending(status: list[bytes]) -> int:
    found = 0
    for line in status:
        if line.startswith((b"SigPnd:", b"ShdPnd:")):
            found |= int(line.split()[1], 16)
    return found


def _fsid(status: list[bytes], key: bytes) -> int:
    return next((int(line.split()[4]) for line in status if line.startswith(key)), -1)


def began_outside(tid: int, dev: str) -> bool:
    """Tell whether a thread waits in a stat-like call whose path begins outside a superblock.

    Walked again it ends in the new mount, and so agrees with what the program does next with that
    path: cp(1) compares st_dev of both.  A path that may begin inside is better served.
    """
    try:
        with open(f"/proc/{tid}/syscall", encoding="ascii") as file:
            number, *words = file.read().split()
        call = int(number)
        if call not in _STATS:
            return False
        arguments = [int(word, 16) for word in words]
        flags_at = _STATS[call]
        if flags_at is not None and arguments[flags_at] & syscalls.AT_EMPTY_PATH:
            return False  # of an open file
        start = _BELOW if flags_at is None else _signed(arguments[0])
        names = ("cwd", "root") if start == _BELOW else (f"fd/{start}",)
        return all(_superblock(f"/proc/{tid}/{name}") != dev for name in names)
    except (OSError, ValueError, IndexError):
        return False


def _signed(word: int) -> int:
    return (word & 0xFFFFFFFF) - (1 << 32 if word & 0x80000000 else 0)


def _superblock(path: str) -> str:
    return syscalls.statx(syscalls.AT_FDCWD, path, _UNASKED, 0).dev


@contextlib.contextmanager
def acting_as(uid: int, gid: int) -> Iterator[None]:
    """Touch files with a caller's rights for a block, on this thread alone."""
    if (uid, gid) == (0, 0):
        yield
        return
    syscalls.setfsgid(gid)
    syscalls.setfsuid(uid)  # last, and first back: with it go the rights to read anything
    try:
        yield
    finally:
        syscalls.setfsuid(0)
        syscalls.setfsgid(0)
