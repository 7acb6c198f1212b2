"""One mount point of a FUSE sidecar, seen from a container beside it, from broken to healed.

Nothing of the application can be seen or entered from here.  What reaches it is what the kernel
passes on: see `anchor`.  A pass looks at the mount point and does what is to be done now; each
starts from what the mount table shows, so a pass may be cut off anywhere and a new agent goes on.

The dead mount is taken off the mount point at once: a restarted client that refuses a dead one, or
unmounts it first, or would mount on top of it, then finds the same empty directory on the host, and
the application, whose copy hangs off the anchor alone, never sees that directory.
"""

import functools
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from recover import anchor as anchors, observer as told, policy
from recover.anchor import Anchor, Place
from recover.errors import Error, Unverified
from recover.lease import Lease
from recover.linux import mounts, namespaces, probe
from recover.linux.mountinfo import Mount
from recover.linux.owntable import OwnTable
from recover.linux.probe import Answer, Prober, Reply
from recover.observer import Observer
from recover.policy import Backoff
from recover.rows import Publication

STRATEGY = "anchor"
_STAND_BACK_S = 1.0  # between two looks whether the node plugin still heals
_TURN_S = 0.5  # other agents change a shared mount point within milliseconds
_NODE_S = 0.05
_KEPT = 256  # anchors; from the generation of each a container may have been started

_ERRORS = (Error, OSError)


@dataclass(frozen=True, slots=True)
class Target:
    """What to guard: the mount point in this container and its path on the host ("" if unknown).

    read_only tells that a container mounts it read-only, so that whatever the FUSE daemon allows
    it is healed read-only.
    """

    mount_point: str
    host_path: str = ""
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class _Sight:
    """What one look showed; live is the answering FUSE mount at the mount point, if there is one.

    lower are the mounts beneath the topmost, the lowest first.
    """

    reply: Reply
    top: Mount | None
    lower: tuple[Mount, ...]
    anchors: tuple[Anchor, ...]
    answered_at: float

    @property
    def live(self) -> Mount | None:
        if self.top is not None and self.reply.alive and self.reply.dev == self.top.dev:
            return self.top
        return None

    def behind(self, live: Mount) -> tuple[Anchor, ...]:
        """Return the anchors whose applications do not see the live mount."""
        beneath = {mount.shared for mount in self.lower} - {0}
        return tuple(
            a
            for a in self.anchors
            if a.top.dev != live.dev
            # to unmount there would unmount the live one, which stands on a peer
            and not any(mount.shared in beneath for mount in a.stack[:-1])
        )


@dataclass(slots=True)
class _Tally:
    layers: list[int] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    last_at: float = 0.0


class Guard:
    """Keeps the applications of one mount point alive; run by one thread at a time."""

    def __init__(
        self,
        target: Target,
        pod: str,
        prober: Prober,
        observer: Observer,
        *,
        recover_writable: bool = False,
        period_s: float = 1.0,
    ) -> None:
        """Take what to guard; pod names the anchors, so that a restarted agent finds them."""
        self.target = target
        self.place = Place(target.mount_point, pod)
        self.live = ""  # the superblock that answered last
        self.stands_back = False
        self._prober = prober
        self._observer = observer
        self._recover_writable = recover_writable
        self._period_s = period_s
        self._own = OwnTable()
        self._home = namespaces.home()
        self._turn = Lease(self.place.turn, wait_s=_TURN_S)
        self._node = Lease(self.place.node, wait_s=_NODE_S)
        self._backoff = Backoff()
        self._view = ""
        self._pins: dict[str, int] = {}  # a descriptor by which a covered superblock can be asked
        self._state = ""
        self._away_since: float | None = None
        self._seen = 0  # version of our mount table when all was well
        self._complaints: dict[str, str] = {}
        self._publication = Publication(
            target=target.host_path or target.mount_point,
            volume_id="",
            source=target.mount_point,
            method="sidecar",
            read_only=target.read_only,
            pod_name=pod,
        )

    @property
    def publications(self) -> tuple[Publication, ...]:
        """Return what this guards in the words of the observers."""
        return (self._publication,)

    def run(self) -> float:
        """Do what is to be done now and return in how many seconds to look again.

        Raises OSError where the directory of the mount point cannot be written to.
        """
        version = self._own.version
        if version == self._seen and self._is_still_well():
            return self._period_s
        sight = self._look()
        live = sight.live
        if live is None:
            return self._away(sight)
        if self._refused(live):
            self._seen = version
            return self._period_s
        wait_s = self._back(sight, live)
        if wait_s is None:
            self._seen = version  # what changed meanwhile, by us as well, makes one more look
        return self._period_s if wait_s is None else wait_s

    def release(self, deadline: float, pause: Callable[[float], object]) -> None:
        """Take everything off the host because the pod is being deleted.

        As long as the FUSE daemon serves, the application may be at work, so this waits for its
        end, at the longest until the deadline in monotonic seconds.
        """
        while time.monotonic() < deadline and self._look().live is not None:
            pause(0.1)
        sight = self._look()
        if sight.top is not None and sight.reply.answer is Answer.DEAD:
            self._visit(functools.partial(anchors.clear, sight.top))
        for anchor in sight.anchors:
            self._visit(functools.partial(anchors.remove, anchor))
        self.place.remove()

    def close(self) -> None:
        """Release what is held in this process; the anchors stay on the host."""
        for fd in self._pins.values():
            os.close(fd)
        self._pins.clear()
        self._own.close()
        if self._view:
            Path(self._view).rmdir()
            self._view = ""

    # -- looking ---------------------------------------------------------------------------------

    def _is_still_well(self) -> bool:
        reply = self._prober.ask(self.target.mount_point)
        return reply.alive and reply.dev == self.live

    def _look(self) -> _Sight:
        reply = self._prober.ask(self.target.mount_point)
        answered_at = time.monotonic()
        table = self._own.current()
        stack = table.stack(self.target.mount_point)
        top = stack[-1] if stack and stack[-1].is_fuse else None
        return _Sight(reply, top, stack[:-1], anchors.find(table, self.place), answered_at)

    def _visit(self, act: Callable[[int], object]) -> None:
        key = "guard", self.target.mount_point
        namespaces.visit(self._home, act, self._prober, key=key)

    def _is_dead(self, mount: Mount) -> bool:
        """Ask a covered mount's daemon, through the descriptor kept since it was on top."""
        fd = self._pins.get(mount.dev)
        if fd is None:
            return False
        try:
            reply = self._prober.run(("pin", mount.dev), lambda: probe.ask(fd))
        except Error:  # it hangs, so it is not dead
            return False
        return reply.answer is Answer.DEAD

    # -- while the source is away ----------------------------------------------------------------

    def _away(self, sight: _Sight) -> float:
        if sight.reply.answer is Answer.HUNG:
            if self._state != "hung":
                self._state = "hung"
                self._tell(told.Hung(self._source, self.publications, time.time()))
            return self._period_s
        is_known = self.live or sight.anchors or sight.top is not None
        if is_known and (sight.top is None or sight.reply.answer is Answer.DEAD):
            self._break()
        if sight.top is None or sight.reply.answer is not Answer.DEAD or self._refused(sight.top):
            return self._period_s
        self._anchor(sight, sight.top)
        with self._turn.hold() as mine:
            if mine:
                self._visit(functools.partial(anchors.clear, sight.top))
        return 0.0 if mine else self._period_s

    def _break(self) -> None:
        if self._state != "broken":
            self._state = "broken"
            self._away_since = self._away_since or time.monotonic()
            self._tell(told.Broken(self._source, self.publications, time.time()))

    def _refused(self, mount: Mount) -> bool:
        """Tell whether a mount must be left alone, and say so once."""
        is_read_only = mount.read_only or mount.superblock_read_only or self.target.read_only
        self._publication = replace(self._publication, read_only=is_read_only)
        reason = policy.refusal(
            copy_read_only=is_read_only,
            publications=self.publications,
            recover_writable=self._recover_writable,
        )
        if reason is None:
            self._complaints.pop("policy", None)
            return False
        if self.live not in {"", mount.dev}:  # another daemon serves: the last one's end was short
            self._break()
        # Told when it matters: something broke, and is left as it is.
        if self._state == "broken" and self._complaints.get("policy") != reason:
            self._complaints["policy"] = reason
            self._tell(told.Skipped(self._source, self.publications, self._source, reason))
        self.live = mount.dev
        return True

    # -- when it is back -------------------------------------------------------------------------

    def _back(self, sight: _Sight, live: Mount) -> float | None:
        """Bring a live mount to every anchor; None when all is well, else the seconds to wait."""
        if live.dev != self.live:
            self._backoff.reset()
        self.live = live.dev
        dead = tuple(mount for mount in sight.lower if mount.is_fuse and self._is_dead(mount))
        if dead and dead == sight.lower:
            return self._flatten(sight, live)
        self._anchor(sight, live)
        behind = sight.behind(live)
        if not behind:
            self._well()
            return None
        with self._node.hold() as mine:
            self.stands_back = not mine
            if not mine:
                return _STAND_BACK_S
            with self._turn.hold():
                tally = self._heal(behind, live)
        return self._conclude(sight, tally)

    def _flatten(self, sight: _Sight, live: Mount) -> float:
        """Make one layer of a live mount that a client put on top of the dead one.

        As long as it stands there, the applications hang off the live mount through the dead one,
        and one more layer would be added by each crash.
        """

        def swap(root_fd: int) -> None:
            with mounts.closing(anchors.take(live, read_only=False)) as fd:
                mounts.swap(fd, (*sight.lower, live), root_fd)

        with self._turn.hold() as mine:
            if not mine:
                return self._period_s
            self._visit(swap)
        return 0.0

    def _anchor(self, sight: _Sight, mount: Mount) -> None:
        """Have an anchor in the peer group of the mount, and a descriptor of its superblock."""
        if mount.dev not in self._pins:
            pin = functools.partial(mounts.pin, mount.mount_point, mount)
            self._pins[mount.dev] = self._prober.run(
                ("pin", mount.mount_point), pin, discard=os.close
            )
        if not any(anchor.base.shared == mount.shared for anchor in sight.anchors):
            self._visit(functools.partial(anchors.add, self.place, mount))
            self._bound(sight.anchors)
        kept = {mount.dev, *(m.dev for m in sight.lower)}
        for dev in self._pins.keys() - kept:
            os.close(self._pins.pop(dev))

    def _bound(self, found: tuple[Anchor, ...]) -> None:
        """Give up the second oldest anchor where there are too many.

        The oldest is that of the pod's start, on which most containers hang.
        """
        if len(found) < _KEPT:
            return
        self._visit(functools.partial(anchors.remove, found[1]))
        reason = (
            f"more than {_KEPT} FUSE daemons came and went; a container that was started during "
            "the life of an early one, other than the first, heals no more until it is restarted"
        )
        if self._complaints.get("bound") != reason:
            self._complaints["bound"] = reason
            self._tell(told.Skipped(self._source, self.publications, found[1].path, reason))

    def _heal(self, behind: tuple[Anchor, ...], live: Mount) -> _Tally:
        """Bare every anchor before the first is given the live mount: one may hang off another."""
        tally = _Tally()
        given_up = threading.Event()
        self._view = self._view or tempfile.mkdtemp(prefix="csi-fluid-view-")

        def act(root_fd: int) -> None:
            for anchor in behind:
                anchors.bare(anchor, root_fd)
            for anchor in behind:
                if not given_up.is_set():
                    self._bring(anchor, live, root_fd, tally)

        try:
            self._visit(act)
        except _ERRORS as error:
            given_up.set()
            tally.failed[self._source] = str(error)
        return tally

    def _bring(self, anchor: Anchor, live: Mount, root_fd: int, tally: _Tally) -> None:
        read_only = self.target.read_only or anchor.base.read_only
        try:
            layers = anchors.bring(anchor, live, self._view, root_fd, read_only=read_only)
            _verify(self._view, anchor, live, root_fd)
        except _ERRORS as error:
            tally.failed[anchor.path] = str(error)
        else:
            tally.layers.append(layers)
            tally.last_at = time.monotonic()
        finally:
            mounts.unmount_all(self._view)

    # -- telling ---------------------------------------------------------------------------------

    def _conclude(self, sight: _Sight, tally: _Tally) -> float:
        if tally.layers and not tally.failed:
            outage_s = tally.last_at - self._away_since if self._away_since else None
            self._tell(
                told.Healed(
                    self._source,
                    self.publications,
                    STRATEGY,
                    len(tally.layers),
                    max(tally.layers),
                    tally.last_at - sight.answered_at,
                    outage_s,
                )
            )
            self._state, self._away_since = "", None
        wait_s = self._backoff.wait_s() if tally.failed else 0.0
        for where, error in tally.failed.items():
            if self._complaints.get(where) != error:
                self._tell(told.HealFailed(self._source, self.publications, where, error, wait_s))
        self._complaints = dict(tally.failed)
        return wait_s

    def _well(self) -> None:
        if self._state:
            self._tell(told.Answering(self._source, self.publications))
        self._state, self._away_since = "", None
        self.stands_back = False
        self._backoff.reset()
        self._complaints.clear()

    @property
    def _source(self) -> str:
        return self.target.mount_point

    def _tell(self, event: told.Event) -> None:
        self._observer.tell(event)


def _verify(view: str, anchor: Anchor, live: Mount, root_fd: int) -> None:
    """Ask the daemon through what arrived where an application's copy would be."""
    with mounts.closing(mounts.open_path(view, root_fd)) as fd:
        reply = probe.ask(fd)
    if not reply.alive or reply.dev != live.dev:
        found = f"superblock {reply.dev}" if reply.alive else reply.answer.value
        raise Unverified(f"{anchor.path}: an application's copy shows {found}, not {live.dev}")
