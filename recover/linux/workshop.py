"""A mount namespace that nobody sees, for the length of one call.

It is a copy of the caller's, private throughout, on a thread that ends with the call; what is
mounted in it is seen nowhere else and goes with it, also when the process is killed.
"""

import os
import threading
from collections.abc import Callable
from typing import TypeVar

from recover.linux import syscalls
from recover.linux.procself import closing

T = TypeVar("T")

_EMPTY = syscalls.MOVE_MOUNT_F_EMPTY_PATH | syscalls.MOVE_MOUNT_T_EMPTY_PATH
_COPY = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | syscalls.AT_EMPTY_PATH


def run(func: Callable[[], T]) -> T:
    """Return func(), run in such a namespace; raises what it raises, OSError without the right."""
    outcome: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            syscalls.unshare(syscalls.CLONE_FS | syscalls.CLONE_NEWNS)
            syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
            outcome.append(func())
        except BaseException as error:  # noqa: BLE001  raised below
            errors.append(error)

    thread = threading.Thread(target=work, name="workshop", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return outcome[0]


def changed(copy: int, change: Callable[[int], None]) -> int:
    """Return a detached copy of a detached mount as a change leaves it that needs an attached one.

    The caller owns both descriptors.
    """

    def work() -> int:
        with closing(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as root:
            syscalls.move_mount(copy, "", root, "", _EMPTY)
        change(copy)
        return syscalls.open_tree(copy, "", _COPY)

    return run(work)
