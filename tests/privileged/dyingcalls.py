"""Processes that make a call of the plugin and die while they do; test_calls_killed.py runs them.

Arguments: the state file, kubelet's directory, MOUNT_ROOT.  Each is given the act, its target or
publication, and a number (dying.bear).  From the beginning of the act it counts each change of a
mount, of a directory and of the state file, and kills itself just before the one of that number.
"""

import functools
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from csi_fluid.kubelet import Kubelet
from csi_fluid.mountroot import MountRoot
from csi_fluid.volumes import publish, readiness, targets, unpublish
from recover.layout import Layout
from recover.linux import mountinfo
from recover.linux.probe import Prober
from recover.parts import Parts
from recover.reconcile import Reconciler
from recover.rows import Method, Publication
from recover.store import Store
from tests.privileged.dying import Fate, bear, let_die

FILES = {"os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.symlink"}  # audit events
READS = ("SELECT", "PRAGMA")


class MortalConnection(sqlite3.Connection):
    """A database each of whose statements may be the last thing that happens."""

    fate: Fate

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if not sql.lstrip().startswith(READS):
            self.fate.strike()
        return super().execute(sql, *parameters)


def let_all_die(fate: Fate) -> None:
    """Have the changes of directories and of the state file counted too."""
    let_die(fate)
    MortalConnection.fate = fate
    mortal = functools.partial(sqlite3.connect, factory=MortalConnection)
    setattr(sqlite3, "connect", mortal)  # noqa: B010  mypy would not let us change it
    sys.addaudithook(lambda event, _: fate.strike() if event in FILES else None)


class Calls:
    """The plugin's calls, without its server and without recovery."""

    def __init__(self, state: str, kubelet: str, mount_root: str) -> None:
        prober, self._claims = Prober(), targets.Claims()
        self._parts = Parts.of(Store.open(Path(state)), prober, Path(kubelet, "plugin"))
        self._sources = readiness.Sources(prober)
        self._pods = targets.Pods(kubelet)
        self._layout = Layout(Kubelet(kubelet), MountRoot(mount_root))

    def publish(self, row: dict[str, Any]) -> None:
        wanted = Publication(**{**row, "method": Method(row["method"])})
        patience = readiness.Patience(time.monotonic() + 20)
        publish.Publisher(self._parts, self._sources, self._claims, self.tell, self._pods).publish(
            wanted, patience
        )

    def unpublish(self, target: str) -> None:
        unpublish.Unpublisher(self._parts, self._claims, self.tell).unpublish(target)

    def reconcile(self, _: str) -> None:
        Reconciler(self._parts, self, self._layout).run(mountinfo.read())

    def tell(self, _: object) -> None:
        """Tell nobody."""


def live(name: str, given: Any, number: int) -> None:
    """Live and die."""
    fate = Fate(number)
    let_all_die(fate)
    act: Callable[[Any], None] = getattr(Calls(*sys.argv[1:]), name)
    fate.armed = True
    act(given)


if __name__ == "__main__":
    bear(live)
