"""Do what is planned on the node, and tell of each step whether it was done.

A step that fails, or finds that what it should touch has changed, leaves what was there; all steps
may be done again.  A target's lock is held over its own step alone, and never over a call that asks
a daemon.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from recover.anchors import anchor as anchors
from recover.anchors.plan import Act, Attach, Bare, Bring, Cover, Drop, Make
from recover.anchors.witness import Witness
from recover.errors import Covered, Error, Hung
from recover.linux import mounts, namespaces
from recover.linux.probe import Prober
from recover.locks import Locks
from recover.store import Store

_LOCK_WAIT_S = 2.0
_STALE = (Covered, ProcessLookupError, FileNotFoundError)


@dataclass(frozen=True, slots=True)
class Done:
    """A step that was done; layers that stand there, monotonic time in s."""

    step: Act
    layers: int
    at: float


@dataclass(frozen=True, slots=True)
class Failed:
    """A step that did not succeed; stale if only because the world had changed since detection."""

    step: Act
    error: Exception
    stale: bool


Result = Done | Failed


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

    def run(self, steps: Sequence[Act], stopping: Callable[[], bool]) -> Iterator[Result]:
        """Execute steps in their order, yielding a result for each.

        stopping() is asked before each; what was not begun is then left for the next start.
        """
        stuck = [step for step in steps if self._prober.sleeps(_key(step))]
        for step in stuck:  # the way there leads over a daemon that hangs
            yield Failed(step, Hung(step.path, self._prober.timeout_s), stale=False)
        rest = [step for step in steps if step not in stuck]
        while rest and not stopping():
            results = self._together(rest, stopping)
            yield from results
            if not results:
                return
            rest = rest[len(results) :]

    def _together(self, steps: Sequence[Act], stopping: Callable[[], bool]) -> list[Result]:
        """Do steps on one thread; return their results, up to one that hung if one did."""
        results: list[Result] = []
        given_up = threading.Event()

        def act(root_fd: int) -> None:
            for step in steps:
                if given_up.is_set() or stopping():
                    return
                results.append(self._try(step, root_fd))

        def key() -> Hashable:
            return _key(steps[min(len(results), len(steps) - 1)])

        try:
            namespaces.visit(namespaces.home(), act, self._prober, key=key)
        except (Error, OSError) as error:
            given_up.set()
            finished = results[:]
            failing = steps[len(finished) :][: 1 if isinstance(error, Hung) else None]
            return finished + [Failed(s, error, isinstance(error, _STALE)) for s in failing]
        return results

    def _try(self, step: Act, root_fd: int) -> Result:
        try:
            with contextlib.ExitStack() as held:
                if not self._claim(step, held):
                    return Failed(step, Covered(f"{step.target} was unpublished"), stale=True)
                layers = self._do(step, root_fd)
        except (Error, OSError) as error:
            return Failed(step, error, isinstance(error, _STALE))
        return Done(step, layers, time.monotonic())

    def _claim(self, step: Act, held: contextlib.ExitStack) -> bool:
        """Lock a publication's target; False when it was unpublished meanwhile or is being so."""
        if not step.target:
            return True
        try:
            held.enter_context(self._locks.hold(step.target, wait_s=_LOCK_WAIT_S))
        except Error:
            return False
        return self._store.publication(step.target) is not None

    def _do(self, step: Act, root_fd: int) -> int:
        match step:
            case Bare():
                kept = step.stack[step.keep - 1 :]
                anchors.bare(step.path, kept, root_fd)
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
                remove(step.path)
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


def _key(step: Act) -> Hashable:
    """Name a step among the calls that may hang: one at a time for each path."""
    return "anchors", step.path


def remove(path: str) -> None:
    """Take an anchor away with all that stands on it, and its directory; raises OSError."""
    mounts.unmount_all(path)
    place = Path(path)
    if place.is_dir():
        place.rmdir()
    else:
        place.unlink(missing_ok=True)


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
