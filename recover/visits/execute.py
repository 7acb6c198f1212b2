"""Do what is planned inside other mount namespaces, and look whether each step worked.

A step that fails, or finds that what it should touch has changed, leaves what was there; all steps
may be done again.  Nothing here touches a FUSE path but `mounts.clone` of a sub-path and the forced
look at the end, both with a time limit.
"""

import itertools
import os
import queue
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from recover.batch import Batch, Failed, Result
from recover.detect import Origin
from recover.errors import Covered, Error, Unverified
from recover.linux import mountinfo, mounts, probe
from recover.linux.mountinfo import Mount
from recover.linux.mounts import Clone
from recover.linux.namespaces import Namespace
from recover.linux.probe import Prober
from recover.visits.plan import Act, MakePrivate, Peel, Swap

_VISITORS = 2  # namespaces visited at a time
_MOST_VISITORS = 64
_HURRY_S = 0.1  # after so long without an end of a visit another one begins beside those
_MANY = 8  # steps in one namespace that make it likely to be that of the host
_AT_ONCE = 32  # steps of one visit, each of which has descriptors until it ends


_Ended = list[Result[Act]] | Exception  # of one visit


class Executor:
    """Executes steps for one source whose live superblock is known."""

    def __init__(self, prober: Prober, live: str) -> None:
        self._prober = prober
        self._live = live

    def run(self, steps: Sequence[Act], stopping: Callable[[], bool]) -> Iterator[Result[Act]]:
        """Execute steps, those of one namespace in one visit, yielding a result for each.

        Between namespaces, stopping() is asked; what was not begun is then left for the next start.
        """
        groups = [list(g) for _, g in itertools.groupby(steps, key=lambda s: s.namespace.inode)]
        groups.sort(key=len)  # who has very many waits for the others

        def inside(group: list[Act]) -> list[Result[Act]]:
            if stopping():
                return []
            namespace = group[0].namespace
            if len(group) > _MANY:
                group = _still_there(group)
            return list(self._inside(namespace, group))

        for results in _by_visitors(inside, groups) if len(groups) > 1 else map(inside, groups):
            yield from results

    def _inside(self, namespace: Namespace, batch: Sequence[Act]) -> Iterator[Result[Act]]:
        visit = Batch(namespace, self._prober, _key)
        asleep, rest = visit.split(batch)
        yield from asleep
        while rest:
            ready, failed = self._prepare(rest[:_AT_ONCE])
            yield from failed
            results = self._act(visit, ready) if ready else []
            yield from results
            rest = [*list(ready)[len(results) :], *rest[_AT_ONCE:]]

    def _act(self, visit: Batch[Act], ready: Mapping[Act, "_Prepared"]) -> list[Result[Act]]:
        def release() -> None:
            for prepared in ready.values():
                prepared.close()

        def act(step: Act, root_fd: int) -> int:
            layers = _do(ready[step], root_fd)
            if isinstance(step, Swap | Peel):
                verify(step.path, root_fd, self._live)
            return layers

        return visit.run(tuple(ready), act, release=release)

    def _prepare(self, batch: Sequence[Act]) -> tuple[dict[Act, "_Prepared"], list[Failed[Act]]]:
        """Take the clones that the steps need, in our own namespace, where the source is."""
        ready: dict[Act, _Prepared] = {}
        failed: list[Failed[Act]] = []
        for step in batch:
            try:
                ready[step] = self._take(step)
            except (Error, OSError) as error:
                failed.append(Failed(step, error, isinstance(error, Covered)))
        return ready, failed

    def _take(self, step: Act) -> "_Prepared":
        if not isinstance(step, Swap):
            return _Prepared(step)
        prepared = _Prepared(step, self._clone(step))
        try:
            for mount, origin in step.nested:
                prepared.nested.append(self._rebuild(mount, origin, prepared))
            prepared.is_nested = mounts.nest(prepared.nested)
        except BaseException:
            prepared.close()
            raise
        return prepared

    def _clone(self, step: Swap) -> Clone:
        def clone() -> Clone:
            return mounts.clone(step.origin, step.inner, step.attributes, self._live)

        if not step.inner:
            return clone()
        key, payer = ("clone", step.origin, step.inner), step.namespace.inode
        return self._prober.run(key, clone, discard=Clone.close, payer=payer)

    def _rebuild(self, mount: Mount, origin: Origin, prepared: "_Prepared") -> mounts.Nested:
        """Copy a mount that stands inside a dead one, and find its place in the new one."""
        inner = mount.mount_point[len(prepared.step.path.rstrip("/")) :]
        around = [n for n in prepared.nested if f"{inner}/".startswith(f"{n.inner}/")]
        below = max(around, key=lambda n: len(n.inner), default=None)
        around_fd, base = (below.clone.fd, below.inner) if below else (prepared.fd, "")

        def build() -> mounts.Nested:
            place_fd = mounts.open_inside(around_fd, inner[len(base) :])
            try:
                attributes = mounts.Attributes.of(mount)
                clone = mounts.clone(origin.path, origin.inner, attributes, origin.dev)
                return mounts.Nested(inner, clone, place_fd)
            except BaseException:
                os.close(place_fd)
                raise

        payer = prepared.step.namespace.inode
        key = ("nest", payer, mount.mount_point)
        return self._prober.run(key, build, discard=mounts.Nested.close, payer=payer)


@dataclass(slots=True)
class _Prepared:
    """A step and the detached clones for it; closing dissolves what was not attached."""

    step: Act
    clone: Clone | None = None
    nested: list[mounts.Nested] = field(default_factory=list)
    is_nested: bool = False  # those stand in the clone already

    @property
    def fd(self) -> int:
        assert self.clone is not None
        return self.clone.fd

    def close(self) -> None:
        if self.clone is not None:
            self.clone.close()
        for nested in self.nested:
            nested.close()


def _key(step: Act) -> Hashable:
    """Name a step among the calls that may hang: one at a time for each path."""
    return "step", step.namespace.inode, step.path


def _do(prepared: _Prepared, root_fd: int) -> int:
    step = prepared.step
    match step:
        case Swap():
            assert prepared.clone is not None
            late = () if prepared.is_nested else prepared.nested
            return mounts.swap(prepared.clone, step.copy.stack, root_fd, late)
        case Peel():
            return mounts.peel(step.copy.stack, root_fd)
        case MakePrivate():
            top = step.copy.stack[-1]
            with mounts.closing(mounts.open_exactly(step.path, top, root_fd)) as fd:
                mounts.set_propagation(fd, "private")
            return len(step.copy.stack)


def verify(path: str, root_fd: int, live: str) -> None:
    """Force a request to the server through a healed path; raises Unverified. Unbounded."""
    with mounts.closing(mounts.open_path(path, root_fd)) as fd:
        reply = probe.ask(fd)
    if not reply.alive:
        reason = os.strerror(reply.errno) if reply.errno else reply.answer.value
        raise Unverified(f"{path} was replaced but {reply.answer.value} ({reason})")
    if reply.dev != live:
        raise Unverified(f"{path} shows superblock {reply.dev} after the swap, not {live}")


def _by_visitors(
    visit: Callable[[list[Act]], list[Result[Act]]], groups: list[list[Act]]
) -> Iterator[list[Result[Act]]]:
    """Yield what each visit returns, in any order; those that hang do not hold up the others."""
    waiting = iter(groups)  # its next() is atomic
    ended: queue.SimpleQueue[_Ended] = queue.SimpleQueue()

    def work() -> None:
        for group in waiting:
            try:
                ended.put(visit(group))
            except Exception as error:  # noqa: BLE001  raised below
                ended.put(error)

    with ThreadPoolExecutor(_MOST_VISITORS, "visits") as pool:
        for _ in range(_VISITORS):
            pool.submit(work)
        for _ in groups:
            while (results := _soon(ended)) is None:
                pool.submit(work)  # all visitors are held up
            if isinstance(results, Exception):
                raise results
            yield results


def _soon(ended: "queue.SimpleQueue[_Ended]") -> "_Ended | None":
    try:
        return ended.get(timeout=_HURRY_S)
    except queue.Empty:
        return None


def _still_there(steps: list[Act]) -> list[Act]:
    """Return the steps whose mount is still there.

    Where a namespace shares the host's directories, the swaps made at home have reached it already.
    """
    try:
        here = mountinfo.ids(mountinfo.read_bytes(steps[0].namespace.pid))
    except OSError:  # it ended; the visit will say so
        return steps
    return [
        step for step in steps if not isinstance(step, Swap) or step.copy.stack[-1].mnt_id in here
    ]
