"""One mount point of a FUSE sidecar, seen from a container beside it, from broken to healed.

Nothing of the application can be seen or entered from here.  What reaches it is what the kernel
passes on: see `anchor`.  A pass looks at the mount point and does what is to be done now; each
starts from what the mount table shows, so a pass may be cut off anywhere and a new agent goes on.

The dead mount is taken off the mount point at once: a restarted client that refuses a dead one, or
unmounts it first, or would mount on top of it, then finds the same empty directory on the host, and
the application, whose copy hangs off the anchor alone, never sees that directory.
"""

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from recover import events, policy
from recover.anchors import anchor as anchors
from recover.anchors.anchor import Anchor
from recover.errors import Covered, Error
from recover.events import Observer
from recover.lease import Lease
from recover.linux import namespaces
from recover.linux.mountinfo import Mount
from recover.linux.probe import Answer, Prober
from recover.outage import Outage, State
from recover.policy import Backoff
from recover.rows import Method, Publication
from recover.serverless import place as places
from recover.serverless.deliver import Deliverer, Delivery
from recover.serverless.place import Place
from recover.serverless.snapshot import Looker, Snapshot

STRATEGY = "anchor"
_STAND_BACK_S = 1.0  # between two looks whether the node plugin still heals
_TURN_S = 0.5  # other agents change a shared mount point within milliseconds
_TAKEN_S = 5.0  # a pod that ends unmounts too, and says so to its agent within that time
_NODE_S = 0.05

_UNSHARED = (
    "it is not shared with the node: give this container the directory of the mount point "
    "with mountPropagation: Bidirectional, as the FUSE sidecar has it"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """What to guard: the mount point in this container and its path on the host ("" if unknown).

    read_only tells that a container mounts it read-only, so that whatever the FUSE daemon allows
    it is healed read-only.
    """

    mount_point: str
    host_path: str = ""
    read_only: bool = False


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
        """Take what to guard; pod, unique on the node, names the anchors for the next agent."""
        self.target = target
        self.place = Place(target.mount_point, pod)
        self.live = ""  # the superblock that answered last
        self._stands_back = False
        self._prober = prober
        self._observer = observer
        self._recover_writable = recover_writable
        self._period_s = period_s
        self._looker = Looker(self.place, prober)
        self._deliverer = Deliverer(self._visit)
        self._home = namespaces.home()
        self._turn = Lease(self.place.turn, wait_s=_TURN_S)
        self._node = Lease(self.place.node, wait_s=_NODE_S)
        self._backoff = Backoff()
        self._outage = Outage(target.mount_point, observer)
        self._taken_since: float | None = None
        self._seen = 0  # version of our mount table when all was well
        self._publication = Publication(
            target=target.host_path or target.mount_point,
            volume_id="",
            source=target.mount_point,
            method=Method.SIDECAR,
            read_only=target.read_only,
            pod_uid=pod,
        )

    @property
    def publications(self) -> tuple[Publication, ...]:
        """Return what this guards in the words of the observers."""
        return (self._publication,)

    def run(self) -> float:
        """Do what is to be done now and return in how many seconds to look again.

        Raises OSError where the directory of the mount point cannot be written to, Covered where
        another agent or the client was faster.
        """
        version = self._looker.version
        if version == self._seen and self._looker.answers(self.live):
            return self._period_s
        snapshot = self._looker.look()
        live = snapshot.live
        if live is None:
            return self._away(snapshot)
        if self._refused(live):
            self._seen = version
            return self._period_s
        wait_s = self._back(snapshot, live)
        if wait_s is None and not snapshot.lower:  # a covered mount may die without an event
            self._seen = version  # what changed meanwhile, by us as well, makes one more look
        return self._period_s if wait_s is None else wait_s

    def release(self, deadline: float, pause: Callable[[float], object]) -> None:
        """Take everything off the host because the pod is being deleted.

        As long as the FUSE daemon serves, the application may be at work, so this waits for its
        end, at the longest until the deadline in monotonic seconds.  Raises what kept an anchor
        from being removed, after having tried the others.
        """
        while time.monotonic() < deadline and self._looker.look().live is not None:
            pause(0.1)
        errors: list[Error | OSError] = []
        with self._turn.hold():
            snapshot = self._looker.look()
            acts = [functools.partial(anchors.remove, anchor) for anchor in snapshot.anchors]
            if snapshot.dead is not None:
                acts.insert(0, functools.partial(places.clear, snapshot.dead))
            for act in acts:
                try:
                    self._visit(act)
                except (Error, OSError) as error:
                    errors.append(error)
        self.place.remove()
        if errors:
            raise errors[0]

    def close(self) -> None:
        """Release what is held in this process; the anchors stay on the host."""
        self._looker.close()
        self._deliverer.close()

    def _visit(self, act: Callable[[int], object]) -> None:
        key = "guard", self.target.mount_point
        namespaces.visit(self._home, act, self._prober, key=key)

    @contextlib.contextmanager
    def _alone(self, snapshot: Snapshot) -> Iterator[None]:
        """Keep the other agents from changing anything; Covered if what was seen is no longer so.

        What one of them did meanwhile may look the same: the kernel gives away a mount id again at
        once.  Taking a mount of the new state for one of the old could take the live one away.
        """
        with self._turn.hold() as mine:
            if not mine or not snapshot.holds(self._looker.look()):
                raise Covered(f"{self._source}: somebody else changes it just now")
            yield

    # -- while the source is away ----------------------------------------------------------------

    def _away(self, snapshot: Snapshot) -> float:
        if snapshot.reply.answer is Answer.HUNG:
            self._outage.hangs(self.publications)
            return self._period_s
        if snapshot.top is None and (anchor := self._looker.living(snapshot)) is not None:
            return self._taken_away(snapshot, anchor)
        self._taken_since = None
        is_known = self.live or snapshot.anchors or snapshot.top is not None
        dead = snapshot.dead
        if is_known and (snapshot.top is None or dead is not None):
            self._outage.breaks(self.publications)
        if dead is None or self._refused(dead):
            return self._period_s
        self._anchor(snapshot, dead)
        with self._alone(snapshot):
            self._visit(functools.partial(places.clear, dead))
        return 0.0

    def _taken_away(self, snapshot: Snapshot, anchor: Anchor) -> float:
        """Put a mount back that somebody unmounted although its daemon lives.

        Of pods that share a host path each unmounts what is topmost there when it ends.  The
        applications go on, but a container that is restarted would find an empty directory.
        """
        now = time.monotonic()
        self._taken_since = self._taken_since or now
        if now - self._taken_since < _TAKEN_S or self.place.leaving.exists():
            return self._period_s
        with self._alone(snapshot):
            self._visit(functools.partial(places.put_back, anchor, self.target.mount_point))
        _log.warning(
            "%s had been unmounted although its FUSE daemon lives: mounted again", self._source
        )
        return 0.0

    def _refused(self, mount: Mount) -> bool:
        """Return whether a mount must be left alone, and say so once."""
        is_read_only = mount.read_only or mount.superblock_read_only or self.target.read_only
        self._publication = replace(self._publication, read_only=is_read_only)
        reason = policy.refusal(
            copy_read_only=is_read_only,
            publications=self.publications,
            recover_writable=self._recover_writable,
        )
        if reason is not None and self.live not in {"", mount.dev}:
            # another daemon serves; that the last one ended was not seen
            self._outage.breaks(self.publications)
        # A policy is told when it matters, a wrong configuration at once.
        if reason is not None and self._outage.state is State.BROKEN:
            self._skip(self._source, reason)
        if reason is None and not mount.shared:
            reason = _UNSHARED
            self._skip(self._source, reason)
        if reason is not None:
            self.live = mount.dev
        return reason is not None

    def _skip(self, where: str, reason: str) -> None:
        skipped = events.Skipped(self._source, self.publications, where, reason)
        self._outage.complain_of(where, skipped)

    # -- when it is back -------------------------------------------------------------------------

    def _back(self, snapshot: Snapshot, live: Mount) -> float | None:
        """Bring a live mount to every anchor; None when all is well, else the seconds to wait."""
        if live.dev != self.live:
            self._backoff.reset()
        self.live = live.dev
        self._taken_since = None
        try:
            self._anchor(snapshot, live)
        except OSError:  # a full disk, say: what hangs off the anchors that are there can be healed
            self._heal(snapshot, live)
            raise
        if dead := self._dead_beneath(snapshot):
            return self._flatten(snapshot, dead, live)
        return self._heal(snapshot, live)

    def _heal(self, snapshot: Snapshot, live: Mount) -> float | None:
        behind = snapshot.behind(live)
        if not behind:
            self._well()
            return None
        with self._node.hold() as mine:
            self._stand_back(is_wanted=not mine)
            if not mine:
                return _STAND_BACK_S
            with self._alone(snapshot):
                delivery = self._deliverer.deliver(behind, live, read_only=self.target.read_only)
        return self._conclude(snapshot, delivery)

    def _stand_back(self, *, is_wanted: bool) -> None:
        """Take note that the node plugin heals, or no longer does; say so once."""
        if is_wanted:
            self._outage.answers(self.publications)
        if is_wanted != self._stands_back:
            self._stands_back = is_wanted
            who = "the node plugin heals" if is_wanted else "this agent heals again"
            _log.info("%s the containers of %s", who, self._source)

    def _dead_beneath(self, snapshot: Snapshot) -> tuple[Mount, ...]:
        """Return the dead mounts right beneath the topmost; below may be another pod's live one."""
        self._looker.uncover(snapshot)
        alive = [not (mount.is_fuse and self._looker.is_dead(mount)) for mount in snapshot.lower]
        above = len(alive) - alive[::-1].index(True) if True in alive else 0
        return snapshot.lower[above:]

    def _flatten(self, snapshot: Snapshot, dead: tuple[Mount, ...], live: Mount) -> float:
        """Make one layer of a live mount that a client put on top of dead ones.

        As long as it stands there, the applications hang off the live mount through the dead one,
        and one more layer would be added by each crash.  A dead mount that was never seen on top
        gets its anchor on the way: a container may have been started while it lived.  The live one
        has its own by now: should this process be killed meanwhile, the daemon does not end.
        """
        stack = (*dead, live)
        anchored = {anchor.base.shared for anchor in snapshot.anchors}
        with self._alone(snapshot):
            # what may fail, on a full disk, comes before anything is touched
            reserved = {m: places.reserve(self.place) for m in dead if m.shared not in anchored}
            self._visit(functools.partial(places.flatten, stack, reserved))
        return 0.0

    def _anchor(self, snapshot: Snapshot, mount: Mount) -> None:
        """Have an anchor in the peer group of the mount, and a descriptor of its superblock."""
        self._looker.remember(mount)
        if not any(anchor.base.shared == mount.shared for anchor in snapshot.anchors):
            path = places.reserve(self.place)
            self._visit(functools.partial(places.bind, mount, path))
            self._bound(snapshot.anchors)
        self._looker.forget((mount, *snapshot.lower))

    def _bound(self, found: tuple[Anchor, ...]) -> None:
        """Give up the second oldest anchor where there are too many.

        The oldest is that of the pod's start, on which most containers hang.
        """
        if len(found) >= policy.KEPT_ANCHORS:
            self._visit(functools.partial(anchors.remove, found[1]))
            self._skip(str(self.place.folder), policy.SURPLUS)

    # -- telling ---------------------------------------------------------------------------------

    def _conclude(self, snapshot: Snapshot, delivery: Delivery) -> float:
        if delivery.layers and not delivery.failed:
            self._observer.tell(
                events.Healed(
                    self._source,
                    self.publications,
                    STRATEGY,
                    len(delivery.layers),
                    max(delivery.layers),
                    delivery.last_at - snapshot.answered_at,
                    self._outage.lasted_s(delivery.last_at),
                )
            )
            self._outage.ends()
        wait_s = self._backoff.wait_s() if delivery.failed else 0.0
        for where, error in delivery.failed.items():
            failed = events.HealFailed(self._source, self.publications, where, error, wait_s)
            self._outage.complain_of(where, failed)
        self._outage.settle({anchor.path for anchor in snapshot.anchors} - delivery.failed.keys())
        return wait_s

    def _well(self) -> None:
        self._outage.answers(self.publications)
        self._backoff.reset()
        self._outage.settle([self._source])

    @property
    def _source(self) -> str:
        return self.target.mount_point
