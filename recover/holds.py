"""Which daemons' connections are held, so that a crash lets callers wait instead of fail.

The healer's side of `seamless`: it hands every live daemon to the holder, tells it when all mounts
show the newest, and keeps our own looks away from mounts that make whoever asks them wait.
`NoHolds` is the same with the gate off.
"""

import contextlib
import functools
import logging
import os
import threading
import time
from collections.abc import Iterable
from typing import Protocol

from recover.errors import Error
from recover.linux import facilities, fuse, mountinfo, mounts, namespaces, procself, syscalls
from recover.linux.mountinfo import Mount
from recover.linux.mounts import Attributes
from recover.linux.namespaces import Namespace
from recover.linux.owntable import OwnTable
from recover.linux.probe import Prober
from recover.rows import Publication
from recover.seamless.client import Client, Held, Status

_log = logging.getLogger(__name__)
_ASK_S = 30.0  # how often the holder is asked in the steady state, for its reader may have ended


class Holding(Protocol):
    """What a healer asks of holds; each may be asked for by the thread of any source."""

    def begin(self, source: str) -> frozenset[str]:
        """Clear the way to a source; return the superblocks of dead daemons that are held."""

    def is_kept(self, source: str, live: str) -> bool:
        """Tell whether nothing is left to do to keep the live daemon's connection."""

    def keep(self, source: str, live: str, publications: Iterable[Publication]) -> None:
        """Have callers wait when the live daemon ends; what keeps us from that is logged."""

    def swapped(self, source: str, live: str) -> None:
        """Say that every mount that could be swapped shows the live superblock."""

    def release(self, source: str) -> None:
        """Let go of a source that nobody uses."""

    def close(self) -> None:
        """Hang up; what is held stays held."""


class NoHolds:
    """Nothing is ever held."""

    def begin(self, _: str) -> frozenset[str]:
        """Return nothing."""
        return frozenset()

    def is_kept(self, _: str, __: str) -> bool:
        """Say that there is nothing to do."""
        return True

    def keep(self, _: str, __: str, ___: Iterable[Publication]) -> None:
        """Keep nothing."""

    def swapped(self, _: str, __: str) -> None:
        """Serve nobody."""

    def release(self, _: str) -> None:
        """Let nothing go."""

    def close(self) -> None:
        """Keep on holding nothing."""


class Holds:
    """Holds by the holder's process; one for all sources."""

    def __init__(self, client: Client, prober: Prober, own: OwnTable, hold_s: float) -> None:
        """Take the collaborators and the seconds for which callers are kept waiting."""
        self._client = client
        self._prober = prober
        self._own = own
        self._hold_s = hold_s
        self._lock = threading.Lock()
        self._status = Status({}, problem="not asked yet")
        self._asked_at = 0.0  # monotonic
        self._refused: dict[str, str] = {}  # source -> the superblock that may not be held
        self._told: dict[str, str] = {}  # source -> why it is not kept
        self._watched: dict[str, tuple[str, list[int]]] = {}  # -> superblock, its daemons' pidfds

    def begin(self, source: str) -> frozenset[str]:
        """Clear the way to a source; return the superblocks of dead daemons that are held.

        A look at a held mount waits, and so would the next daemon that finds one at its place.
        """
        with self._lock:
            if self._may_have_news():
                self._status, self._asked_at = self._client.ensured(), time.monotonic()
            dead = self._status.dead
        if dead:
            both = dict.fromkeys((namespaces.node(), namespaces.home()))
            is_bare = [self._clear(source, namespace, dead) for namespace in both]
            if all(is_bare) and (newest := self._held(source).newest) in dead:
                # The next daemon may have come too early, and wait by the dead mount for itself.
                with contextlib.suppress(OSError):  # a holder that is gone, or older
                    self._client.cleared(source, newest)
        return dead

    def _may_have_news(self) -> bool:
        """Tell whether the holder may say something else than it did: a run costs no question."""
        status = self._status
        for source in [
            s for s, (_, pidfds) in self._watched.items() if procself.is_readable(*pidfds)
        ]:
            self._unwatch(source)
        is_steady = status.has_reader and not status.dead and not self._client.is_hung_up
        kept = {source for source, held in status.sources.items() if held.connections}
        is_watched = kept <= self._watched.keys()
        return not (is_steady and is_watched) or time.monotonic() - self._asked_at >= _ASK_S

    def _watch(self, source: str, live: str, pids: Iterable[int]) -> None:
        """Learn of the end of a source's daemons by ourselves."""
        pidfds: list[int] = []
        with self._lock:
            self._unwatch(source)
            with contextlib.suppress(OSError):  # it has ended: so the holder is asked
                pidfds.extend(map(syscalls.pidfd_open, pids))
                if pidfds:
                    self._watched[source] = live, pidfds
                    return
        for fd in pidfds:
            os.close(fd)

    def _unwatch(self, source: str) -> None:
        _, pidfds = self._watched.pop(source, ("", []))
        for fd in pidfds:
            os.close(fd)

    def _clear(self, source: str, namespace: Namespace, dead: frozenset[str]) -> bool:
        """Detach what is held at a source's place, which leaves the connection as it is.

        True if nothing is mounted there now.
        Our own namespace may only receive mounts of the node's, where the next daemon mounts.
        """
        is_home = namespace == namespaces.home()
        for _ in range(len(dead) + 1):
            try:
                table = self._own.current() if is_home else mountinfo.read(namespace.pid)
                top = table.at(source)
                if top is None or top.dev not in dead:
                    return top is None
                if top.dev not in self._client.status().dead:
                    # It was over by then: the number is that of the next daemon's mount.
                    return False
                detach = functools.partial(_detach, source, top)
                namespaces.visit(namespace, detach, self._prober, key=("clear", source))
            except (Error, OSError):
                break  # somebody else was quicker, or the look that follows tells
        return False

    def status(self) -> Status:
        """Return what is held now."""
        return self._client.status()

    def _held(self, source: str) -> Held:
        return self._status.of(source)

    def is_kept(self, source: str, live: str) -> bool:
        """Tell whether nothing is left to do to keep the live daemon's connection."""
        if self._refused.get(source) == live:
            return True
        watched, _ = self._watched.get(source, ("", []))
        return watched == live and self._is_adopted(source, live)

    def _is_adopted(self, source: str, live: str) -> bool:
        held = self._held(source)
        return held.has_root and held.newest == live and held.connections.get(live) == "live"

    def keep(self, source: str, live: str, publications: Iterable[Publication]) -> None:
        """Have callers wait when the live daemon ends; what keeps us from that is logged."""
        if self.is_kept(source, live):
            return
        self._refused.pop(source, None)
        try:
            pids = fuse.daemons(live)
            if not self._is_adopted(source, live):
                self._adopt(source, live, pids, publications)
            self._watch(source, live, pids)
            self._told.pop(source, None)
        except (Error, OSError) as error:
            self._tell(source, str(error))
            if isinstance(error, PermissionError):  # of others the next look may find no trace
                self._refused[source] = live

    def _tell(self, source: str, why: str) -> None:
        """Say once why a source is not kept."""
        if self._told.get(source) != why:
            self._told[source] = why
            _log.warning("applications will see the next crash of %s: %s", source, why)
        with contextlib.suppress(OSError):  # no holder: `doctor` tells
            self._client.lack(source, why)
            self._status = self._client.status()

    def _adopt(
        self,
        source: str,
        live: str,
        pids: tuple[int, ...],
        publications: Iterable[Publication],
    ) -> None:
        rows = tuple(publications)
        if not all(p.read_only for p in rows):
            raise PermissionError("a writable volume is not held: what is written would be lost")
        if any(p.method == "sidecar" for p in rows):
            raise PermissionError("the volume of a serverless pod is not held")
        if not pids:
            raise PermissionError("its FUSE daemon is not in sight; set hostPID: true")
        if not facilities.has("fuse_connection"):
            pids = fuse.alone(live, pids, self._client.status().dead)
            if not pids:  # yet: those may go
                raise ProcessLookupError(
                    "before Linux 6.16 it is not told which process serves it, and in the mount "
                    "namespace of each that may there are other FUSE mounts"
                )
        take_root = functools.partial(_take_root, source, live)
        root = self._prober.run(("root", source), take_root, discard=os.close)
        with mounts.closing(root):
            self._client.adopt(source, live, pids, root, self._hold_s)
        self._status = self._client.status()

    def swapped(self, source: str, live: str) -> None:
        """Say that every mount that could be swapped shows the live superblock."""
        held = self._held(source)
        if held.newest == live and len(held.connections) > 1:
            try:
                self._client.serve(source, live)
            except OSError:
                return  # it has died meanwhile: the next run sees to that

    def release(self, source: str) -> None:
        """Let go of a source that nobody uses."""
        self._refused.pop(source, None)
        self._told.pop(source, None)
        with self._lock:
            self._unwatch(source)
        if source in self._status.sources:
            try:
                self._client.release(source)
            except OSError:
                return  # the holder is gone, and all that was held

    def close(self) -> None:
        """Hang up; what is held stays held."""
        self._client.close()
        with self._lock:
            for source in list(self._watched):
                self._unwatch(source)


def _detach(source: str, top: Mount, root_fd: int) -> None:
    with mounts.closing(mounts.open_exactly(source, top, root_fd)) as fd:
        mounts.detach(fd)


def _take_root(source: str, live: str) -> int:
    """Return an O_PATH descriptor of a copy of a mount that stands nowhere; asks nobody.

    It is for the reader to open: an open file of a FUSE mount may keep its owner from ending.
    """
    with mounts.clone(source, "", Attributes(), live) as copy:
        fd = os.dup(copy.fd)
    # A directory that is no superblock's root would make paths of numbers come out wrong.
    if syscalls.name_to_handle_at(fd).data[:8] != bytes((0, 0, 0, 0, 1, 0, 0, 0)):
        os.close(fd)
        raise PermissionError(f"{source} shows a part of its superblock only")
    return fd
