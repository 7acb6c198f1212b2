"""Open a path under the rules of openat2(2), also before Linux 5.6 has it.

Without the call the path is walked one component at a time, each opened with O_NOFOLLOW from the
descriptor of the one before; ".." goes back to a descriptor that was passed, so that no rename
can lead out of where the walk began.  As O_PATH opens, the steps ask a FUSE daemon no more than the
call does.

A walk that would have to ask a daemon, because the kernel has not all of it in memory, is made in
the other process (`probehelper`) where the thread is one of a Prober.
"""

import contextlib
import errno
import os

from recover.linux import facilities, mountinfo, probe, probehelper, procself, syscalls
from recover.linux.message import Descriptor

NO_LINKS = syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
_IN_MEMORY = syscalls.RESOLVE_CACHED
_UNKNOWN = frozenset({errno.EAGAIN, errno.EINVAL, errno.ENOSYS})  # what memory alone does not tell
_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def open_path(path: str, root_fd: int = syscalls.AT_FDCWD) -> int:
    """Open a place with O_PATH, no symbolic link allowed anywhere (ELOOP).

    With root_fd the path is taken inside that root, as a process with this root would see it.
    """
    inside = 0 if root_fd == syscalls.AT_FDCWD else syscalls.RESOLVE_IN_ROOT
    return open_at(root_fd, path, NO_LINKS | inside)


def open_at(dirfd: int, path: str, rules: int, flags: int = 0) -> int:
    """Open a place with O_PATH and flags, under RESOLVE_* rules with NO_LINKS among them.

    Raises OSError: ELOOP at a link, EXDEV where a rule forbids to leave.
    """
    if probehelper.is_bound():
        try:
            return syscalls.openat2(dirfd, path, os.O_PATH | flags, rules | _IN_MEMORY)
        except OSError as error:
            if error.errno not in _UNKNOWN:
                raise
        if dirfd != syscalls.AT_FDCWD:
            return probehelper.open_there(_open_path, Descriptor(dirfd), path, rules, flags)
        if procself.is_home():
            return probehelper.open_there(_open_path, dirfd, os.path.abspath(path), rules, flags)
    return _open_path(dirfd, path, rules, flags)


def canonical(*paths: str) -> tuple[str, ...]:
    """Return paths with the links in their parent directories resolved; it may have to ask."""
    return tuple(
        os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        for path in paths
    )


def is_canonical(path: str) -> bool:
    """Tell whether the kernel knows without asking that no step of an absolute path is a link."""
    fd = probe.open_known(path, NO_LINKS) if path == os.path.normpath(path) else None
    if fd is not None:
        os.close(fd)
    return fd is not None


def _open_path(dirfd: int, path: str, rules: int, flags: int) -> int:
    if facilities.has("openat2"):
        return syscalls.openat2(dirfd, path, os.O_PATH | flags, rules)
    assert rules & NO_LINKS == NO_LINKS
    return _walk(dirfd, path, rules, flags)


def _walk(dirfd: int, path: str, rules: int, flags: int) -> int:
    with contextlib.closing(_Walk(dirfd, path, rules)) as walk:
        for name in path.split("/"):
            if name not in {"", "."}:
                walk.step(name)
        return walk.end(flags)


class _Walk:
    """The descriptors of what a walk passed, the last one of where it is."""

    def __init__(self, dirfd: int, path: str, rules: int) -> None:
        self._path = path
        self._rules = rules
        if path.startswith("/") and not rules & syscalls.RESOLVE_IN_ROOT:
            if rules & syscalls.RESOLVE_BENEATH:
                raise self._error(errno.EXDEV)
            self._passed = [os.open("/", os.O_PATH | os.O_CLOEXEC)]
        else:
            self._passed = [os.dup(dirfd)]

    def step(self, name: str) -> None:
        """Go one component on."""
        if name == "..":
            self._back()
            return
        try:
            self._passed.append(os.open(name, _STEP, dir_fd=self._passed[-1]))
        except OSError as error:
            raise self._error(error.errno or 0) from error
        if _is_link(self._passed[-1]):
            raise self._error(errno.ELOOP)
        if self._rules & syscalls.RESOLVE_NO_XDEV and self._is_elsewhere():
            raise self._error(errno.EXDEV)

    def _back(self) -> None:
        if len(self._passed) > 1:
            os.close(self._passed.pop())
        elif self._rules & syscalls.RESOLVE_BENEATH:
            raise self._error(errno.EXDEV)

    def _is_elsewhere(self) -> bool:
        return mountinfo.mount_id(self._passed[-1]) != mountinfo.mount_id(self._passed[0])

    def _error(self, number: int) -> OSError:
        return OSError(number, os.strerror(number), self._path)

    def end(self, flags: int) -> int:
        """Return a descriptor of where the walk came to, which is the caller's; raises OSError."""
        if flags:
            return os.open(".", _STEP | flags, dir_fd=self._passed[-1])
        return self._passed.pop()

    def close(self) -> None:
        """Release the others."""
        for fd in self._passed:
            os.close(fd)


def _is_link(fd: int) -> bool:
    """Ask the kernel alone, unless it is one: readlinkat(2) of an empty path."""
    try:
        os.readlink("", dir_fd=fd)
    except OSError as error:
        return error.errno not in {errno.EINVAL, errno.ENOENT}
    return True
