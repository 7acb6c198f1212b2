"""What is broken: pure functions over mount tables, rows and answers.

A copy is ours only by a recorded generation's superblock that is also known to be dead, or by
standing at the target of a publication; nothing is concluded from names in paths.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from recover.linux.mountinfo import Mount, MountTable
from recover.linux.namespaces import Namespace
from recover.rows import Generation, Method, Publication


@dataclass(frozen=True, slots=True)
class Copy:
    """A path in some namespace at which a dead mount stands.

    stack holds our layers there, bottom first.  Until the heal that is one dead mount, and a live
    one on top of it afterwards; a live one below it was attached by a swap that was killed.
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
        """Return whether the copy, or one that it covers, is read-only."""
        return any(mount.read_only for mount in self.stack)


def copies(
    namespace: Namespace,
    table: MountTable,
    *,
    dead: frozenset[str],
    live: str,
    is_spared: Callable[[str], bool] = lambda _: False,
) -> Iterator[Copy]:
    """Yield the paths of a table at which a mount of a dead superblock stands, covered or not.

    live is the source's present superblock ("" for none); spared paths are left out.
    What somebody else mounted there stays out of a copy, with all that it covers.
    """
    if not dead:
        return
    ours = dead | {live}
    for mount in table.of_superblocks(ours):
        if is_spared(mount.mount_point) or _stands_on(table, mount, ours):
            continue
        pile = _pile(table, mount)
        is_dead = [each.dev in dead for each in pile]
        if any(is_dead) and all(each.dev in ours for each in pile):
            yield Copy(namespace, pile, tuple(_nested(table, pile, ours)))


def _stands_on(table: MountTable, mount: Mount, ours: frozenset[str]) -> bool:
    """Return whether a mount covers another one of ours at the same place."""
    below = table.by_id.get(mount.parent_id)
    return below is not None and below.mount_point == mount.mount_point and below.dev in ours


def _pile(table: MountTable, mount: Mount) -> tuple[Mount, ...]:
    """Return what stands at a mount's place from it upwards."""
    found = [mount]
    while above := [
        m
        for m in table.children.get(found[-1].mnt_id, ())
        if m.mount_point == mount.mount_point and m not in found
    ]:
        found.append(above[0])
    return tuple(found)


def is_visible(table: MountTable, copy: Copy) -> bool:
    """Return whether a walk to a copy's path ends there, and not in what hides it."""
    return table.stack(copy.path)[-len(copy.stack) :] == copy.stack


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
    """Return whether a mount shows what its place would show without it.

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
    targets = {p.target for p in publications if p.method is Method.BIND}
    return frozenset(m.dev for m in table if m.mount_point in targets and m.is_fuse)


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
