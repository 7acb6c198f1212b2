"""Do what is planned on the node, and tell of each step whether it was done.

A step that fails, or finds that what it should touch has changed, leaves what was there; all steps
may be done again.  A target's lock is held over its own step alone, and never over a call that asks
a daemon.
"""

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path

from recover.anchors import anchor as anchors
from recover.anchors.plan import Act, Attach, Bring, Cover, Drop, Make, Uncover
from recover.anchors.witness import Witness
from recover.batch import Batch, Failed, Result
from recover.errors import Covered, Crowded, Error, Unanswered
from recover.linux import mounts
from recover.linux.probe import Prober
from recover.locks import Locks
from recover.store import Store

MOST_HANGING = 8  # steps of one source that wait for daemons of others, or the next is not tried
_LOCK_WAIT_S = 2.0


class Executor:
    """Executes steps on the node for one source whose live superblock is known ("" for none)."""

    def __init__(
        self, store: Store, locks: Locks, prober: Prober, live: str, witness: Witness | None = None
    ) -> None:
        """Take the collaborators; a witness where the applications themselves cannot be seen."""
        self._store = store
        self._locks = locks
        self._prober = prober
        self._live = live
        self._witness = witness

    def run(self, steps: Sequence[Act], stopping: Callable[[], bool]) -> Iterator[Result[Act]]:
        """Execute steps, yielding a result for each: what is to be uncovered, then the others.

        In their order, but those elsewhere behind ours, of which none is tried any more once many
        hang.  What is mounted on an anchor arrives on top of what is not uncovered by then.
        stopping() is asked before each; what was not begun is then left for the next start.
        """
        for is_uncovering in (True, False):
            now = [step for step in steps if isinstance(step, Uncover) is is_uncovering]
            ours = [step for step in now if _is_ours(step)]
            yield from self._run(ours, stopping, most_hanging=len(ours))
            elsewhere = [step for step in now if not _is_ours(step)]
            yield from self._run(elsewhere, stopping, most_hanging=MOST_HANGING)

    def _run(
        self, steps: Sequence[Act], stopping: Callable[[], bool], *, most_hanging: int
    ) -> Iterator[Result[Act]]:
        batch = Batch(self._prober, _key)
        asleep, rest = batch.split(steps)
        yield from asleep
        hanging = len(asleep)
        while rest and not stopping():
            if hanging >= most_hanging:
                yield from (Failed(step, Crowded(hanging), stale=False) for step in rest)
                return
            results = batch.run(rest, self._act, stopping=stopping)
            yield from results
            if not results:
                return
            hanging += sum(
                isinstance(r, Failed) and isinstance(r.error, Unanswered) for r in results
            )
            rest = rest[len(results) :]

    def _act(self, step: Act, root_fd: int) -> int:
        with self._claimed(step):
            return self._do(step, root_fd)

    @contextlib.contextmanager
    def _claimed(self, step: Act) -> Iterator[None]:
        """Hold the lock of a place where volumes come and go; Covered if this one goes.

        What stands at a path of no publication may be what an unpublish has not unmounted yet.
        """
        place = step.target or (step.path if isinstance(step, Uncover | Cover) else "")
        if not place:
            yield
            return
        unpublished = Covered(f"{place} was unpublished")
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(self._locks.hold(place, wait_s=_LOCK_WAIT_S))
            except Error:
                raise unpublished from None
            if step.target and self._store.publication(step.target) is None:
                raise unpublished
            yield

    def _do(self, step: Act, root_fd: int) -> int:
        match step:
            case Uncover():
                kept = step.stack[step.keep - 1 :]
                anchors.uncover(step.path, kept, root_fd)
                return step.keep
            case Make():
                make(step, self._live, root_fd)
                return 1
            case Bring():
                return self._bring(step, root_fd)
            case Cover():
                with mounts.clone(step.origin, "", step.attributes, self._live) as copy:
                    anchors.bring(step.path, step.copy.stack[-1], copy, root_fd)
                return len(step.copy.stack) + 1
            case Attach():
                with mounts.clone(step.origin, "", step.attributes, self._live) as copy:
                    mounts.attach_bare(copy, step.target, root_fd)
                return 1
            case Drop():
                anchors.clear(step.path)
                return 0

    def _bring(self, step: Bring, root_fd: int) -> int:
        anchor = step.anchor
        with contextlib.ExitStack() as ends:
            if self._witness is not None:
                ends.enter_context(self._witness.of(anchor.path, root_fd))
            with anchors.take(step.origin, self._live, read_only=False) as copy:
                anchors.bring(anchor.path, anchor.base, copy, root_fd)
            if self._witness is not None:
                return self._witness.layers(self._live, root_fd)
        return 2


def _is_ours(step: Act) -> bool:
    """Tell whether a step is at an anchor or a target; others may lead over any FUSE mount."""
    return bool(step.target) or anchors.is_anchor(step.path)


def _key(step: Act) -> Hashable:
    """Name a step among the calls that may hang: one at a time for each path."""
    return "anchors", step.path


def make(step: Make, live: str, root_fd: int) -> None:
    """Make an anchor of the live generation, which is dev `live`; raises Covered or OSError."""
    place = Path(step.path)
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with mounts.clone(step.source, step.variant.inner, step.variant.attributes, live) as copy:
        if mounts.is_directory(copy.fd):
            place.mkdir(mode=0o700, exist_ok=True)
        else:  # the subPath of a container may be a file
            place.touch(mode=0o600)
        mounts.attach_bare(copy, step.path, root_fd)
