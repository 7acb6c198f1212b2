"""The system calls alone, told beforehand what to do: the floor under every plugin.

A process that obeys lines of JSON and answers each with the ms that the calls took.
"""

import os
import select
import time
from collections.abc import Callable

from recover.linux import syscalls
from tests.bench import wire
from tests.bench.machine import PLACE

_CLONE = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC
_BENEATH = syscalls.MOVE_MOUNT_F_EMPTY_PATH | syscalls.MOVE_MOUNT_BENEATH
_FORCED = syscalls.AT_STATX_FORCE_SYNC


def _clone(source: str, propagation: int) -> int:
    fd = syscalls.open_tree(syscalls.AT_FDCWD, source, _CLONE)
    syscalls.mount_setattr(
        fd, attr_set=syscalls.MOUNT_ATTR_RDONLY, attr_clr=0, propagation=propagation
    )
    return fd


def publish(source: str, target: str) -> None:
    """Bind the source read-only."""
    os.mkdir(target, 0o750)
    fd = _clone(source, syscalls.MS_PRIVATE)
    syscalls.move_mount(fd, "", syscalls.AT_FDCWD, target, syscalls.MOVE_MOUNT_F_EMPTY_PATH)
    os.close(fd)


def unpublish(target: str) -> None:
    """Unmount and remove the directory."""
    syscalls.umount2(target, syscalls.MNT_DETACH)
    os.rmdir(target)


def _swap(fd: int, path: str) -> None:
    syscalls.move_mount(fd, "", syscalls.AT_FDCWD, path, _BENEATH)
    syscalls.umount2(path, syscalls.MNT_DETACH)
    os.close(fd)


def heal(source: str, targets: list[str], containers: list[int], home: int, proc: int) -> None:
    """Swap every target, then every container's copy for a slave of its target.

    home is our own namespace, proc our own /proc: inside a container the path leads elsewhere.
    """
    for target in targets:
        _swap(_clone(source, syscalls.MS_PRIVATE), target)
    clones = [_clone(target, syscalls.MS_SLAVE) for target in targets]
    for fd, pid in zip(clones, containers, strict=True):
        namespace = os.open(f"{pid}/ns/mnt", os.O_RDONLY, dir_fd=proc)
        syscalls.setns(namespace, syscalls.CLONE_NEWNS)
        os.close(namespace)
        _swap(fd, PLACE)
    syscalls.setns(home, syscalls.CLONE_NEWNS)


def _await(source: str) -> None:
    """Return when a mount at the source answers."""
    plain = _dev(os.path.dirname(source))
    with open("/proc/self/mountinfo", "rb") as table:
        poll = select.poll()
        poll.register(table, select.POLLPRI | select.POLLERR)
        while _dev(source) == plain:
            poll.poll()


def _dev(path: str) -> str:
    return syscalls.statx(syscalls.AT_FDCWD, path, _FORCED, syscalls.STATX_TYPE).dev


def main() -> None:
    """Obey until the orders end."""
    syscalls.unshare(syscalls.CLONE_FS)
    home = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    proc = os.open("/proc", os.O_PATH)
    acts: dict[str, Callable[..., None]] = {
        "publish": publish,
        "unpublish": unpublish,
        "heal": heal,
    }
    for order in wire.orders():
        act = order.pop("do")
        if act == "heal":
            order |= {"home": home, "proc": proc}
            _await(order["source"])
        began = time.monotonic()
        acts[act](**order)
        wire.answer(ms=(time.monotonic() - began) * 1e3)


if __name__ == "__main__":
    main()
