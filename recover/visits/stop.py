"""What is taken along into one mount namespace: its steps, and detached copies for them.

Copies are made in our own namespace, where the source is, before the way there.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from recover.detect import Origin
from recover.linux import mounts
from recover.linux.mountinfo import Mount
from recover.linux.mounts import Clone
from recover.linux.namespaces import Namespace
from recover.linux.probe import Prober
from recover.visits.plan import Act, MakePrivate, Peel, Swap


@dataclass(slots=True)
class Prepared:
    """A step and the detached copies for it; closing dissolves what was not attached."""

    step: Act
    clone: Clone | None = None
    nested: list[mounts.Nested] = field(default_factory=list)
    is_nested: bool = False  # those stand in the clone already

    @property
    def fd(self) -> int:
        """Return the descriptor of the copy's root."""
        assert self.clone is not None
        return self.clone.fd

    def do(self, root_fd: int) -> int:
        """Do the step, in the context of a visit; return the layers that remain.

        Raises Covered or OSError.
        """
        step = self.step
        match step:
            case Swap():
                assert self.clone is not None
                late = () if self.is_nested else self.nested
                return mounts.swap(self.clone, step.copy.stack, root_fd, late)
            case Peel():
                return mounts.peel(step.copy.stack, root_fd)
            case MakePrivate():
                top = step.copy.stack[-1]
                with mounts.closing(mounts.open_exactly(step.path, top, root_fd)) as fd:
                    mounts.set_propagation(fd, "private")
                return len(step.copy.stack)

    def close(self) -> None:
        """Release what it has; may be called again."""
        if self.clone is not None:
            self.clone.close()
        for nested in self.nested:
            nested.close()
        self.nested.clear()


@dataclass(slots=True)
class Stop:
    """What is to be done in one namespace, in its order; it is the one's who took it."""

    namespace: Namespace
    prepared: list[Prepared]

    def close(self) -> None:
        """Release all of it."""
        for each in self.prepared:
            each.close()


class Packer:
    """Makes the copies that steps need; closed, it lets go of where they are taken from."""

    def __init__(self, prober: Prober, live: str) -> None:
        self._prober = prober
        self._live = live
        self._origins: dict[str, int] = {}  # opened, for many copies are of one

    def close(self) -> None:
        """Release the origins."""
        for fd in self._origins.values():
            os.close(fd)
        self._origins.clear()

    def pack(self, step: Act) -> Prepared:
        """Return a step with its copies; raises Covered, Unanswered, Crowded or OSError."""
        if not isinstance(step, Swap):
            return Prepared(step)
        prepared = Prepared(step, self._clone(step))
        try:
            for mount, origin in step.nested:
                prepared.nested.append(self._rebuild(mount, origin, prepared))
            prepared.is_nested = mounts.nest(prepared.nested)
        except BaseException:
            prepared.close()
            raise
        return prepared

    def _clone(self, step: Swap) -> Clone:
        if not step.inner:
            if step.origin not in self._origins:
                self._origins[step.origin] = mounts.open_source(step.origin, self._live)
            return Clone.of(self._origins[step.origin], step.attributes)

        def clone() -> Clone:
            return mounts.clone(step.origin, step.inner, step.attributes, self._live)

        key, payer = ("clone", step.origin, step.inner), step.namespace.inode
        return self._prober.run(key, clone, discard=Clone.close, payer=payer)

    def _rebuild(self, mount: Mount, origin: Origin, prepared: Prepared) -> mounts.Nested:
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


def asks(steps: Sequence[Act]) -> bool:
    """Tell whether a daemon is asked when steps are packed: for a place inside a mount."""
    return any(isinstance(step, Swap) and (step.inner or step.nested) for step in steps)
