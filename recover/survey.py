"""What is true now, for people: each source, its state in words, its copies, what a heal would do.

Read-only: it looks at the kernel and at the state file, beside a running plugin or without one.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from recover import look, steps
from recover.anchors import anchor
from recover.anchors.plan import Skip
from recover.linux.mountinfo import MountTable
from recover.linux.owntable import OwnTable
from recover.linux.probe import Answer, Prober
from recover.look import Looker, View
from recover.policy import Strategy
from recover.rows import Heal, Publication
from recover.states import State
from recover.steps import Step
from recover.store import Store


@dataclass(frozen=True, slots=True)
class SourceReport:
    """One source: copies counts the mounts of it everywhere, healthy those that answer.

    since is in Unix seconds: when the break was recorded, None if it is not broken.
    """

    source: str
    state: State
    since: float | None
    publications: tuple[Publication, ...]
    copies: int
    healthy: int
    layers: int
    last_heal: Heal | None
    steps: tuple[Step, ...]

    @property
    def dataset(self) -> str:
        """Return namespace/name of the runtime, or the source where no publication knows it."""
        for publication in self.publications:
            if publication.runtime_name:
                return f"{publication.runtime_namespace}/{publication.runtime_name}"
        return self.source


def survey(
    store: Store,
    prober: Prober,
    strategy: Strategy,
    *,
    anchors: Path,
    recover_writable: bool = False,
    held: frozenset[str] = frozenset(),
) -> tuple[SourceReport, ...]:
    """Return a report for every source, each asked with the prober's time limit.

    held are superblocks of dead daemons that keep whoever asks waiting.
    """
    with contextlib.closing(OwnTable()) as own:
        looker = Looker(
            store, prober, own, strategy, anchors=anchors, recover_writable=recover_writable
        )
        views = [looker.look(source, held=held) for source in store.sources()]
        healthy = _healthy_copies(views, own.current(), strategy)
        return tuple(
            _report(view, steps.steps(looker, view), healthy.get(view.live, ()), store)
            for view in views
        )


def _healthy_copies(
    views: list[View], home: MountTable, strategy: Strategy
) -> dict[str, tuple[int, ...]]:
    """Return for each live superblock how many layers stand at each path that shows it.

    The source itself is no copy.  A namespace that shows the whole node, as a container with the
    host's root does, would count everything again: what stands at a path that our own namespace has
    too is left out there.
    """
    lives = frozenset(view.live for view in views) - {""}
    sources = {view.source for view in views}
    ours = {mount.mount_point for mount in home}
    tables = look.tables_with(lives, lives) if strategy is Strategy.NAMESPACE and lives else ()
    elsewhere = [(m, table) for _, table in tables for m in table.of_superblocks(lives)]
    shown = [(m, home) for m in home.of_superblocks(lives) if m.mount_point not in sources]
    shown += [(m, t) for m, t in elsewhere if m.mount_point not in ours]
    stacks = [(m, t.stack(m.mount_point)) for m, t in shown if not anchor.is_anchor(m.mount_point)]
    return {
        dev: tuple(len(stack) for m, stack in stacks if m.dev == dev and stack[-1:] == (m,))
        for dev in lives
    }


def _report(
    view: View, steps: tuple[Step, ...], healthy: tuple[int, ...], store: Store
) -> SourceReport:
    dead = (*view.strays, *view.copies, *view.exposed)
    broken = view.hanging + len(dead) + len(view.bare)
    dead_at = [g.dead_at for g in view.generations if g.dead_at is not None]
    return SourceReport(
        source=view.source,
        state=_state(view, steps),
        since=min(dead_at, default=None) if broken else None,
        publications=view.publications,
        copies=len(healthy) + broken,
        healthy=len(healthy),
        layers=max((*healthy, *(len(copy.stack) for copy in dead)), default=0),
        last_heal=next(iter(store.heals(view.source, 1)), None),
        steps=steps,
    )


def _state(view: View, steps: tuple[Step, ...]) -> State:
    if view.live and not view.is_broken:
        return State.HEALTHY  # also when an anchor is to be made or removed
    if view.live:
        is_only_left = all(isinstance(step, Skip) for step in steps)
        return State.SKIPPED if is_only_left else State.STALE
    by_answer = {Answer.HUNG: State.HUNG, Answer.FAILING: State.FAILING}
    return by_answer.get(view.reply.answer) or (State.WAITING if view.is_broken else State.ABSENT)
