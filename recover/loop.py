"""When to heal: a background thread that waits, and a worker thread for each source with work.

The loop itself asks no daemon anything, so it never hangs.  A source's worker lives for one run at
a time, at most one for each source; a wake-up during a run makes it run once more.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from recover import events, reconcile
from recover.events import Observer
from recover.heal import Context, Healer, Options
from recover.holds import Holding, Holds, NoHolds
from recover.layout import Layout
from recover.linux import namespaces
from recover.linux.mountinfo import MountTable
from recover.linux.owntable import OwnTable
from recover.linux.wakeups import Wake, WakeUps
from recover.parts import Parts
from recover.policy import HoldSettings, Strategy
from recover.seamless.client import Client, Status
from recover.serverless.sidecars import Sidecars

log = logging.getLogger(__name__)

_BURST_S = 0.2  # publishes that come together are looked at together
_YIELD_S = 0.002  # its own mounts wake us during a heal, and each of our turns takes time from it


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator may choose; times in s, strategy "auto", "namespace" or "propagation"."""

    layout: Layout
    period_s: float = 5.0
    strategy: str = "auto"
    recover_writable: bool = False
    warning_threshold: int = 50
    hung_abort_after_s: float | None = None  # end the connection of a daemon silent for so long
    lease: Path | None = None  # the file by which processes take turns in healing
    holds: HoldSettings | None = None  # of the connections of dead daemons; None: none is held


def chosen_strategy(wish: str) -> Strategy:
    """Return the strategy to use: "auto" enters namespaces only where those of others are visible.

    Without the host's processes only what hangs off an anchor is healed; nor can more be healed on
    a kernel, or with rights, by which nothing gets into a container, whatever is wished for.
    """
    if wish == Strategy.PROPAGATION or not namespaces.can_mount_inside():
        return Strategy.PROPAGATION
    if wish == Strategy.NAMESPACE or namespaces.sees_host():
        return Strategy.NAMESPACE
    return Strategy.PROPAGATION


class _Worker:
    """Runs the healer of one source, one run at a time, on a thread that lives for that work."""

    def __init__(self, healer: Healer, wakeups: WakeUps) -> None:
        self.healer = healer
        self.due: float | None = None  # monotonic time of the next try
        self._wakeups = wakeups
        self._lock = threading.Lock()
        self._watched: dict[str, bool] = {}  # superblock -> will the end of its daemon be told?
        self._wanted = False
        self._thread: threading.Thread | None = None

    @property
    def is_busy(self) -> bool:
        return self._thread is not None

    @property
    def wants_mounts(self) -> bool:
        """Tell whether a mount at the source would be news that nothing else brings.

        Also during a look, or whatever is mounted anywhere meanwhile would be a reason for another.
        """
        if self.healer.is_healing:
            return False
        return self.is_busy or self.healer.is_waiting or not self._is_watched

    @property
    def _is_watched(self) -> bool:
        serving = self.healer.serving
        with self._lock:
            return bool(serving) and all(self._watched.get(dev, False) for dev in serving)

    def kick(self, source: str) -> None:
        with self._lock:
            self._wanted = True
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name=f"heal {source}", daemon=True
                )
                self._thread.start()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._thread = None
                    return
                self._wanted = False
            try:
                wait_s = self.healer.run()
                self._watch_daemons()
            except Exception:
                log.exception("healing stopped by a fault in this program; trying again in 30 s")
                wait_s = 30.0
                with self._lock:
                    self._watched.clear()  # one may be missing: watch all of them again
            self.due = None if wait_s is None else time.monotonic() + wait_s
            self._wakeups.poke()  # for the loop to learn when the next try is due

    def _watch_daemons(self) -> None:
        """Watch the daemons that the run found; run once more if one may have ended before that."""
        serving = self.healer.serving
        with self._lock:
            new = serving - self._watched.keys()
            self._watched = {dev: self._watched.get(dev, False) for dev in serving}
        for dev in new:
            is_told = self._wakeups.watch(dev)
            with self._lock:
                self._wanted = self._wanted or not is_told
                if dev in self._watched:
                    self._watched[dev] = is_told

    def concerns(self, ended: frozenset[str]) -> bool:
        """Tell whether daemons that ended were of this source.

        The kernel soon gives their superblocks' numbers to others, which are to be watched again.
        """
        with self._lock:
            for dev in ended:
                self._watched.pop(dev, None)
        return bool(self.healer.serving & ended)

    def join(self, timeout_s: float) -> bool:
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(max(timeout_s, 0.0))
        return thread is None or not thread.is_alive()


class Recovery:
    """The background recovery: start it once, stop it once."""

    def __init__(
        self,
        parts: Parts,
        observer: Observer,
        settings: Settings,
        wake_ups: Callable[[], WakeUps] = WakeUps,
    ) -> None:
        self._settings = settings
        self._own = OwnTable()
        self._stop = threading.Event()
        self._new: set[str] = set()
        self._soon: dict[str, float] = {}  # sources to look at, and the monotonic time from which
        self._workers: dict[str, _Worker] = {}
        strategy = chosen_strategy(settings.strategy)
        self.strategy = strategy.value
        if settings.strategy == Strategy.NAMESPACE and strategy is not Strategy.NAMESPACE:
            log.warning(
                "--strategy=namespace cannot be had: without open_tree(2), move_mount(2) and "
                "CAP_SYS_CHROOT nothing can be mounted inside a container; healing by propagation"
            )
        options = Options(
            strategy,
            settings.recover_writable,
            settings.lease,
            settings.warning_threshold,
            settings.hung_abort_after_s,
        )
        holding = self._holding(parts)
        self._context = Context.of(parts, observer, self._own, options, holding)
        self._reconciler = reconcile.Reconciler(parts, observer, settings.layout)
        inside = strategy is Strategy.NAMESPACE
        self._sidecars = Sidecars(parts.store, settings.layout.sources.root) if inside else None
        self._sidecars_at = 0  # version of the mount table when they were last looked for
        self._unresolved = False  # mounts whose source was not found yet
        self._adopted_at = 0  # version of the mount table at the last try
        self._wakeups = wake_ups()
        self._thread = threading.Thread(target=self._run, name="recovery", daemon=True)
        self.reconciled = threading.Event()

    @property
    def held(self) -> Callable[[], Status] | None:
        """Return what tells what is held now; None if nothing ever is."""
        holding = self._context.holds
        return holding.status if isinstance(holding, Holds) else None

    def _holding(self, parts: Parts) -> Holding:
        chosen = self._settings.holds
        if chosen is None:
            return NoHolds()
        client = Client(chosen.socket, starts=chosen.starts)
        return Holds(client, parts.prober, self._own, chosen.hold_s)

    @property
    def wakeups(self) -> tuple[str, ...]:
        """Return the wake-up sources in use."""
        return self._wakeups.names

    def start(self) -> None:
        """Begin: reconcile the state file with the kernel, then watch."""
        self._thread.start()

    def changed(self, source: str) -> None:
        """Say that a publication of this source came or went; never blocks.

        Where all was well a look follows soon, one for a whole burst: a publish that put the mount
        of an earlier plugin right may have uncovered a dead one inside a container.
        """
        if not self._is_well(source):
            self._new.add(source)
        elif source not in self._soon:
            self._soon[source] = time.monotonic() + _BURST_S
        else:
            return
        self._wakeups.poke()

    def _is_well(self, source: str) -> bool:
        worker = self._workers.get(source)
        return worker is not None and worker.healer.is_whole

    def stop(self, timeout_s: float = 4.0) -> bool:
        """Stop after the steps under way; False if something did not end in time and was left.

        All mounts stay.
        """
        deadline = time.monotonic() + timeout_s
        self._stop.set()
        self._wakeups.poke()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        ended = [w.join(deadline - time.monotonic()) for w in list(self._workers.values())]
        if self._thread.is_alive() or not all(ended):
            return False
        for worker in self._workers.values():
            worker.healer.close()
        if self._sidecars is not None:
            self._sidecars.close()
        self._context.holds.close()
        self._wakeups.close()
        self._own.close()
        return True

    def _run(self) -> None:
        context = self._context
        self._reconcile(self._reconciler.run)
        self._find_sidecars()
        self.reconciled.set()
        self._kick(context.store.sources())
        next_tick = time.monotonic() + self._settings.period_s
        while not self._stop.is_set():
            curious = any(worker.wants_mounts for worker in self._workers.values())
            wake = self._wakeups.wait(self._until(next_tick), name_mounts=curious)
            if self._stop.is_set():
                return
            for by in wake.by:
                context.observer.tell(events.Woken(by))
            self._kick(self._concerned(wake))
            if any(worker.healer.is_healing for worker in self._workers.values()):
                self._stop.wait(_YIELD_S)
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + self._settings.period_s
                self._tick()

    def _reconcile(self, bring_together: Callable[[MountTable], bool]) -> None:
        try:
            self._unresolved = bring_together(self._own.current())
        except Exception:  # the kernel is the truth: rows that disagree must not keep pods waiting
            log.exception("the state file could not be reconciled with the mounts of this node")

    def _find_sidecars(self) -> None:
        """Heal in the place of the agents of serverless pods, whose mounts nobody publishes."""
        version = self._own.version
        if self._sidecars is None or (version == self._sidecars_at and self._sidecars.is_settled):
            return
        self._sidecars_at = version
        self._sidecars.update(self._own.current())

    def _until(self, next_tick: float) -> float:
        dues = [worker.due for worker in self._workers.values() if worker.due is not None]
        dues += list(self._soon.values())
        return min([next_tick, *dues]) - time.monotonic()

    def _concerned(self, wake: Wake) -> set[str]:
        sources = self._context.store.sources()
        now = time.monotonic()
        concerned = {source for source in sources if source in wake.mounted}
        for source in sources if wake.everything else ():
            if self._is_well(source):  # others may mount hundreds of times a second
                self._soon.setdefault(source, now + _BURST_S)
            else:
                concerned.add(source)
        while self._new:
            concerned.add(self._new.pop())
        concerned |= {source for source, due in list(self._soon.items()) if due <= now}
        for source in concerned:
            self._soon.pop(source, None)
        for source, worker in self._workers.items():
            overdue = worker.due is not None and worker.due <= now
            if overdue:
                worker.due = None
            # Its own mounts, or its source's, came before anybody wanted to know: look again.
            overtaken = wake.unread and (worker.is_busy or worker.wants_mounts)
            if worker.concerns(wake.ended) or overdue or overtaken:
                concerned.add(source)
        return concerned

    def _tick(self) -> None:
        context = self._context
        context.observer.tell(events.Woken("tick"))
        context.store.flush()
        if self._unresolved and self._own.version != self._adopted_at:
            self._adopted_at = self._own.version
            self._reconcile(self._reconciler.adopt)
        self._find_sidecars()
        sources = set(context.store.sources())
        for source in self._workers.keys() - sources:
            if self._workers[source].join(0):
                self._workers.pop(source).healer.close()
        healers = [worker.healer for worker in self._workers.values()]
        self._wakeups.forget(dev for healer in healers for dev in healer.serving)
        self._kick(sources)

    def _kick(self, sources: Iterable[str]) -> None:
        for source in sources:
            if source not in self._workers:
                healer = Healer(source, self._context, self._stop.is_set)
                self._workers[source] = _Worker(healer, self._wakeups)
            self._workers[source].kick(source)
