"""A mount namespace that nobody sees, for the length of one call.

It is a copy of the caller's, private throughout, on a thread that ends with the call; what is
mounted in it is seen nowhere else and goes with it, also when the process is killed.
"""

import os
import threading
from collections.abc import Callable
from typing import TypeVar

from recover.linux import procself, syscalls
from recover.linux.procself import closing

T = TypeVar("T")

_EMPTY = syscalls.MOVE_MOUNT_F_EMPTY_PATH | syscalls.MOVE_MOUNT_T_EMPTY_PATH
_COPY = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | syscalls.AT_EMPTY_PATH


def run(func: Callable[[], T]) -> T:
    """Return func(), run in such a namespace; raises what it raises, OSError without the right."""

    def enter() -> None:
        syscalls.unshare(syscalls.CLONE_FS | syscalls.CLONE_NEWNS)
        syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)

    return _on_a_thread(enter, func)


def run_at_home(func: Callable[[], T]) -> T:
    """Return func(), run in the mount namespace of this process, also from within a visit."""

    def enter() -> None:
        syscalls.unshare(syscalls.CLONE_FS)
        with closing(procself.open_namespace()) as home:
            syscalls.setns(home, syscalls.CLONE_NEWNS)

    return func() if procself.is_home() else _on_a_thread(enter, func)


def _on_a_thread(enter: Callable[[], None], func: Callable[[], T]) -> T:
    outcome: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            enter()
            outcome.append(func())
        except BaseException as error:  # noqa: BLE001  raised below
            errors.append(error)

    thread = threading.Thread(target=work, name="workshop", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return outcome[0]


def stand(copy: int) -> None:
    """Let a detached mount stand somewhere in this namespace; raises OSError."""
    with closing(_place_for(copy)) as place:
        syscalls.move_mount(copy, "", place, "", _EMPTY)


def _place_for(copy: int) -> int:
    try:
        os.close(os.open(procself.path(copy), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    except NotADirectoryError:
        with closing(bench("tmpfs")) as folder:
            return os.open("file", os.O_CREAT | os.O_CLOEXEC, dir_fd=folder)
    return os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def bench(fs_type: str) -> int:
    """Mount a file system in this namespace; return a descriptor of its root."""
    syscalls.mount(fs_type, "/", fs_type, 0)
    return os.open("/..", os.O_PATH | os.O_CLOEXEC)  # what stands on the root itself


def changed(copy: int, change: Callable[[int], None]) -> int:
    """Return a detached copy of a detached mount as a change leaves it that needs one that stands.

    The caller owns both descriptors.
    """

    def work() -> int:
        stand(copy)
        change(copy)
        return syscalls.open_tree(copy, "", _COPY)

    return run(work)
