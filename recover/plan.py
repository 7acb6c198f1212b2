"""What to do about broken copies: steps as data, which the log, `recover --dry-run` and tests read.

Pure.  The order is the order of execution: our own namespace first, so that a container started
meanwhile already gets the new mount, then every other namespace.
"""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from recover import detect, policy
from recover.detect import Copy
from recover.linux.mountinfo import Mount
from recover.linux.mounts import Attributes
from recover.linux.namespaces import Namespace
from recover.store import Generation, Publication


class Strategy(enum.Enum):
    """How copies are reached."""

    NAMESPACE = "namespace"  # enter each mount namespace and swap the mount there
    PROPAGATION = "propagation"  # mount on top of the host's copies and let the kernel pass it on


@dataclass(frozen=True, slots=True)
class _AtCopy:
    """A step at a broken copy."""

    copy: Copy

    @property
    def namespace(self) -> Namespace:
        """Return where this happens."""
        return self.copy.namespace

    @property
    def path(self) -> str:
        """Return the mount point."""
        return self.copy.path


@dataclass(frozen=True, slots=True)
class Swap(_AtCopy):
    """Put a clone of the source in the place of a dead copy.

    origin is the path of our own namespace to clone, inner the sub-path of it: the source, or the
    healed host copy whose peer or slave the dead copy was, so that mounts go on propagating between
    them as they did.
    """

    origin: str
    inner: str
    attributes: Attributes
    target: str = ""  # of a publication, "" where the copy is not at one

    def describe(self) -> str:
        """Say it in words."""
        layers = f", {len(self.copy.stack)} layers" if len(self.copy.stack) > 1 else ""
        nested = f", keeping {len(self.copy.nested)} mount(s) inside" if self.copy.nested else ""
        return (
            f"replace {self.path} (superblock {self.copy.stack[-1].dev}{layers}) "
            f"in {self.namespace} by {_words(self.origin, self.inner, self.attributes)}{nested}"
        )


@dataclass(frozen=True, slots=True)
class Cover(_AtCopy):
    """Mount a clone of the source on top of a dead copy, for the kernel to propagate."""

    origin: str
    inner: str
    attributes: Attributes
    target: str = ""

    def describe(self) -> str:
        """Say it in words."""
        new = _words(self.origin, self.inner, self.attributes)
        return f"mount {new} on top of {self.path} (superblock {self.copy.stack[-1].dev})"


@dataclass(frozen=True, slots=True)
class Peel(_AtCopy):
    """Remove dead layers above a live mount: the last step of a heal that was interrupted.

    The live mount is at the bottom of the copy's stack.
    """

    target: str = ""

    def describe(self) -> str:
        """Say it in words."""
        dead = len(self.copy.stack) - 1
        return f"remove {dead} dead layer(s) on top of {self.path} in {self.namespace}"


@dataclass(frozen=True, slots=True)
class Attach:
    """Mount a clone of the source at a target whose mount is gone."""

    namespace: Namespace
    target: str
    origin: str
    inner: str
    attributes: Attributes

    @property
    def path(self) -> str:
        """Return the mount point."""
        return self.target

    def describe(self) -> str:
        """Say it in words."""
        return (
            f"mount {_words(self.origin, self.inner, self.attributes)} at {self.target}, now bare"
        )


@dataclass(frozen=True, slots=True)
class Leave:
    """Touch nothing here, and say why."""

    namespace: Namespace
    path: str
    reason: str
    target: str = ""

    def describe(self) -> str:
        """Say it in words."""
        return f"leave {self.path} in {self.namespace}: {self.reason}"


Act = Swap | Peel | Cover | Attach
Step = Act | Leave


@dataclass(frozen=True, slots=True)
class Case:
    """All that planning needs to know about one source."""

    source: str
    home: Namespace
    strategy: Strategy
    publications: tuple[Publication, ...]
    generations: tuple[Generation, ...]
    live: str  # the source's superblock that answers
    recover_writable: bool = False
    copies: tuple[Copy, ...] = ()
    bare: tuple[Publication, ...] = ()  # whose target is a directory without a mount
    unavailable: frozenset[Mount] = frozenset()  # nested, with nothing to rebuild them from
    settled: frozenset[tuple[int, str]] = frozenset()  # (namespace, path) the kernel keeps stacked


def steps(case: Case) -> tuple[Step, ...]:
    """Return the steps that heal a case, in their order."""
    by_target = {p.target: p for p in case.publications}
    groups = _groups(case)
    at_home = [c for c in case.copies if c.namespace.inode == case.home.inode]
    elsewhere = [c for c in case.copies if c.namespace.inode != case.home.inode]
    found = (
        *(_for_bare(case, p) for p in case.bare),
        *(_for_copy(case, c, by_target.get(c.path), groups) for c in at_home),
        *(_for_copy(case, c, None, groups) for c in elsewhere),
    )
    return tuple(step for step in found if step is not None)


def _for_bare(case: Case, publication: Publication) -> Step:
    reason = policy.refusal(
        copy_read_only=publication.read_only,
        publications=[publication],
        recover_writable=case.recover_writable,
    )
    if reason is not None:
        return Leave(case.home, publication.target, reason, publication.target)
    flags = frozenset({"ro"} if publication.read_only else ())
    attributes = Attributes(flags, propagation="private", keep=True)
    return Attach(case.home, publication.target, case.source, publication.sub_path, attributes)


def _for_copy(
    case: Case, copy: Copy, publication: Publication | None, groups: Mapping[int, list[Copy]]
) -> Step | None:
    target = publication.target if publication is not None else ""
    lives = [index for index, mount in enumerate(copy.stack) if mount.dev == case.live]
    if case.strategy is Strategy.NAMESPACE and lives and lives[-1] < len(copy.stack) - 1:
        return Peel(replace(copy, stack=copy.stack[lives[-1] :]), target)
    if copy.stack[-1].dev == case.live and not _to_tidy(case, copy):
        return None
    owners = (publication,) if publication is not None else case.publications
    reason = policy.refusal(
        copy_read_only=copy.read_only,
        publications=owners,
        recover_writable=case.recover_writable,
    ) or _stuck(case, copy)
    inner = _inner(case, copy, publication)
    if reason is None and inner is None:
        reason = f"it shows {copy.stack[0].inner_path}, which is outside of the source"
    if reason is not None or inner is None:
        return Leave(copy.namespace, copy.path, reason or "", target)
    # What every publication of a source declares read-only must not stay writable in a container
    # because an earlier plugin set the flag too late for it to propagate.
    attributes = Attributes.of(
        copy.stack[0], read_only=copy.read_only or all(p.read_only for p in owners)
    )
    if case.strategy is Strategy.PROPAGATION:
        return Cover(copy, case.source, inner, attributes, target)
    kin = None if copy.namespace.inode == case.home.inode else _kin(groups, copy)
    if kin is None:
        return Swap(copy, case.source, inner, attributes, target)
    # a slave with a group of its own must not become a peer: its mounts would appear on the host
    attributes = replace(
        attributes, propagation="peer" if copy.stack[0].shared in groups else "slave"
    )
    return Swap(copy, kin[0], kin[1], attributes, target)


def _to_tidy(case: Case, copy: Copy) -> bool:
    """Tell whether a live layer on top of dead ones is to be made one layer again.

    It costs the application an instant of ENOTCONN, so it is done once, and never where the kernel
    kept the lower layer before (a mount locked by a user namespace).
    """
    return (
        case.strategy is Strategy.NAMESPACE
        and copy.stack[0].dev != case.live
        and (copy.namespace.inode, copy.path) not in case.settled
    )


def _groups(case: Case) -> dict[int, list[Copy]]:
    """Return the broken copies of our own namespace by the peer groups that each had.

    A stack has several: where another plugin laid its mounts on top, a container still hangs off
    the lowest.
    """
    found: dict[int, list[Copy]] = {}
    for copy in case.copies:
        if copy.namespace.inode == case.home.inode:
            for group in {mount.shared for mount in copy.stack} - {0}:
                found.setdefault(group, []).append(copy)
    return found


def _kin(groups: Mapping[int, list[Copy]], copy: Copy) -> tuple[str, str] | None:
    """Return the host copy that a container's copy was a peer or slave of, and the path in it.

    Of several it is the one that shows the least: the subPath rather than the target around it.
    """
    lowest = copy.stack[0]
    shown = lowest.inner_path
    others = [*groups.get(lowest.shared, ()), *groups.get(lowest.master, ())]
    fitting = [
        (len(base), other.path, shown[len(base) :].strip("/"))
        for other in others
        for base in (other.stack[0].inner_path.rstrip("/"),)
        if f"{shown}/".startswith(f"{base}/")
    ]
    return max(fitting)[1:] if fitting else None


def _inner(case: Case, copy: Copy, publication: Publication | None) -> str | None:
    if publication is not None:
        return publication.sub_path
    return detect.inner_path(copy.stack[0], case.generations)


def _stuck(case: Case, copy: Copy) -> str | None:
    lost: Iterable[str] = (m.mount_point for m in copy.nested if m in case.unavailable)
    listed = ", ".join(lost)
    if not listed or case.strategy is Strategy.PROPAGATION:
        return None
    return (
        f"the mount(s) inside it ({listed}) cannot be rebuilt from anything mounted on this node; "
        "restart the container to heal it"
    )


def _words(source: str, inner: str, attributes: Attributes) -> str:
    kind = "read-only" if "ro" in attributes.flags else "writable"
    return f"a {kind} clone of {source}{'/' + inner if inner else ''}"
