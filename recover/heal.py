"""One source from broken to healed: look, plan, execute, look again, record, tell.

A `Healer` belongs to one source and is run by one thread at a time; another source's healer shares
nothing with it but the store, the prober's bound and the locks of targets, so a hung daemon delays
nobody else.  Every run starts from what the kernel shows, so runs may be cut off anywhere.

While a source is away the broken copies are indexed; when it is back the first swap needs one
answer of the new daemon and no look at any mount table.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from recover import observer as told, plan
from recover.abort import Aborter
from recover.errors import Error
from recover.execute import Done, Executor, Failed, Result
from recover.lease import Lease
from recover.linux import mounts, namespaces
from recover.linux.namespaces import Namespace
from recover.linux.owntable import OwnTable
from recover.linux.probe import Answer, Prober
from recover.locks import Locks
from recover.look import Looker, View
from recover.observer import Observer
from recover.plan import Act, Leave, Strategy
from recover.policy import Backoff
from recover.store import Generation, Heal, Publication, Store

_ROUNDS = 5  # looks after a swap: containers may start while we heal
_LINGER_S = 60.0  # a container may still be starting from a dead mount so long after a heal


@dataclass(frozen=True, slots=True)
class Context:
    """What all healers share."""

    store: Store
    locks: Locks
    prober: Prober
    observer: Observer
    own: OwnTable
    looker: Looker
    strategy: Strategy
    boot_id: str
    lease: Lease
    warning_threshold: int = 50
    hung_abort_after_s: float | None = None


@dataclass(slots=True)
class _Tally:
    """What one run achieved."""

    done: list[Done] = field(default_factory=list)
    failed: dict[str, Failed] = field(default_factory=dict)
    left: tuple[Leave, ...] = ()
    open: bool = False  # something was still to be done at the last look

    def add(self, result: Result) -> None:
        if isinstance(result, Done):
            self.done.append(result)
            self.failed.pop(_where(result.step.namespace, result.step.path), None)
        elif not result.stale:
            self.failed[_where(result.step.namespace, result.step.path)] = result


class Healer:
    """Keeps the copies of one source alive."""

    def __init__(self, source: str, context: Context, stopping: Callable[[], bool]) -> None:
        self.source = source
        self._context = context
        self._stopping = stopping
        self._backoff = Backoff()
        self._aborter = Aborter(
            context.prober, context.own, context.observer, context.hung_abort_after_s
        )
        self._waiting: View | None = None  # what is broken, indexed while the source is away
        self._away_since: float | None = None
        self._state = ""
        self._version = 0  # of our mount table, when it was last looked at
        self._complaints: dict[str, str] = {}
        self._settled: set[tuple[int, str]] = set()
        self._pins: dict[str, mounts.Clone] = {}  # they keep a dead superblock's number from reuse
        self.live = ""  # the superblock that answered last
        self.serving: frozenset[str] = frozenset()  # superblocks whose daemons serve copies
        self.is_healing = False  # mounting by itself just now

    def run(self) -> float | None:
        """Do what is to be done now; return in how many seconds to try again, None if done."""
        if self._unchanged():
            return None
        view = self._view()
        if not view.publications:
            self.close()
            return None
        self.serving = view.serving
        self._tell_state(view)
        self._note_dead(view)  # before the first swap: a killed heal must find its copies again
        if not view.live:
            self._waiting = self._parted(view)
            # No event tells that a daemon which hung, or was slow to begin, goes on.
            again_s = self._backoff.wait_s() if view.reply.answer is Answer.HUNG else None
            return _sooner(again_s, self._aborter.consider(view))
        self._waiting = None
        if view.live != self.live:
            self._backoff.reset()
            self._settled.clear()
        self.live = view.live
        self.is_healing = True
        try:
            with self._context.lease.hold():
                tally = self._heal(view)
        finally:
            self.is_healing = False
        self._note_live(view)
        return _sooner(self._conclude(view, tally), self._aborter.consider(view))

    @property
    def is_whole(self) -> bool:
        """Tell whether everything was well when this was last looked at."""
        return self._state == "healthy"

    @property
    def is_waiting(self) -> bool:
        """Tell whether something is broken and the source is away."""
        return self._waiting is not None

    def close(self) -> None:
        """Forget everything and release what is held."""
        mounts.close_all(self._pins)
        self._pins.clear()
        self._waiting = None
        self._state = ""

    def _unchanged(self) -> bool:
        """Tell that nothing needs a closer look: the daemon answers and no mount came or went.

        This is what a tick costs in the steady state, however many publications there are.
        """
        own = self._context.own
        if (
            self._state != "healthy"
            or self._version != own.version
            or self._has_older_generations()
            or self.serving - {self.live}  # at a target, of no row: replaced before the first look
        ):
            return False
        reply = self._context.prober.ask(self.source)
        return reply.alive and reply.dev == self.live

    def _view(self) -> View:
        looker = self._context.looker
        if self._waiting is not None and (view := looker.refresh(self._waiting)) is not None:
            return view
        self._version = self._context.own.version  # reads the table if it changed
        inside = self._state != "healthy" or self._has_older_generations()
        view = looker.look(self.source, inside=inside)
        if not inside and (view.verdicts or not view.live):  # there may be copies elsewhere
            view = looker.look(self.source)
        return view

    def _has_older_generations(self) -> bool:
        """Tell whether copies of another generation may come to light without an event here.

        Dead ones only in other namespaces, where a container may be starting from them.
        """
        inside = self._context.strategy is Strategy.NAMESPACE
        older = (g for g in self._context.store.generations(self.source) if g.dev != self.live)
        return any(inside or g.dead_at is None for g in older)

    # -- generations -----------------------------------------------------------------------------

    def _note_dead(self, view: View) -> None:
        self._pin(view)
        known = {g.dev: g for g in view.generations}
        for dev in view.dead & view.seen:
            generation = known.get(dev) or self._generation(view, dev, "/")
            if generation is not None and generation.dead_at is None:
                self._context.store.put_generation(replace(generation, dead_at=time.time()))

    def _note_live(self, view: View) -> None:
        generation = self._generation(view, view.live, view.root)
        if generation is None:
            return
        store = self._context.store
        for other in store.generations():  # a number in use here is nobody else's generation now
            if other.dev == view.live and other.source != self.source:
                store.remove_generation(other.source, other.dev)
        current = next((g for g in view.generations if g.dev == view.live), None)
        if current is None or current.dead_at is not None:
            store.put_generation(generation)

    def _generation(self, view: View, dev: str, root: str) -> Generation | None:
        """Return a new row; None if no path of ours shows that superblock any more.

        Then the kernel may have given its number to another source already, whose copies the row
        would make ours.
        """
        table = self._context.own.current()
        paths = (self.source, *(p.target for p in view.publications))
        mount = next((m for path in paths for m in table.stack(path) if m.dev == dev), None)
        if mount is None:
            return None
        boot_id = self._context.boot_id
        return Generation(self.source, dev, root, mount.fs_type, mount.source, boot_id, time.time())

    def _pin(self, view: View) -> None:
        prober = self._context.prober
        for copy in view.copies:
            top = copy.stack[-1]
            if copy.namespace == self._context.looker.home and top.dev not in self._pins:
                pin = functools.partial(mounts.pin, copy.path, top)
                key = "pin", copy.path
                with contextlib.suppress(Error, OSError):
                    self._pins[top.dev] = prober.run(key, pin, discard=mounts.Clone.close)

    def _parted(self, view: View) -> View:
        """Take the dead copies out of the peer group of the source's dead mount; look again if so.

        A bind that Fluid's plugin made is a peer: what a daemon then mounts on the source's dead
        mount would appear on it as well, and could not be removed there without the source's.
        """
        context = self._context
        if not view.peers or context.strategy is not Strategy.NAMESPACE:
            return view
        for copy in view.peers:
            part = functools.partial(mounts.part, copy.stack[-1])
            with contextlib.suppress(Error, OSError), context.locks.hold(copy.path, wait_s=1.0):
                key = "part", copy.path
                namespaces.visit(copy.namespace, part, context.prober, key=key)
        return context.looker.look(self.source)

    def _drop_unseen(self, view: View) -> None:
        now = time.time()
        for generation in self._context.store.generations(self.source):
            fresh = generation.dead_at is not None and now - generation.dead_at < _LINGER_S
            if (
                generation.dev != view.live
                and generation.dev not in view.seen
                and not (fresh and generation.dev in self._pins)
            ):
                self._context.store.remove_generation(self.source, generation.dev)
                if generation.dev in self._pins:
                    self._pins.pop(generation.dev).close()

    # -- healing ---------------------------------------------------------------------------------

    def _heal(self, view: View) -> _Tally:
        tally = _Tally()
        for _ in range(_ROUNDS):
            steps = plan.steps(self._context.looker.case(view, frozenset(self._settled)))
            tally.left = tuple(step for step in steps if isinstance(step, Leave))
            acts = [step for step in steps if not isinstance(step, Leave)]
            acts = [a for a in acts if _where(a.namespace, a.path) not in tally.failed]
            tally.open = bool(acts)
            if not acts or self._stopping():
                break
            self._execute(acts, view, tally)
            again = self._context.looker.look(self.source)
            if again.live != view.live:
                break  # it died or was replaced while we healed: the next run deals with that
            view = again
        self._drop_unseen(view)
        return tally

    def _execute(self, acts: list[Act], view: View, tally: _Tally) -> None:
        context = self._context
        executor = Executor(context.store, context.locks, context.prober, self.source, view.live)
        for result in executor.run(acts, context.own.current, self._stopping):
            tally.add(result)
            if isinstance(result, Done) and result.layers > 1:
                self._settled.add((result.step.namespace.inode, result.step.path))

    # -- telling ---------------------------------------------------------------------------------

    def _conclude(self, view: View, tally: _Tally) -> float | None:
        unfinished = bool(tally.failed) or tally.open
        wait_s = self._backoff.wait_s() if unfinished else 0.0
        self._complain(view.publications, tally, wait_s)
        if tally.done:
            self._record(view, tally)
        if unfinished:
            return wait_s
        self._backoff.reset()
        self._away_since = None
        if not tally.left:
            self._state = "healthy"
        return None

    def _record(self, view: View, tally: _Tally) -> None:
        latency_s = max(done.at for done in tally.done) - view.answered_at
        last = max(done.at for done in tally.done)
        layers = max(done.layers for done in tally.done)
        outage_s = last - self._away_since if self._away_since is not None else None
        error = next((str(failed.error) for failed in tally.failed.values()), "")
        total = len(tally.done) + len(tally.failed)
        name = self._context.strategy.value
        self._context.store.record_heal(
            Heal(
                source=self.source,
                at=time.time(),
                strategy=name,
                ok=not tally.failed,
                copies=total,
                healed=len(tally.done),
                layers=layers,
                latency_s=latency_s,
                outage_s=outage_s,
                error=error,
            )
        )
        healed = _touched(view.publications, tally)
        if healed:
            self._context.observer.tell(
                told.Healed(self.source, healed, name, len(tally.done), layers, latency_s, outage_s)
            )
        self._warn_of_layers(view.publications, tally)

    def _warn_of_layers(self, publications: tuple[Publication, ...], tally: _Tally) -> None:
        threshold = self._context.warning_threshold
        by_target = {p.target: p for p in publications}
        for done in tally.done:
            publication = by_target.get(done.step.target)
            if publication is not None and threshold > 0 and done.layers % threshold == 0:
                self._context.observer.tell(told.Stacked(self.source, publication, done.layers))

    def _complain(
        self, publications: tuple[Publication, ...], tally: _Tally, retry_s: float
    ) -> None:
        """Tell each failure and each copy left alone once, until it changes."""
        complaints: dict[str, str] = {}
        for where, failed in tally.failed.items():
            complaints[where] = text = _text(failed.error)
            if self._complaints.get(where) != text:
                concerned = _concerned(publications, failed.step.target)
                self._context.observer.tell(
                    told.HealFailed(self.source, concerned, where, text, retry_s)
                )
        for left in tally.left:
            where = _where(left.namespace, left.path)
            complaints[where] = left.reason
            if self._complaints.get(where) != left.reason:
                concerned = _concerned(publications, left.target)
                self._context.observer.tell(
                    told.Skipped(self.source, concerned, where, left.reason)
                )
        self._complaints = complaints

    def _tell_state(self, view: View) -> None:
        if view.live:
            if self._state == "hung" or (self._state == "broken" and not view.broken):
                self._context.observer.tell(told.Answering(self.source, view.publications))
            if view.broken and self._state != "broken":
                self._break(view)
            return
        if view.reply.answer is Answer.HUNG and self._state != "hung":
            self._state = "hung"
            self._context.observer.tell(told.Hung(self.source, view.publications, time.time()))
        elif view.reply.answer is not Answer.HUNG and view.broken and self._state != "broken":
            self._break(view)

    def _break(self, view: View) -> None:
        self._state = "broken"
        self._away_since = self._away_since or time.monotonic()
        self._context.observer.tell(told.Broken(self.source, view.publications, time.time()))


def _sooner(one_s: float | None, other_s: float | None) -> float | None:
    return min((wait for wait in (one_s, other_s) if wait is not None), default=None)


def _where(namespace: Namespace, path: str) -> str:
    return f"{path} in {namespace}"


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def _concerned(publications: tuple[Publication, ...], target: str) -> tuple[Publication, ...]:
    return tuple(p for p in publications if not target or p.target == target)


def _touched(publications: tuple[Publication, ...], tally: _Tally) -> tuple[Publication, ...]:
    """Return the publications that are whole again: none of whose steps failed or were left."""
    bad: Iterable[Act | Leave] = (*(f.step for f in tally.failed.values()), *tally.left)
    targets = {step.target for step in bad if step.target}
    return tuple(p for p in publications if p.target not in targets)
