"""A process that heals a node and dies while it does; test_heal_killed.py runs it.

Arguments: the state file, kubelet's directory, MOUNT_ROOT.  It says "loaded", reads a number from
its standard input, starts recovery, says "broken" and "healed".  From "broken" on it counts each
change of a mount or of the state file, and kills itself just before the one of that number.
"""

import itertools
import os
import sys
import threading
from pathlib import Path
from typing import Any

from csi_fluid.kubelet import Kubelet
from csi_fluid.mountroot import MountRoot
from recover import events, loop
from recover.layout import Layout
from recover.linux import syscalls
from recover.linux.probe import Prober
from recover.parts import Parts
from recover.store import Store

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


class Voice:
    """Says what recovery tells, and arms fate at the break."""

    def __init__(self, fate: Fate) -> None:
        self._fate = fate

    def tell(self, event: events.Event) -> None:
        """Say it."""
        if isinstance(event, events.Broken):
            self._fate.armed = True
            say("broken")
        if isinstance(event, events.Healed):
            say("healed")


class MortalStore(Store):
    """A state file whose every write may be the last thing that happens."""

    fate: Fate

    def _write(self) -> None:
        self.fate.strike()
        super()._write()
        self.fate.strike()


def main() -> None:
    """Live and die."""
    state, kubelet, mount_root = sys.argv[1:]
    say("loaded")
    fate = Fate(int(sys.stdin.readline()))
    let_die(fate)
    MortalStore.fate = fate
    store = MortalStore.open(Path(state))
    settings = loop.Settings(
        layout=Layout(Kubelet(kubelet), MountRoot(mount_root)),
        strategy="namespace",
        period_s=600.0,
    )
    parts = Parts.of(store, Prober(), Path(kubelet, "plugin"))
    loop.Recovery(parts, Voice(fate), settings).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
