"""Out of the control groups of our container: cgroups(7).

A container runtime freezes and removes the groups of a container that ends, and neither can be done
while a process is in them that cannot end.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from recover.linux import procself, syscalls
from recover.linux.procself import closing

# of the node, if we see its processes
_NODE = Path("/proc/1")
_TOP = Path(_NODE, "root", "sys/fs/cgroup")


def leave(pid: int) -> None:
    """Move a process to the root of each hierarchy, as far as they are to be had."""
    if not procself.is_home():  # in a visit /proc is a container's
        return
    with _namespace_of_node():
        for place in roots(_TOP):
            with contextlib.suppress(OSError):
                place.write_text(str(pid))


def roots(top: Path) -> list[Path]:
    """Return the files that move a process to the root of each hierarchy mounted below top.

    Of version 2 there is one, which is top itself; version 1 has a folder for each, of which some
    may be links, and a hybrid of systemd's the second version in one more.
    """
    try:
        of_all = top / "cgroup.procs"
        return [of_all] if of_all.exists() else sorted(top.glob("*/cgroup.procs"))
    except OSError:  # the node's are not to be had
        return []


@contextlib.contextmanager
def _namespace_of_node() -> Iterator[None]:
    """Be in the node's cgroup namespace for a block, if that may be entered.

    Where a container has one of its own (Docker, version 2) no process of it leaves it otherwise:
    cgroup_namespaces(7), and the mount option nsdelegate.
    """
    try:
        home = os.open("/proc/thread-self/ns/cgroup", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # no such namespaces in this kernel
        yield
        return
    with closing(home):
        with contextlib.suppress(OSError):
            node = os.open(_NODE / "ns/cgroup", os.O_RDONLY | os.O_CLOEXEC)
            with closing(node):
                syscalls.setns(node, syscalls.CLONE_NEWCGROUP)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                syscalls.setns(home, syscalls.CLONE_NEWCGROUP)
