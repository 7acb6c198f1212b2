"""What to do inside other mount namespaces: steps as data, for the log, `--dry-run` and tests.

Pure.  These are the copies that nothing mounted on the node reaches: private ones
(`mountPropagation: None`), `subPath` binds of them, copies that another plugin made, and those in
which something else is mounted, which a mount from outside would cover.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from recover.anchors import plan as anchors
from recover.anchors.plan import Skip, words
from recover.anchors.shelf import Variant
from recover.detect import Copy, Origin
from recover.linux.mountinfo import Mount
from recover.linux.mounts import Attributes
from recover.linux.namespaces import Namespace

MOST = 256  # copies that are visited in one namespace

_FOREIGN = (
    "it is in a user namespace of its own, whose root could take off, or make writable, what is "
    "mounted from outside; restart the container to heal it, and give it the volume with "
    "mountPropagation HostToContainer to have it healed from then on"
)
_SURPLUS = f"more than {MOST} copies of the volume are mounted in this container"


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

    @property
    def target(self) -> str:
        """Return "": no copy inside another namespace is a publication's target."""
        return ""


@dataclass(frozen=True, slots=True)
class Swap(_AtCopy):
    """Put a clone in the place of a dead copy.

    origin is the path of our own namespace to clone, inner the sub-path of it: a live anchor, or
    the host copy whose peer or slave the dead copy was, so that mounts go on propagating between
    them as they did.  nested are the mounts to keep inside, with what each is taken from again.
    """

    origin: str
    inner: str
    attributes: Attributes
    nested: tuple[tuple[Mount, Origin], ...] = ()

    def describe(self) -> str:
        """Say it in words."""
        layers = f", {len(self.copy.stack)} layers" if len(self.copy.stack) > 1 else ""
        nested = f", keeping {len(self.copy.nested)} mount(s) inside" if self.copy.nested else ""
        return (
            f"replace {self.path} (superblock {self.copy.stack[-1].dev}{layers}) "
            f"in {self.namespace} by {words(self.origin, self.inner, self.attributes)}{nested}"
        )


@dataclass(frozen=True, slots=True)
class Peel(_AtCopy):
    """Remove dead layers above a live mount: the last step of a swap that was interrupted.

    The live mount is at the bottom of the copy's stack.
    """

    def describe(self) -> str:
        """Say it in words."""
        dead = len(self.copy.stack) - 1
        return f"remove {dead} dead layer(s) on top of {self.path} in {self.namespace}"


@dataclass(frozen=True, slots=True)
class MakePrivate(_AtCopy):
    """Make a dead copy private, so that what is mounted on the node does not cover it.

    Done while the source is away; the copy gets its propagation again by the swap.
    """

    def describe(self) -> str:
        """Say it in words."""
        return (
            f"keep {self.path} in {self.namespace} apart: a mount from outside would cover "
            "what is mounted inside it, or have fewer restrictions"
        )


Act = Swap | Peel | MakePrivate
Step = Act | Skip


@dataclass(frozen=True, slots=True)
class Kin:
    """A path of our own namespace off which copies of a peer group hang, and what it shows."""

    path: str
    shows: str  # of the superblock


@dataclass(frozen=True, slots=True)
class Case:
    """All that planning in other namespaces needs to know about one source.

    node is the case of the node, which is healed first; kin are by peer group; nested mounts that
    can be rebuilt have an origin.
    """

    node: anchors.Case
    copies: tuple[Copy, ...] = ()
    kin: Mapping[int, tuple[Kin, ...]] = field(default_factory=dict)
    origins: Mapping[Mount, Origin] = field(default_factory=dict)
    foreign: frozenset[Namespace] = frozenset()  # of other user namespaces
    cut: tuple[Namespace, ...] = ()  # with more mounts of the source than were looked at
    on_source: bool = False  # copies belong to the source itself: it is the sidecar of their pod


def steps(case: Case, origins: anchors.Origins) -> tuple[Step, ...]:
    """Return the steps that heal what hangs off nothing on the node, one for each copy.

    Of a namespace with very many the first alone, which an ordinary pod has.
    """
    found: list[Step] = []
    surplus = dict.fromkeys((n for n in case.cut if n not in case.foreign), "/")
    for namespace, group in itertools.groupby(case.copies, key=lambda copy: copy.namespace):
        copies = tuple(group)
        if namespace in case.foreign:
            more = f" (and {len(copies) - 1} more there)" if len(copies) > 1 else ""
            found.append(Skip(namespace, copies[0].path, _FOREIGN + more))
            continue
        if len(copies) > MOST:
            surplus[namespace] = copies[MOST].path
        found += [_for_copy(case, copy, origins) for copy in copies[:MOST]]
    return (*found, *(Skip(namespace, path, _SURPLUS) for namespace, path in surplus.items()))


def _for_copy(case: Case, copy: Copy, origins: anchors.Origins) -> Step:
    node = case.node
    lives = [index for index, mount in enumerate(copy.stack) if mount.dev == node.live]
    if lives:
        return Peel(replace(copy, stack=copy.stack[lives[-1] :]))
    variant = anchors.variant_of(node, copy, None)
    if isinstance(variant, str):
        return Skip(copy.namespace, copy.path, variant)
    if stuck := _stuck(case, copy):
        return Skip(copy.namespace, copy.path, stuck)
    return Swap(copy, *_renewed(case, copy, variant, origins), _kept(case, copy))


def _renewed(
    case: Case, copy: Copy, variant: Variant, origins: anchors.Origins
) -> tuple[str, str, Attributes]:
    """Return from where a copy is taken again, which part of that, and with which attributes."""
    attributes = Attributes.of(copy.stack[0], read_only=variant.read_only)
    if case.on_source:
        return case.node.shelf.source, variant.inner, attributes
    kin = _kin(case.kin, copy)
    if kin is None and attributes.propagation == "slave":
        return origins.of(variant), "", attributes
    if kin is None:
        return *origins.around(variant.inner, read_only=variant.read_only), attributes
    # a slave with a group of its own must not become a peer: its mounts would appear on the host
    is_peer = copy.stack[0].shared in case.kin
    return *kin, replace(attributes, propagation="peer" if is_peer else "slave")


def _kept(case: Case, copy: Copy) -> tuple[tuple[Mount, Origin], ...]:
    return tuple((mount, case.origins[mount]) for mount in copy.nested)


def _kin(groups: Mapping[int, tuple[Kin, ...]], copy: Copy) -> tuple[str, str] | None:
    """Return the host copy that a container's copy was a peer or slave of, and the path in it.

    Of several it is the one that shows the least: the subPath rather than the target around it.
    """
    lowest = copy.stack[0]
    shown = lowest.inner_path
    fitting = [
        (len(base), kin.path, shown[len(base) :].strip("/"))
        for kin in (*groups.get(lowest.shared, ()), *groups.get(lowest.master, ()))
        for base in (kin.shows.rstrip("/"),)
        if f"{shown}/".startswith(f"{base}/")
    ]
    return max(fitting)[1:] if fitting else None


def _stuck(case: Case, copy: Copy) -> str | None:
    listed = ", ".join(m.mount_point for m in copy.nested if m not in case.origins)
    if not listed:
        return None
    return (
        f"the mount(s) inside it ({listed}) cannot be rebuilt from anything mounted on this node; "
        "restart the container to heal it"
    )
