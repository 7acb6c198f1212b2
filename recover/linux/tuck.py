"""Put a copy beneath a mount, on kernels without MOVE_MOUNT_BENEATH (Linux 4.11 to 6.4).

What is mounted on one peer is passed on by the kernel to the others, and there it slips beneath
what stands at the place already.  So a peer of the mount on which the dead one stands is made where
nobody sees it, and the copy is mounted on that.  Needs the thread context of a visit.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator

from recover.linux import attributes, mountinfo, procself, resolve, syscalls, workshop
from recover.linux.mountinfo import Mount
from recover.linux.procself import closing

_COPY = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | syscalls.AT_EMPTY_PATH
_EMPTY = syscalls.MOVE_MOUNT_F_EMPTY_PATH | syscalls.MOVE_MOUNT_T_EMPTY_PATH


PassOn = Callable[[int, str], None]
"""Mounts a copy on a name in a peer of a folder's mount, which then is no peer any more."""


def beneath(pass_on: PassOn, dead: Mount, root_fd: int) -> int:
    """Put a copy beneath a mount; return its id if it is shared only by that, else 0.

    Raises OSError, EINVAL where this cannot be done.
    """
    parent = mountinfo.here().by_id.get(dead.parent_id)
    if parent is None or procself.is_locked():
        raise _impossible(dead.mount_point)
    above, name = os.path.split(dead.mount_point)
    with _opened(above, parent, root_fd) as folder, _shared(parent, root_fd):
        pass_on(folder, name)
        below = _between(dead, parent)
    return 0 if parent.shared else below


def of_detached(copy_fd: int, fill: Callable[[], object] | None) -> PassOn:
    """Return how a detached copy is passed on; fill attaches what it takes only when it stands."""

    def pass_on(folder: int, name: str) -> None:
        with closing(syscalls.open_tree(folder, "", _COPY)) as peer:
            workshop.run(lambda: _mount_on(copy_fd, peer, name, fill))

    return pass_on


def _mount_on(copy_fd: int, peer: int, name: str, fill: Callable[[], object] | None) -> None:
    with closing(_filled(copy_fd, fill) if fill else os.dup(copy_fd)) as copy:
        workshop.stand(peer)
        with closing(open_place(peer, name)) as place:
            syscalls.move_mount(copy, "", place, "", _EMPTY)
    # Nobody's peer any more: what is made a slave or private again must not hang off this one.
    attributes.set_propagation(peer, "private", recursive=True)


def open_place(peer: int, name: str) -> int:
    """Return the place of that name in a peer itself; raises OSError."""
    rules = resolve.NO_LINKS | syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_XDEV
    return resolve.open_at(peer, name, rules)


def _filled(copy_fd: int, fill: Callable[[], object]) -> int:
    """Return the copy with what is put inside it, which it takes only while it stands somewhere."""
    workshop.stand(copy_fd)
    fill()
    return syscalls.open_tree(copy_fd, "", _COPY | syscalls.AT_RECURSIVE)


@contextlib.contextmanager
def _shared(mount: Mount, root_fd: int) -> Iterator[None]:
    """Have a mount shared for the length of a block: no other has peers."""
    if mount.shared:
        yield
        return
    with _opened(mount.mount_point, mount, root_fd) as fd:
        attributes.set_propagation(fd, "slave-shared")
        try:
            yield
        finally:
            attributes.set_propagation(fd, "slave" if mount.master else "private")


@contextlib.contextmanager
def _opened(path: str, expected: Mount, root_fd: int) -> Iterator[int]:
    with closing(resolve.open_path(path, root_fd)) as fd:
        if mountinfo.mount_id(fd) != expected.mnt_id:
            raise _impossible(path)
        yield fd


def _between(dead: Mount, parent: Mount) -> int:
    now = mountinfo.here().by_id
    below = now.get(now[dead.mnt_id].parent_id) if dead.mnt_id in now else None
    if below is None or below.parent_id != parent.mnt_id:
        raise _impossible(dead.mount_point)
    return below.mnt_id


def _impossible(path: str) -> OSError:
    return OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
