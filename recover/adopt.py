"""Publications of mounts that another plugin left behind, or ourselves with a lost state file.

A FUSE mount at a target is ours if the note beside it says so, or, where that cannot be read, if
its superblock is also mounted below the sources' root.  Then its source is looked for, best
evidence first; a mount without good evidence is left out, because a wrong source would show a pod
another dataset's data.

Pure over a mount table, the store and the node's layout.  Nothing touches a FUSE path: a note lies
on the node's disk, and a target that is itself within a FUSE mount is passed over.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from recover.anchors import anchor
from recover.layout import Layout, PodVolume
from recover.linux.mountinfo import Mount, MountTable
from recover.rows import Publication
from recover.store import Store


@dataclass(frozen=True, slots=True)
class Unknown:
    """A mount of ours whose source could not be found; reason says what is known."""

    target: str
    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """The rows to record, and the mounts that had to be left out."""

    publications: tuple[Publication, ...]
    unknown: tuple[Unknown, ...]


@dataclass(frozen=True, slots=True)
class _Orphan:
    """A mount without a row; volume_id is "" where there is no note."""

    mount: Mount
    volume: PodVolume
    volume_id: str


@dataclass(frozen=True, slots=True)
class _Source:
    """A source, and what its mount shows of its superblock."""

    path: str
    root: str = "/"


def find(table: MountTable, store: Store, layout: Layout) -> Found:
    """Return rows for the mounts of ours that have none, and those that had to be left out."""
    evidence = _Evidence(table, store, layout)
    rows: list[Publication] = []
    rest: list[_Orphan] = []
    for orphan in _orphans(table, store, layout):
        source = evidence.by_superblock(orphan) or evidence.by_generation(orphan)
        if source is not None:
            rows.append(evidence.row(orphan, source))
        elif orphan.volume_id:
            rest.append(orphan)
    unknown: list[Unknown] = []
    for orphan in rest:
        sources = (
            evidence.by_sibling(orphan)
            or evidence.by_convention(orphan)
            or evidence.by_superblock_anywhere(orphan)
        )
        if len(sources) == 1:
            rows.append(evidence.row(orphan, *sources))
        else:
            unknown.append(Unknown(orphan.mount.mount_point, _reason(orphan, sources)))
    return Found(tuple(rows), tuple(unknown))


def gone(
    publications: Iterable[Publication], layout: Layout, is_directory: Callable[[str], bool]
) -> tuple[Publication, ...]:
    """Return the publications of pods that are gone, going by the directory that held the target.

    It goes with the volume.  Nothing is gone where the directory of all pods is missing: then it is
    not mounted (yet).  The target itself, which may be dead or hung, is not asked about.
    """
    return tuple(
        p
        for p in publications
        if not is_directory(str(Path(p.target).parent))
        and ((volume := layout.pods.published(p.target)) is None or is_directory(volume.pods))
    )


def _orphans(table: MountTable, store: Store, layout: Layout) -> Iterator[_Orphan]:
    for path in dict.fromkeys(mount.mount_point for mount in table):
        volume = layout.pods.published(path)
        if volume is None or store.publication(path) is not None:
            continue
        stack = table.stack(path)
        if not stack or not stack[-1].is_fuse or _is_within_fuse(stack[0], table, volume.pods):
            continue
        note = layout.pods.note(path)
        if note is None or note.is_ours:
            yield _Orphan(stack[-1], volume, "" if note is None else note.volume_id)


def _is_within_fuse(mount: Mount, table: MountTable, pods: str) -> bool:
    """Tell whether a mount stands in a FUSE mount of some pod.

    What is above the pods is the machine's own: a container's root may be a FUSE mount, and then
    everything here stands in one (fuse-overlayfs).
    """
    seen = {mount.mnt_id}
    while (above := table.by_id.get(mount.parent_id)) and above.mnt_id not in seen:
        if above.is_fuse and above.mount_point.startswith(f"{pods}/"):
            return True
        seen.add(above.mnt_id)
        mount = above
    return False


class _Evidence:
    """What a mount table and the store say about where a volume comes from."""

    def __init__(self, table: MountTable, store: Store, layout: Layout) -> None:
        self._store = store
        self._layout = layout
        self._known: dict[str, set[str]] = {}  # sources by volume id
        for row in store.publications():
            self._known.setdefault(row.volume_id, set()).add(row.source)
        self._elsewhere = tuple(
            m
            for m in table
            if m.is_fuse
            and not layout.pods.is_in_pod(m.mount_point)
            and not anchor.is_anchor(m.mount_point)
        )
        self._by_dev: dict[str, list[Mount]] = {}
        for mount in self._elsewhere:
            self._by_dev.setdefault(mount.dev, []).append(mount)

    def by_superblock(self, orphan: _Orphan) -> _Source | None:
        """Return the mount of the same superblock below the sources' root most like a source."""
        return self._nearest(orphan, self._layout.sources.root.rstrip("/") + "/")

    def by_superblock_anywhere(self, orphan: _Orphan) -> tuple[_Source, ...]:
        """Return the mount of the same superblock anywhere outside of pods, if there is one."""
        source = self._nearest(orphan, "/")
        return () if source is None else (source,)

    def _nearest(self, orphan: _Orphan, below: str) -> _Source | None:
        candidates = [
            mount
            for mount in self._by_dev.get(orphan.mount.dev, ())
            if mount.mount_point.startswith(below)
            and _inner(orphan.mount.inner_path, mount.inner_path) is not None
        ]
        best = min(candidates, key=self._rank, default=None)
        return None if best is None else _Source(best.mount_point, best.inner_path)

    def _rank(self, mount: Mount) -> tuple[bool, int, int, str]:
        """Sort the daemon's own mount before binds of it and binds of its sub-directories."""
        return (
            self._layout.sources.dataset(mount.mount_point) is None,
            mount.inner_path.rstrip("/").count("/"),
            mount.mount_point.count("/"),
            mount.mount_point,
        )

    def by_generation(self, orphan: _Orphan) -> _Source | None:
        """Return the source of this volume that is recorded with this very superblock."""
        sources = self._known.get(orphan.volume_id, ())
        for generation in (g for source in sources for g in self._store.generations(source)):
            known = generation.dev, generation.fs_type, generation.mount_source
            if known == (orphan.mount.dev, orphan.mount.fs_type, orphan.mount.source):
                return _Source(generation.source, generation.root)
        return None

    def by_sibling(self, orphan: _Orphan) -> tuple[_Source, ...]:
        """Return the sources of other publications of this volume."""
        return _distinct(self._known.get(orphan.volume_id, ()))

    def by_convention(self, orphan: _Orphan) -> tuple[_Source, ...]:
        """Return the sources that by their path are this volume's.

        Two datasets may have one id, "a-b" of "c" and "b-c" of "a", but then only one has the
        volume, and a node with pods of it normally has a mount of that one.
        """
        return _distinct(
            mount.mount_point
            for mount in self._elsewhere
            if mount.fs_type == orphan.mount.fs_type
            and (named := self._layout.sources.dataset(mount.mount_point))
            and named.volume_id == orphan.volume_id
        )

    def row(self, orphan: _Orphan, source: _Source) -> Publication:
        """Return the publication of a mount whose source is known; when it was made is not."""
        volume_id = orphan.volume_id or orphan.volume.name
        self._known.setdefault(volume_id, set()).add(source.path)
        named = self._layout.sources.dataset(source.path)
        mount = orphan.mount
        return Publication(
            target=mount.mount_point,
            volume_id=volume_id,
            source=source.path,
            sub_path=_inner(mount.inner_path, source.root) or "",
            mount_type=mount.fs_type,
            read_only=mount.read_only or mount.superblock_read_only,
            runtime_namespace="" if named is None else named.namespace,
            runtime_name="" if named is None else named.name,
            pod_uid=orphan.volume.pod_uid,
            adopted=True,
        )


def _inner(path: str, root: str) -> str | None:
    """Return a path of a superblock relative to another, "" for the same, None for one outside."""
    base = root.rstrip("/")
    return path[len(base) :].strip("/") if f"{path}/".startswith(f"{base}/") else None


def _distinct(sources: Iterable[str]) -> tuple[_Source, ...]:
    return tuple(_Source(source) for source in sorted(set(sources)))


def _reason(orphan: _Orphan, sources: tuple[_Source, ...]) -> str:
    if not sources:
        return f"no mount of volume {orphan.volume_id} is known or found by its name"
    names = ", ".join(source.path for source in sources)
    return f"volume {orphan.volume_id} may come from any of {names}"
