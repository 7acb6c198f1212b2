"""What processes share that die just before a change they would make: test_*_killed.py run them.

dyingcalls.py dies in a call of the plugin, dyingheal.py in a heal, dyingagent.py in an agent's.
"""

import itertools
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from recover.linux import syscalls

CHANGES = {
    "open_tree",
    "move_mount",
    "mount_setattr",
    "mount",
    "umount2",
    "setns",
}


def say(word: str) -> None:
    """Tell the test."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


class Fate:
    """Ends the process before its nth change."""

    def __init__(self, number: int, *, armed: bool = False) -> None:
        self.armed = armed
        self._number = number
        self._changes = itertools.count()

    def strike(self) -> None:
        """Count a change that is about to be made."""
        if self.armed and next(self._changes) == self._number:
            os._exit(137)  # as kill -9, to which the first process of a container is deaf


def let_die(fate: Fate) -> None:
    """Have this process counted among the mortals: each change of a mount may be its end."""
    call = syscalls._call

    def mortal_call(name: str, *args: Any) -> int:
        if name in CHANGES:
            fate.strike()
        return call(name, *args)

    setattr(syscalls, "_call", mortal_call)  # noqa: B010  mypy would not let us change it


def bear(live: Callable[..., None]) -> None:
    """Have a child live for each line of standard input, JSON of what it is given; say its end.

    A child is a fork of this process: none waits for an interpreter and its imports, which is most
    of the time of a test where the machine is emulated.
    """
    for line in sys.stdin:
        child = os.fork()  # noqa: TID251 -- no thread runs here
        if child == 0:
            say(f"alive {os.getpid()}")
            live(*json.loads(line))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        say(f"ended {os.waitstatus_to_exitcode(status)}")
