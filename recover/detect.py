"""What is broken: pure functions over mount tables, rows and answers.

A copy is ours only by a recorded generation's superblock that is also known to be dead, or by
standing at the target of a publication; nothing is concluded from names in paths.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from recover import anchor
from recover.linux.mountinfo import Mount, MountTable
from recover.linux.namespaces import Namespace
from recover.store import Generation, Publication


@dataclass(frozen=True, slots=True)
class Copy:
    """A broken path in some namespace.

    stack holds our layers there, bottom first.  Mostly it is one dead mount; a live one above it
    was propagated there by the kernel, a live one below it was attached by a heal that was killed.
    nested are mounts that stand inside one of them, without those that show what is there anyway.
    """

    namespace: Namespace
    stack: tuple[Mount, ...]
    nested: tuple[Mount, ...] = ()

    @property
    def path(self) -> str:
        """Return where the copy is, as seen in its namespace."""
        return self.stack[-1].mount_point

    @property
    def read_only(self) -> bool:
        """Tell whether the copy, or one that it covers, is read-only."""
        return any(mount.read_only for mount in self.stack)


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be done in a namespace.

    spared paths are never touched: the global mount's own.  A live mount that covers a dead one may
    be unmounted at `tidy` paths, and elsewhere only if it is not shared; and nowhere if it stands
    on a peer of a mount on which the source stands (source_groups, their peer groups), because that
    would unmount the source.
    """

    spared: frozenset[str] = frozenset()
    tidy: frozenset[str] = frozenset()
    source_groups: frozenset[int] = frozenset()


_NO_LIMITS = Limits()


def broken_copies(
    namespace: Namespace,
    table: MountTable,
    *,
    dead: frozenset[str],
    live: str,
    limits: Limits = _NO_LIMITS,
) -> tuple[Copy, ...]:
    """Return the broken copies of dead superblocks in a table.

    live is the source's present superblock ("" for none).
    """
    points = {mount.mount_point for mount in table.of_superblocks(dead)} - limits.spared
    points = {point for point in points if not anchor.is_anchor(point)}
    found = (_copy(namespace, table, point, dead, live) for point in sorted(points))
    return tuple(
        copy
        for copy in found
        if copy is not None and (_is_dead(copy, dead) or _may_tidy(copy, limits))
    )


def _is_dead(copy: Copy, dead: frozenset[str]) -> bool:
    return copy.stack[-1].dev in dead


def _may_tidy(copy: Copy, limits: Limits) -> bool:
    if any(mount.shared in limits.source_groups for mount in copy.stack[:-1]):
        return False
    return copy.path in limits.tidy or not copy.stack[-1].shared


def _copy(
    namespace: Namespace, table: MountTable, path: str, dead: frozenset[str], live: str
) -> Copy | None:
    ours: list[Mount] = []
    for mount in reversed(table.stack(path)):
        if mount.dev not in dead and mount.dev != live:
            break  # someone else's mount: it and what it covers stay
        ours.insert(0, mount)
    if not any(mount.dev in dead for mount in ours):
        return None
    return Copy(namespace, tuple(ours), tuple(_nested(table, ours, dead | {live})))


def _nested(table: MountTable, stack: Iterable[Mount], ours: frozenset[str]) -> Iterator[Mount]:
    """Yield the mounts to keep inside a stack's, each before those inside of it."""
    inside = list(stack)
    seen = {mount.mnt_id for mount in inside}
    while inside:
        around = inside.pop(0)
        new = [m for m in table.children.get(around.mnt_id, ()) if m.mnt_id not in seen]
        seen.update(child.mnt_id for child in new)
        inside += new
        yield from (child for child in new if not _repeats(child, around, ours))


def _repeats(child: Mount, around: Mount, ours: frozenset[str]) -> bool:
    """Tell whether a mount shows what its place would show without it.

    A subPath of a mount that Fluid's plugin bound is its peer: what that plugin laid over the
    subPath the kernel laid into the mount too, once for each crash.
    """
    place = child.mount_point[len(around.mount_point.rstrip("/")) :]
    return (
        {child.dev, around.dev} <= ours
        and child.options == around.options
        and child.inner_path.rstrip("/") == around.inner_path.rstrip("/") + place
    )


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a mount can be taken again: the inner part of what stands at a path of our own."""

    path: str
    inner: str
    dev: str  # the superblock that must be found there


def origin_of(mount: Mount, table: MountTable, generations: Iterable[Generation]) -> Origin | None:
    """Return from what a mount that stands inside a dead one can be rebuilt, if from anything.

    Its superblock (a volume of the pod) is usually mounted in our own namespace too.  A dead one of
    any source becomes that source's present one.
    """
    dead = [g for g in generations if g.dev == mount.dev and g.dead_at is not None]
    for generation in dead:
        inner = inner_path(mount, dead)
        top = table.at(generation.source)
        if inner is not None and top is not None and top.is_fuse:
            return Origin(generation.source, inner, top.dev)
    for other in table.of_superblocks(frozenset({mount.dev})):
        base = other.inner_path.rstrip("/")
        within = mount.inner_path == other.inner_path or mount.inner_path.startswith(base + "/")
        if within and table.at(other.mount_point) == other:
            return Origin(other.mount_point, mount.inner_path[len(base) :].strip("/"), mount.dev)
    return None


def superblocks_at_targets(
    publications: Iterable[Publication], table: MountTable
) -> frozenset[str]:
    """Return the FUSE superblocks that stand at the targets: ours by publication."""
    stacks = (table.stack(p.target) for p in publications if p.method == "bind")
    return frozenset(mount.dev for stack in stacks for mount in stack if mount.is_fuse)


def inner_path(mount: Mount, generations: Iterable[Generation]) -> str | None:
    """Return what part of its source a copy shows, "" for all; None if it lies outside of it."""
    base = next((g.root for g in generations if g.dev == mount.dev), "/")
    shown = mount.inner_path
    if base in {"/", shown}:
        return shown[len(base) :].strip("/")
    if shown.startswith(base.rstrip("/") + "/"):
        return shown[len(base) :].strip("/")
    return None


def impostors(table: MountTable, generations: Iterable[Generation]) -> frozenset[str]:
    """Return recorded device numbers that now belong to another file system.

    The kernel gives a number away again once its superblock is gone.  A row without a type was
    written when its mount was gone already: it tells nothing.
    """
    known = {g.dev: (g.fs_type, g.mount_source) for g in generations if g.fs_type}
    return frozenset(
        m.dev for m in table if m.dev in known and known[m.dev] != (m.fs_type, m.source)
    )
