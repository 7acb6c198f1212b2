"""What this kernel and these privileges allow: each facility is tried, not guessed from a version.

The mounts of a trial are made in a mount namespace of its own, which ends with the trial's thread.
"""

import contextlib
import errno
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from recover.linux import fanotify, fuse, mountinfo, mounts, procevents, syscalls
from recover.linux.mounts import closing
from recover.linux.probe import Prober

_CLONE = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC
_TIMEOUT_S = 10.0
_EXIT_WAIT_S = 1.0

Verdict = Literal["ok", "limited", "missing"]
"""There; absent, and something is given up; absent, and the plugin cannot work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: what it is, the verdict, what was seen, and what follows from it."""

    what: str
    verdict: Verdict
    seen: str
    follows: str = ""


@dataclass(frozen=True, slots=True)
class _Facility:
    what: str
    since: str
    without: str
    lack: Verdict
    trial: Callable[["_Scene"], None]

    def find(self, scene: "_Scene") -> Finding:
        try:
            self.trial(scene)
        except OSError as error:
            return Finding(self.what, self.lack, _reason(error, self.since), self.without)
        return Finding(self.what, "ok", "works")


class _Scene:
    """A scratch folder, in whose namespace mounts can be tried."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def clone(self) -> int:
        return syscalls.open_tree(syscalls.AT_FDCWD, self.folder, _CLONE)

    def copy(self) -> int:
        """Return a private clone, as it can be attached."""
        fd = self.clone()
        try:
            syscalls.mount_setattr(fd, attr_set=0, attr_clr=0, propagation=syscalls.MS_PRIVATE)
        except OSError:
            os.close(fd)
            raise
        return fd


def _open_tree(scene: _Scene) -> None:
    os.close(scene.clone())


def _mount_setattr(scene: _Scene) -> None:
    with closing(scene.clone()) as fd:
        read_only = syscalls.MOUNT_ATTR_RDONLY
        syscalls.mount_setattr(fd, attr_set=read_only, attr_clr=0, propagation=syscalls.MS_PRIVATE)


def _openat2(scene: _Scene) -> None:
    os.close(mounts.open_path(scene.folder))


def _move_mount(scene: _Scene) -> None:
    with closing(scene.copy()) as copy, closing(mounts.open_path(scene.folder)) as place:
        mounts.attach(copy, place)
    syscalls.umount2(scene.folder, syscalls.MNT_DETACH)


def _beneath(scene: _Scene) -> None:
    with closing(scene.copy()) as copy, closing(mounts.open_path(scene.folder)) as place:
        mounts.attach(copy, place)
    try:
        with closing(scene.copy()) as copy, closing(mounts.open_path(scene.folder)) as top:
            mounts.attach(copy, top, beneath=True)
    finally:
        mounts.unmount_all(scene.folder)


def _setns(_: _Scene) -> None:
    with closing(os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)) as home:
        syscalls.setns(home, syscalls.CLONE_NEWNS)


def _fanotify(_: _Scene) -> None:
    fanotify.MountEvents().close()


def _pidfd(_: _Scene) -> None:
    os.close(os.pidfd_open(os.getpid()))


def _process_events(_: _Scene) -> None:
    with contextlib.closing(procevents.ProcessExits()) as exits:
        child = subprocess.Popen(["true"])
        child.wait()
        waiting = select.poll()
        waiting.register(exits.fileno(), select.POLLIN)
        deadline = time.monotonic() + _EXIT_WAIT_S
        while (left_s := deadline - time.monotonic()) > 0:
            if waiting.poll(left_s * 1000) and child.pid in exits.read():
                return
    raise OSError(errno.ENOMSG, "no exit is told here")


def _fusectl(_: _Scene) -> None:
    os.close(fuse.control())


def _statmount(scene: _Scene) -> None:
    flags = syscalls.AT_NO_AUTOMOUNT
    found = syscalls.statx(syscalls.AT_FDCWD, scene.folder, flags, syscalls.STATX_MNT_ID_UNIQUE)
    if not found.mnt_id:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    with contextlib.suppress(FileNotFoundError):  # of another namespace than the thread group's
        syscalls.statmount(found.mnt_id)


_PLAIN = (
    _Facility(
        "openat2", "5.6", "paths cannot be opened safely: nothing works", "missing", _openat2
    ),
    _Facility(
        "mount events (fanotify)",
        "6.15",
        "mounts are noticed by poll(2) instead",
        "limited",
        _fanotify,
    ),
    _Facility(
        "exits of daemons (pidfd)", "5.3", "exits are noticed by process events", "limited", _pidfd
    ),
    _Facility(
        "process events (netlink)",
        "2.6",
        "only a stand-in for pidfd; needs the host's PID and network namespaces",
        "limited",
        _process_events,
    ),
    _Facility(
        "FUSE connections (fusectl)",
        "5.2",
        "a hung connection cannot be ended: --hung-abort-after has no effect",
        "limited",
        _fusectl,
    ),
    _Facility(
        "statmount", "6.8", "a heal reads the whole mount table first", "limited", _statmount
    ),
)
_MOUNTING = (
    _Facility("open_tree", "5.2", "volumes cannot be published", "missing", _open_tree),
    _Facility("mount_setattr", "5.12", "volumes cannot be published", "missing", _mount_setattr),
    _Facility("move_mount", "5.2", "volumes cannot be published", "missing", _move_mount),
    _Facility(
        "move_mount beneath a mount",
        "6.5",
        "a heal leaves one more mount each time",
        "limited",
        _beneath,
    ),
    _Facility(
        "setns into a mount namespace",
        "3.8",
        "containers cannot be entered: --strategy=propagation only",
        "limited",
        _setns,
    ),
)


def find(prober: Prober) -> tuple[Finding, ...]:
    """Try everything and return what was found."""
    with tempfile.TemporaryDirectory(prefix="csi-fluid-doctor-") as folder:
        scene = _Scene(os.path.realpath(folder))
        plain = tuple(facility.find(scene) for facility in _PLAIN)
        mounting = prober.run("trial", lambda: tuple(_find_mounting(scene)), _TIMEOUT_S)
    return plain[:1] + mounting + plain[1:]


def _find_mounting(scene: _Scene) -> Iterator[Finding]:
    try:
        _leave_home(scene)
    except OSError as error:
        reason = _reason(error, "3.8")
        follows = "the plugin needs CAP_SYS_ADMIN: run this as root, the container privileged"
        yield Finding("a mount namespace for trials", "missing", reason, follows)
        return
    yield from (facility.find(scene) for facility in _MOUNTING)


def _leave_home(scene: _Scene) -> None:
    """Give this thread a mount namespace in which the trial's mounts propagate nowhere."""
    syscalls.unshare(syscalls.CLONE_FS | syscalls.CLONE_NEWNS)
    below = mount_below(scene.folder, "thread-self")
    with closing(os.open(below.mount_point, os.O_PATH | os.O_CLOEXEC)) as fd:
        syscalls.mount_setattr(fd, attr_set=0, attr_clr=0, propagation=syscalls.MS_PRIVATE)


def mount_below(path: str, pid: str = "self") -> mountinfo.Mount:
    """Return the mount that a path lies on; raises OSError where the path cannot be opened."""
    with closing(os.open(path, os.O_PATH | os.O_CLOEXEC)) as fd:
        return mountinfo.read(pid).by_id[mountinfo.mount_id(fd)]


def _reason(error: OSError, since: str) -> str:
    match error.errno:
        case errno.ENOSYS:
            return f"this kernel has not got it; Linux {since} or newer has"
        case errno.EPERM | errno.EACCES:
            return "not permitted: a capability is missing, or seccomp forbids it"
        case errno.EINVAL:
            return f"refused (EINVAL); Linux {since} or newer takes it"
        case _:
            return error.strerror or str(error)
