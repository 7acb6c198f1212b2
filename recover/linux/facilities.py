"""What this kernel and these privileges offer beyond mount(2), umount2(2) and setns(2).

One table, which the code and `csi-fluid doctor` read.  Nothing in it is required: each entry says
what is done without it.  Each is tried by itself, once in a process and when it is first asked for,
mostly by a call that the kernel can only refuse; so no entry stands or falls with another one, and
a seccomp profile that forbids a call counts as a kernel that lacks it.
"""

import errno
import functools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from recover.linux import refusal, syscalls

_NOWHERE = -1  # no descriptor of anything


@dataclass(frozen=True, slots=True)
class Facility:
    """One thing that newer kernels have.

    since is a Linux release; trial raises OSError where it is missing; instead is what is done
    then, and follows what that means for people ("" for nothing that they would notice).  needs is
    the facility without which it cannot be tried.
    """

    name: str
    since: str
    trial: Callable[[], None]
    instead: str
    follows: str = ""
    needs: str = ""


def _known(call: Callable[[], object], *complaints: int) -> Callable[[], None]:
    """Return a trial: a complaint about the senseless arguments means that the call is there."""

    def trial() -> None:
        try:
            call()
        except OSError as error:
            if error.errno not in complaints:
                raise

    return trial


def _lacking() -> OSError:
    return OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def _move_mount(flag: int) -> None:
    flags = syscalls.MOVE_MOUNT_F_EMPTY_PATH | syscalls.MOVE_MOUNT_T_EMPTY_PATH | flag
    syscalls.move_mount(_NOWHERE, "", _NOWHERE, "", flags)


def _mount_setattr() -> None:
    private = syscalls.MS_PRIVATE
    syscalls.mount_setattr(_NOWHERE, attr_set=0, attr_clr=0, propagation=private)


def _statx_mnt_id() -> None:
    if not _statx_root(0).table_id:
        raise _lacking()


def _statx_mnt_id_unique() -> None:
    if not _statx_root(syscalls.STATX_MNT_ID_UNIQUE).mnt_id:
        raise _lacking()


def _statx_root(mask: int) -> syscalls.Statx:
    return syscalls.statx(syscalls.AT_FDCWD, "/", syscalls.AT_STATX_DONT_SYNC, mask)


def _fanotify_mnt() -> None:
    group = syscalls.fanotify_init(syscalls.FAN_CLOEXEC | syscalls.FAN_REPORT_MNT, os.O_RDONLY)
    try:
        namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            flags = syscalls.FAN_MARK_ADD | syscalls.FAN_MARK_MNTNS
            syscalls.fanotify_mark(group, flags, syscalls.FAN_MNT_ATTACH, namespace)
        finally:
            os.close(namespace)
    finally:
        os.close(group)


def _pidfd_open() -> None:
    os.close(syscalls.pidfd_open(os.getpid()))


def _fsopen() -> None:
    os.close(syscalls.fsopen("fusectl", syscalls.FSOPEN_CLOEXEC))


def _by_release(name: str, since: str, instead: str, follows: str) -> Facility:
    """Return a facility that shows on a mounted connection alone: the release tells."""
    needed = tuple(map(int, since.split(".")))

    def trial() -> None:
        numbers = re.match(r"(\d+)\.(\d+)", os.uname().release)
        has = numbers is not None and (int(numbers[1]), int(numbers[2])) >= needed
        if not has or refusal.is_refused(name):
            raise _lacking()

    return Facility(name, since, trial, instead, follows)


TABLE = (
    Facility(
        "open_tree",
        "5.2",
        _known(lambda: syscalls.open_tree(_NOWHERE, "", syscalls.AT_EMPTY_PATH), errno.EBADF),
        "mounts are copied into a private scratch by mount(2)",
        "containers cannot be entered: private copies and subPath are not healed",
    ),
    Facility(
        "move_mount",
        "5.2",
        _known(lambda: _move_mount(0), errno.EBADF),
        "mounts are moved out of a private scratch by mount(2)",
        "containers cannot be entered: private copies and subPath are not healed",
    ),
    Facility(
        "mount_setattr",
        "5.12",
        _known(_mount_setattr, errno.EBADF),
        "flags are set in a mount namespace that nobody sees",
        "a publish and a heal take longer on nodes with thousands of mounts",
    ),
    Facility(
        "move_mount_beneath",
        "6.5",
        _known(lambda: _move_mount(syscalls.MOVE_MOUNT_BENEATH), errno.EBADF),
        "a copy gets beneath a dead mount by way of the mount under both",
        needs="move_mount",
    ),
    Facility(
        "openat2",
        "5.6",
        _known(lambda: syscalls.openat2(_NOWHERE, ".", os.O_PATH, 0), errno.EBADF),
        "paths are walked step by step",
    ),
    Facility("statx_mnt_id", "5.8", _statx_mnt_id, "mounts are told apart by fdinfo"),
    Facility(
        "statx_mnt_id_unique",
        "6.8",
        _statx_mnt_id_unique,
        "each publish reads the mount table",
        "a publish takes longer on nodes with thousands of mounts",
    ),
    Facility(
        "statmount",
        "6.8",
        _known(lambda: syscalls.statmount(0), errno.EINVAL, errno.ENOENT),
        "a heal reads the whole mount table first",
        "a heal takes longer on nodes with thousands of mounts",
    ),
    Facility("fanotify_mnt", "6.15", _fanotify_mnt, "mounts are noticed by poll(2)"),
    Facility(
        "pidfd_open",
        "5.3",
        _pidfd_open,
        "exits of daemons are noticed by process events",
        "without those either, a crash is noticed at the next tick",
    ),
    Facility(
        "pidfd_getfd",
        "5.6",
        _known(lambda: syscalls.pidfd_getfd(_NOWHERE, 0), errno.EBADF),
        "the connections of dead daemons are not held",
        "with SeamlessRecovery too, applications see a crash",
    ),
    Facility("fsopen", "5.2", _fsopen, "fusectl is mounted in a namespace that nobody sees"),
    _by_release(
        "fuse_connection",
        "6.16",
        "every process with /dev/fuse open counts as a daemon of each volume",
        "the exit of one daemon wakes the recovery of all volumes, and SeamlessRecovery keeps the "
        "connection of a daemon only where its mount namespace has no other FUSE mount",
    ),
    _by_release(
        "fuse_resend",
        "6.9",
        "what a dead daemon had read is ended by ESTALE, after which paths are walked again",
        "with SeamlessRecovery too a read of an open file that was under way at a crash may fail",
    ),
)
_BY_NAME = {facility.name: facility for facility in TABLE}


@functools.cache
def lack(name: str) -> OSError | None:
    """Return with which error a facility failed its trial, None if it is there."""
    try:
        _BY_NAME[name].trial()
    except OSError as error:
        return error.with_traceback(None)  # it would keep what its frames hold
    return None


def has(name: str) -> bool:
    """Return whether a facility is there."""
    return lack(name) is None
