"""The system calls alone, told beforehand what to do: the floor under every plugin.

A process that obeys lines of JSON and answers each with the ms that the calls took.  For each
generation of a source there is an anchor: a read-only copy of its mount in a peer group of its own.
Targets are slaves of the anchor that is the newest when they are published, and a mount on an
anchor reaches all that hangs off it.  Private copies in containers are visited, one by one.
"""

import os
import select
import time
from collections.abc import Callable
from pathlib import Path

from csi_fluid.testbed import programs
from recover.linux import syscalls
from tests.bench import wire
from tests.bench.machine import PLACE

_ANCHORS = Path("/bench/anchors")
_CLONE = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC
_BENEATH = syscalls.MOVE_MOUNT_F_EMPTY_PATH | syscalls.MOVE_MOUNT_BENEATH
_FORCED = syscalls.AT_STATX_FORCE_SYNC


def _clone(source: str, *propagation: int, read_only: bool = False) -> int:
    fd = syscalls.open_tree(syscalls.AT_FDCWD, source, _CLONE)
    flags = syscalls.MOUNT_ATTR_RDONLY if read_only else 0
    for kind in propagation:
        syscalls.mount_setattr(fd, attr_set=flags, attr_clr=0, propagation=kind)
    return fd


def _attach(fd: int, path: str, flags: int = syscalls.MOVE_MOUNT_F_EMPTY_PATH) -> None:
    syscalls.move_mount(fd, "", syscalls.AT_FDCWD, path, flags)
    os.close(fd)


class Bare:
    """Publishes and heals one source; its anchors are in a private folder of the node."""

    def __init__(self) -> None:
        _ANCHORS.mkdir()
        programs.run("mount", "-t", "tmpfs", "--make-private", "anchors", _ANCHORS)
        self._anchors: list[str] = []  # the oldest first
        self._home = os.open("/proc/self/ns/mnt", os.O_RDONLY)
        self._proc = os.open("/proc", os.O_PATH)  # inside a container the path leads elsewhere

    def publish(self, source: str, target: str) -> None:
        """Bind the newest anchor, which the first publish makes."""
        if not self._anchors:
            self._add_anchor(source)
        os.mkdir(target, 0o750)
        _attach(_clone(self._anchors[-1], syscalls.MS_SLAVE, syscalls.MS_SHARED), target)

    def unpublish(self, target: str) -> None:
        """Unmount and remove the directory."""
        syscalls.umount2(target, syscalls.MNT_DETACH)
        os.rmdir(target)

    def heal(self, source: str, containers: list[int]) -> None:
        """Bare every anchor of what is dead on it, bring the source to all, visit these containers.

        The newest anchor has nothing on it.
        """
        for path in self._anchors[:-1]:
            syscalls.umount2(path, syscalls.MNT_DETACH)
        self._add_anchor(source)
        *older, live = self._anchors
        for path in older:
            _attach(_clone(live), path)
        self._visit(live, containers)

    def _add_anchor(self, source: str) -> None:
        path = _ANCHORS / str(len(self._anchors))
        path.mkdir()
        fd = _clone(source, syscalls.MS_PRIVATE, syscalls.MS_SHARED, read_only=True)
        _attach(fd, str(path))
        self._anchors.append(str(path))

    def _visit(self, live: str, containers: list[int]) -> None:
        clones = [_clone(live, syscalls.MS_PRIVATE) for _ in containers]
        for fd, pid in zip(clones, containers, strict=True):
            namespace = os.open(f"{pid}/ns/mnt", os.O_RDONLY, dir_fd=self._proc)
            syscalls.setns(namespace, syscalls.CLONE_NEWNS)
            os.close(namespace)
            _attach(fd, PLACE, _BENEATH)
            syscalls.umount2(PLACE, syscalls.MNT_DETACH)
        syscalls.setns(self._home, syscalls.CLONE_NEWNS)


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
    bare = Bare()
    acts: dict[str, Callable[..., None]] = {
        "publish": bare.publish,
        "unpublish": bare.unpublish,
        "heal": bare.heal,
    }
    for order in wire.orders():
        act = order.pop("do")
        if act == "heal":
            _await(order["source"])
        began = time.monotonic()
        acts[act](**order)
        wire.answer(ms=(time.monotonic() - began) * 1e3)


if __name__ == "__main__":
    main()
