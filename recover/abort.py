"""End the connections of daemons that have not answered for too long, where the operator said so.

Whoever waits in such a mount (kubelet cleaning up a subPath, for one) cannot be killed out of it;
aborting the connection makes all of them go on with an error, and the mount dead, to be healed
like any other when its daemon mounts again.  That throws away what a slow daemon may still have
answered, so it needs three proofs: the mount at a path of ours shows this superblock, one request
has waited the whole time, and a new one gets no answer either.
"""

import functools
import os
import time

from recover import events
from recover.errors import Crowded, Error, Unanswered
from recover.events import Observer
from recover.linux import fuse, mounts, probe
from recover.linux.mountinfo import Mount
from recover.linux.owntable import OwnTable
from recover.linux.probe import Answer, Prober
from recover.look import View

_SEND_S = 0.05  # for a request that is to be left waiting


class Aborter:
    """Watches the silent daemons of one source; used by one thread at a time."""

    def __init__(
        self, prober: Prober, own: OwnTable, observer: Observer, after_s: float | None
    ) -> None:
        """Take after how many seconds of silence a connection is aborted; None: never."""
        self._prober = prober
        self._own = own
        self._observer = observer
        self._after_s = after_s
        self._silent: dict[str, float] = {}  # superblock -> since when, monotonic
        self._complaint = ""

    def consider(self, view: View) -> float | None:
        """Abort what is due; return in how many seconds something is, None if nothing waits."""
        if self._after_s is None:
            return None
        hung = {dev for dev, answer in view.verdicts.items() if answer is Answer.HUNG}
        self._silent = {dev: at for dev, at in self._silent.items() if dev in hung}
        waits = [self._consider(view, dev, self._after_s) for dev in sorted(hung)]
        return min((wait for wait in waits if wait is not None), default=None)

    def _consider(self, view: View, dev: str, after_s: float) -> float | None:
        mount = self._mount_of(view, dev)
        if mount is None:
            return None
        since = self._silent.get(dev)
        if since is None or not self._prober.sleeps(_waiting(dev)):
            return after_s if self._begin(mount) else None
        left_s = since + after_s - time.monotonic()
        if left_s > 0:
            return left_s
        return self._abort(view, mount, time.monotonic() - since)

    def _mount_of(self, view: View, dev: str) -> Mount | None:
        """Return a mount of a superblock on the node that a path shows; None if there is none."""
        table = self._own.current()
        paths = (view.source, *(p.target for p in view.publications))
        tops = (table.at(path) for path in paths)
        return next((m for m in tops if m is not None and m.dev == dev and m.is_fuse), None)

    def _begin(self, mount: Mount) -> bool:
        """Leave a request waiting; False if it was answered or could not be sent."""
        self._silent.pop(mount.dev, None)
        try:
            pin = self._pin(mount)
        except (Error, OSError):
            return False
        ask = functools.partial(probe.ask_once, pin.fd)  # one: of several, each might just be
        try:
            self._prober.run(_waiting(mount.dev), ask, _SEND_S, release=pin.close)
        except Unanswered:
            self._silent[mount.dev] = time.monotonic()
            return True
        except (Crowded, OSError):
            return False
        return False

    def _pin(self, mount: Mount) -> mounts.Clone:
        """Return what keeps the superblock, and so its number; raises Error or OSError."""
        pin = functools.partial(mounts.pin, mount.mount_point, mount)
        return self._prober.run(("pin", mount.mount_point), pin, discard=mounts.Clone.close)

    def _abort(self, view: View, mount: Mount, silent_s: float) -> float | None:
        try:
            with self._pin(mount) as pin:
                if not self._is_silent(mount, pin.fd):
                    self._silent.pop(mount.dev, None)
                    return None
                write = functools.partial(fuse.abort, mount.dev)
                self._prober.run(("abort", mount.dev), write)
        except (Error, OSError) as error:
            return self._complain(view, str(error))
        self._silent.pop(mount.dev, None)
        self._complaint = ""
        self._observer.tell(events.Aborted(view.source, view.publications, mount.dev, silent_s))
        return 0.0  # the mount is dead now: look again

    def _is_silent(self, mount: Mount, fd: int) -> bool:
        """Ask once more, in full time; the copy keeps fd's superblock for as long as that takes."""
        copy = os.dup(fd)
        close = functools.partial(os.close, copy)
        try:
            self._prober.run(("again", mount.dev), lambda: probe.ask(copy), release=close)
        except Unanswered:
            return True
        return False

    def _complain(self, view: View, problem: str) -> float | None:
        if problem != self._complaint:
            self._complaint = problem
            self._observer.tell(events.AbortFailed(view.source, view.publications, problem))
        return self._after_s


def _waiting(dev: str) -> tuple[str, str]:
    return "silence", dev
