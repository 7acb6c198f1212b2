"""Processes that heal a node and die while they do; test_heal_killed.py runs them.

Arguments: the state file, kubelet's directory, MOUNT_ROOT.  Each is given a number (dying.bear),
starts recovery, says "broken" and "healed".  From "broken" on it counts each change of a mount or
of the state file, and kills itself just before the one of that number.
"""

import sys
import threading
from pathlib import Path

from csi_fluid.kubelet import Kubelet
from csi_fluid.mountroot import MountRoot
from recover import events, loop
from recover.layout import Layout
from recover.linux.probe import Prober
from recover.parts import Parts
from recover.store import Store
from tests.privileged.dying import Fate, bear, let_die, say


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


def live(number: int) -> None:
    """Live and die."""
    state, kubelet, mount_root = sys.argv[1:]
    fate = Fate(number)
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
    bear(live)
