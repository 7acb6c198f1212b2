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
_INSIDE = resolve.NO_LINKS | syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_XDEV


def beneath(
    copy_fd: int, dead: Mount, root_fd: int, fill: Callable[[], object] | None = None
) -> int:
    """Put a detached copy beneath a mount; return its id if it is shared only by that, else 0.

    fill is called when mounts can be attached inside the copy, if there are such.  Raises OSError,
    EINVAL where this cannot be done.
    """
    parent = mountinfo.here().by_id.get(dead.parent_id)
    if parent is None or procself.is_locked():
        raise _impossible(dead.mount_point)
    above, name = os.path.split(dead.mount_point)
    with _opened(above, parent, root_fd) as folder, _shared(parent, root_fd):
        with closing(syscalls.open_tree(folder, "", _COPY)) as peer:
            workshop.run(lambda: _pass_on(copy_fd, peer, name, fill))
        below = _between(dead, parent)
    return 0 if parent.shared else below


def _pass_on(copy_fd: int, peer: int, name: str, fill: Callable[[], object] | None) -> None:
    with (
        closing(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as root,
        closing(_filled(copy_fd, root, fill) if fill else os.dup(copy_fd)) as copy,
    ):
        syscalls.move_mount(peer, "", root, "", _EMPTY)
        with closing(resolve.open_at(peer, name, _INSIDE)) as place:
            syscalls.move_mount(copy, "", place, "", _EMPTY)
    # Nobody's peer any more: what is made a slave or private again must not hang off this one.
    attributes.set_propagation(peer, "private", recursive=True)


def _filled(copy_fd: int, root: int, fill: Callable[[], object]) -> int:
    """Return the copy with what is put inside it, which it takes only while it stands somewhere."""
    syscalls.move_mount(copy_fd, "", root, "", _EMPTY)
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
