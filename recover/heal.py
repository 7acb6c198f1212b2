"""One source from broken to healed: look, plan, execute, look again, record, tell.

A `Healer` belongs to one source and is run by one thread at a time; another source's healer shares
nothing with it but the store, the prober's bound and the locks of targets, so a hung daemon delays
nobody else.  Every run starts from what the kernel shows, so runs may be cut off anywhere.

While a source is away its anchors are uncovered and the dead copies indexed; when it is back the
heal needs one answer of the new daemon and no look at any mount table.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from recover import events
from recover.abort import Aborter
from recover.anchors import plan as node
from recover.anchors.execute import Executor
from recover.anchors.keeper import Keeper
from recover.anchors.witness import Witness
from recover.batch import Done, Result
from recover.errors import Busy, Error
from recover.events import Observer
from recover.generations import Generations
from recover.holds import Holding, NoHolds
from recover.lease import Lease
from recover.linux import mounts, namespaces
from recover.linux.mountinfo import Mount
from recover.linux.owntable import OwnTable
from recover.linux.probe import Answer, Prober, Reply
from recover.locks import Locks
from recover.look import Looker, View
from recover.outage import Outage, State
from recover.parts import Parts
from recover.policy import Backoff, Strategy
from recover.rows import Heal
from recover.steps import Act, stages
from recover.store import Store
from recover.takedowns import Takedowns
from recover.tally import Tally
from recover.visits import execute as inside, plan as visits

_ROUNDS = 5  # looks after a heal: containers may start while we heal
_FRESH_S = 1.0  # between looks at every namespace for containers that may have started


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator may choose about a heal; lease is the file to take turns by, times in s."""

    strategy: Strategy
    recover_writable: bool = False
    lease: Path | None = None
    warning_threshold: int = 50
    hung_abort_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """What all healers share."""

    store: Store
    locks: Locks
    prober: Prober
    observer: Observer
    own: OwnTable
    looker: Looker
    keeper: Keeper
    strategy: Strategy
    lease: Lease
    warning_threshold: int = 50
    hung_abort_after_s: float | None = None
    holds: Holding = NoHolds()  # noqa: RUF009  without a state

    @classmethod
    def of(
        cls,
        parts: Parts,
        observer: Observer,
        own: OwnTable,
        options: Options,
        holds: Holding = NoHolds(),  # noqa: B008  without a state
    ) -> "Context":
        """Build it around what publishing and healing share."""
        looker = Looker(
            parts.store,
            parts.prober,
            own,
            options.strategy,
            anchors=parts.keeper.root,
            recover_writable=options.recover_writable,
        )
        return cls(
            store=parts.store,
            locks=parts.locks,
            prober=parts.prober,
            observer=observer,
            own=own,
            looker=looker,
            keeper=parts.keeper,
            strategy=options.strategy,
            lease=Lease(options.lease),
            warning_threshold=options.warning_threshold,
            hung_abort_after_s=options.hung_abort_after_s,
            holds=holds,
        )


class Healer:
    """Keeps the copies of one source alive."""

    def __init__(self, source: str, context: Context, stopping: Callable[[], bool]) -> None:
        self.source = source
        self._context = context
        self._stopping = stopping
        self._backoff = Backoff()
        self._outage = Outage(source, context.observer)
        self._generations = Generations(
            source, context.store, context.prober, context.own, context.keeper
        )
        self._aborter = Aborter(
            context.prober, context.own, context.observer, context.hung_abort_after_s
        )
        entered = context.strategy is Strategy.NAMESPACE
        self._witness = None if entered else Witness()
        self._waiting: View | None = None  # what is broken, indexed while the source is away
        self._made_private: dict[tuple[int, int], Mount] = {}  # copies, as they were before
        self._version = 0  # of our mount table, when it was last looked at
        self._everywhere_at = -_FRESH_S  # monotonic, of the last look into other namespaces
        self._takedowns = Takedowns()
        self._held: frozenset[str] = frozenset()  # dead superblocks that make who asks wait
        self.live = ""  # the superblock that answered last
        self.serving: frozenset[str] = frozenset()  # superblocks whose daemons serve copies
        self.is_healing = False  # mounting by itself just now

    def run(self) -> float | None:
        """Do what is to be done now; return in how many seconds to try again, None if done."""
        holds = self._context.holds
        self._held = holds.begin(self.source)
        reply = self._context.prober.ask(self.source)
        if self._unchanged(reply):  # but for containers that are starting from a dead mount now
            return _FRESH_S if self._has_just_looked and self._may_come_to_light() else None
        view = self._view(reply)
        if not view.publications:
            self.close()
            holds.release(self.source)
            return None
        self._note(view)
        if not view.live:
            view = self._prepared(view)
        if not view.live:
            self._waiting = view
            # No event tells that a daemon which hung, or was slow to begin, goes on.
            again_s = self._backoff.wait_s() if view.reply.answer is Answer.HUNG else None
            return _sooner(again_s, self._aborter.consider(view))
        self._waiting = None
        if view.live != self.live:
            self._backoff.reset()
            self._takedowns.forget()
        self.live = view.live
        holds.keep(self.source, view.live, view.publications)
        with self._alone():
            view, tally = self._heal(view)
        self.serving = view.serving  # as last seen: what was prepared before it answered knew less
        return _sooner(self._conclude(view, tally), self._aborter.consider(view))

    @property
    def is_whole(self) -> bool:
        """Tell whether everything was well when this was last looked at."""
        return self._outage.state is State.HEALTHY

    @property
    def is_waiting(self) -> bool:
        """Tell whether something is broken and the source is away."""
        return self._waiting is not None

    def close(self) -> None:
        """Forget everything and release what is held."""
        self._generations.close()
        self._waiting = None
        self._outage.state = State.UNKNOWN
        if self._witness is not None:
            self._witness.close()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from healing for a block; what was mounted in it was ours."""
        try:
            with self._context.lease.hold():
                yield
        finally:
            self.is_healing = False

    # -- looking ---------------------------------------------------------------------------------

    def _unchanged(self, reply: Reply) -> bool:
        """Tell that nothing needs a closer look: the daemon answers and no mount came or went.

        This is what a tick costs in the steady state, however many publications there are.
        """
        return (
            self._is_same(reply)
            and self.is_whole
            and self._version == self._context.own.version
            and (self._has_just_looked or not self._may_come_to_light())
            and self._context.holds.is_kept(self.source, self.live)
            # else one at a target, of no row: replaced before the first look
            and not self.serving - {self.live}
        )

    def _is_same(self, reply: Reply) -> bool:
        return reply.alive and reply.dev == self.live

    def _view(self, reply: Reply) -> View:
        looker = self._context.looker
        if self._waiting is not None:
            view = looker.refresh(self._waiting, reply)
            if view is not None:
                return view
        # what has died is seen to here before anywhere else
        has_died = self.is_whole and not looker.is_live(self.source, reply)
        is_well = self.is_whole and self._is_same(reply) and not self._may_come_to_light()
        view = self._look(reply, everywhere=not (has_died or is_well))
        if view.live and view.is_broken and not view.is_everywhere:
            view = self._look()  # there may be copies elsewhere
        return view

    def _note(self, view: View) -> None:
        """Record and tell what was seen, before anything is changed."""
        self.serving = view.serving
        self._tell_state(view)
        self._generations.note_dead(view)

    def _look(self, reply: Reply | None = None, *, everywhere: bool = True) -> View:
        self._version = self._context.own.version  # reads the table if it changed
        if everywhere:
            self._everywhere_at = time.monotonic()
        view = self._context.looker.look(
            self.source,
            reply=reply,
            inside=everywhere,
            made_private=self._made_private,
            held=self._held,
        )
        return self._takedowns.left_out(view) if view.live == self.live else view

    @property
    def _has_just_looked(self) -> bool:
        """Whether all namespaces were looked at a moment ago.

        Our own mounts wake us after a heal: they are no reason to read a thousand tables again.
        """
        return time.monotonic() - self._everywhere_at < _FRESH_S

    def _may_come_to_light(self) -> bool:
        inside = self._context.strategy is Strategy.NAMESPACE
        return self._generations.may_come_to_light(self.live, inside=inside)

    # -- while the source is away ----------------------------------------------------------------

    def _prepared(self, view: View) -> View:
        """Do what can be done before the source is back, and look again if something was.

        The dead layers of the heal before go, and copies that the next one would harm are made
        private.
        """
        with self._alone():
            if self._uncover(view) or not view.is_everywhere:
                view = self._seen()
            # those that did not go with an anchor's are uncovered now
            for prepare in (self._uncover, self._make_peers_private, self._make_private):
                if prepare(view):
                    view = self._seen()
        return view

    def _seen(self) -> View:
        view = self._look()
        self._note(view)
        return view

    def _uncover(self, view: View) -> bool:
        """Take the dead layers off; the second time those that did not go with an anchor's."""
        planned = () if view.is_sidecar else node.clear(self._context.looker.case(view).node)
        for _ in self._on_node(planned, view.live):
            pass  # what could not be taken off is met again
        return bool(planned)

    def _make_peers_private(self, view: View) -> bool:
        """Take dead binds out of the peer group of the source's dead mount.

        A bind that Fluid's plugin made is a peer: what a daemon then mounts on the source's dead
        mount would appear on it as well, and could not be removed there without the source's.
        """
        context = self._context
        if not view.peers or context.strategy is not Strategy.NAMESPACE:
            return False
        for copy in view.peers:
            act = functools.partial(mounts.make_private, copy.stack[-1])
            with contextlib.suppress(Error, OSError), context.locks.hold(copy.path, wait_s=1.0):
                key = "make private", copy.path
                namespaces.visit(copy.namespace, act, context.prober, key=key)
        return True

    def _make_private(self, view: View) -> bool:
        """Make copies private that a mount from outside would harm."""
        steps = [visits.MakePrivate(copy) for copy in view.exposed]
        done = [r.step.copy for r in self._inside(steps, view.live) if isinstance(r, Done)]
        for copy in done:
            self._made_private[copy.namespace.inode, copy.stack[0].mnt_id] = copy.stack[0]
        return bool(done)

    # -- healing ---------------------------------------------------------------------------------

    def _heal(self, view: View) -> tuple[View, Tally]:
        """Do what is planned until nothing is left to do; return the last look too."""
        tally = Tally()
        self._make_private(view)
        for _ in range(_ROUNDS):
            self._act(view, tally)
            if not tally.open or self._stopping():
                break
            again = self._look()
            if again.live != view.live:
                return view, tally  # it died or was replaced meanwhile: the next run sees to that
            tally.reached += max(view.hanging - again.hanging, 0)
            tally.layers = max(tally.layers, again.layers)
            tally.last_at = time.monotonic()
            view = again
        self._context.holds.swapped(self.source, view.live)  # callers wait for that
        self._generations.note_live(view, 0 if view.is_sidecar else view.number)
        self._generations.drop_unseen(view)
        return view, tally

    def _act(self, view: View, tally: Tally) -> None:
        tally.open = False
        for stage in stages(self._context.looker, view):
            acts = tally.to_do(stage)
            tally.open = tally.open or bool(acts)
            if acts and not self._stopping():
                self._execute(acts, view, tally)

    def _execute(self, acts: list[Act], view: View, tally: Tally) -> None:
        here = [act for act in acts if isinstance(act, node.Act)]
        there = [act for act in acts if isinstance(act, visits.Act)]
        for result in self._on_node(here, view.live):
            tally.add(result)
            if isinstance(result, Done):
                self._takedowns.note(result.step)
        for inner in self._inside(there, view.live):
            tally.add(inner)

    def _on_node(self, acts: Iterable[node.Act], live: str) -> Iterator[Result[node.Act]]:
        context, steps = self._context, tuple(acts)
        executor = Executor(context.store, context.locks, context.prober, live, self._witness)
        if steps:
            self.is_healing = True
            with contextlib.suppress(Busy), context.keeper.turn(self.source):
                if context.store.publications(self.source):  # else all anchors have just gone
                    yield from executor.run(steps, self._stopping)

    def _inside(self, acts: Iterable[visits.Act], live: str) -> Iterator[Result[visits.Act]]:
        if steps := tuple(acts):
            self.is_healing = True
            yield from inside.Executor(self._context.prober, live).run(steps, self._stopping)

    # -- telling ---------------------------------------------------------------------------------

    def _conclude(self, view: View, tally: Tally) -> float | None:
        unfinished = bool(tally.failed) or tally.open
        wait_s = self._backoff.wait_s() if unfinished else 0.0
        self._outage.complain(tally.complaints(self.source, view.publications, wait_s))
        if tally.copies:
            self._generations.note_heal()
            self._record(view, tally)
        if unfinished:
            return wait_s
        self._backoff.reset()
        self._made_private.clear()
        self._outage.since = None
        if not tally.skipped:
            self._outage.ends()
        return None

    def _record(self, view: View, tally: Tally) -> None:
        latency_s = tally.last_at - view.answered_at
        outage_s = self._outage.lasted_s(tally.last_at)
        name = self._context.strategy.value
        self._context.store.record_heal(
            Heal(
                source=self.source,
                at=time.time(),
                strategy=name,
                ok=not tally.failed,
                copies=tally.copies + len(tally.failed),
                healed=tally.copies,
                layers=tally.layers,
                latency_s=latency_s,
                outage_s=outage_s,
                error=next((str(error) for _, error in tally.failed.values()), ""),
            )
        )
        if healed := tally.whole(view.publications):
            event = (self.source, healed, name, tally.copies, tally.layers, latency_s, outage_s)
            self._context.observer.tell(events.Healed(*event))
        self._warn_of_layers(view)

    def _warn_of_layers(self, view: View) -> None:
        threshold = self._context.warning_threshold
        by_target = {p.target: p for p in view.publications}
        for copy in view.deep:
            publication, layers = by_target.get(copy.path), len(copy.stack)
            if publication is not None and threshold > 0 and layers % threshold == 0:
                self._context.observer.tell(events.Stacked(self.source, publication, layers))

    def _tell_state(self, view: View) -> None:
        outage, publications = self._outage, view.publications
        if view.live:
            if outage.state is State.HUNG or (outage.state is State.BROKEN and not view.is_broken):
                outage.answers(publications)
            if view.is_broken:
                outage.breaks(publications)
        elif view.reply.answer is Answer.HUNG:
            outage.hangs(publications)
        elif view.is_broken:
            outage.breaks(publications)


def _sooner(one_s: float | None, other_s: float | None) -> float | None:
    return min((wait for wait in (one_s, other_s) if wait is not None), default=None)
