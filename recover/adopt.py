"""Publications of mounts that another plugin left behind, or ourselves with a lost state file.

A FUSE mount at kubelet's place for a CSI volume is ours if kubelet's `vol_data.json` beside it
says so, or, where that cannot be read, if its superblock is also mounted below the mount root.
Then its source is looked for, best evidence first; a mount without good evidence is left out,
because a wrong source would show a pod another dataset's data.

Pure over a mount table, the store and a reader of `vol_data.json`.  Nothing touches a FUSE path:
the file lies on kubelet's disk, and a place that is itself within a FUSE mount is passed over.
"""

import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from recover.anchors import anchor
from recover.linux.mountinfo import Mount, MountTable
from recover.store import Publication, Store

DRIVER = "fuse.csi.fluid.io"
VOL_DATA_LIMIT = 64 * 1024  # bytes that are read; kubelet writes some 300

_TARGET = re.compile(
    r"(?P<pods>.*/pods)/(?P<uid>[^/]+)/volumes/kubernetes\.io~csi/(?P<pv>[^/]+)/mount", re.DOTALL
)
_SOURCE = re.compile(
    r"(?P<type>[^/]+)/(?P<ns>[^/]+)/(?P<name>[^/]+)/[^/]*-fuse"
)  # below mount root

Reader = Callable[[str], Mapping[str, object] | None]


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
    """A mount without a row; volume_id is "" where vol_data.json could not be read."""

    mount: Mount
    pod_uid: str
    pv: str
    volume_id: str


@dataclass(frozen=True, slots=True)
class _Place:
    """A source, and what its mount shows of its superblock."""

    source: str
    root: str = "/"


def found_publications(
    table: MountTable, store: Store, kubelet_root: str | None, mount_root: str
) -> tuple[Publication, ...]:
    """Return rows for the mounts of ours that have none."""
    return find(table, store, kubelet_root, mount_root, read_vol_data).publications


def find(
    table: MountTable, store: Store, kubelet_root: str | None, mount_root: str, read: Reader
) -> Found:
    """Return rows for the mounts of ours that have none, and those that had to be left out.

    kubelet_root None takes any directory for kubelet's; both roots are canonical paths.
    read returns the content of the vol_data.json in a directory.
    """
    evidence = _Evidence(table, store, kubelet_root, mount_root)
    rows: list[Publication] = []
    rest: list[_Orphan] = []
    for orphan in _orphans(table, store, kubelet_root, read):
        place = evidence.by_superblock(orphan) or evidence.by_generation(orphan)
        if place is not None:
            rows.append(evidence.row(orphan, place))
        elif orphan.volume_id:
            rest.append(orphan)
    unknown: list[Unknown] = []
    for orphan in rest:
        places = (
            evidence.by_sibling(orphan)
            or evidence.by_convention(orphan)
            or evidence.by_superblock_anywhere(orphan)
        )
        if len(places) == 1:
            rows.append(evidence.row(orphan, *places))
        else:
            unknown.append(Unknown(orphan.mount.mount_point, _reason(orphan, places)))
    return Found(tuple(rows), tuple(unknown))


def gone(
    publications: Iterable[Publication], is_directory: Callable[[str], bool]
) -> tuple[Publication, ...]:
    """Return the publications of pods that are gone, going by the directory that held the target.

    kubelet removes `.../kubernetes.io~csi/<pv>` with the volume.  Nothing is gone where the whole
    `pods` directory is missing: then it is not mounted (yet).  The target itself, which may be dead
    or hung, is not asked about.
    """
    return tuple(
        p
        for p in publications
        if not is_directory(str(Path(p.target).parent))
        and ((place := _TARGET.fullmatch(p.target)) is None or is_directory(place["pods"]))
    )


def read_vol_data(directory: str) -> Mapping[str, object] | None:
    """Return the content of kubelet's vol_data.json in a directory; None without a proper one."""
    # A pod cannot write here, but whoever can must not make us read a link, a FIFO or a huge file.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(f"{directory}/vol_data.json", flags)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        data = json.loads(os.read(fd, VOL_DATA_LIMIT))
    except (OSError, ValueError, RecursionError):
        return None
    finally:
        os.close(fd)
    return data if isinstance(data, dict) else None


def _orphans(
    table: MountTable, store: Store, kubelet_root: str | None, read: Reader
) -> Iterator[_Orphan]:
    pods = None if kubelet_root is None else f"{kubelet_root.rstrip('/')}/pods"
    places = {path: place for m in table if (place := _TARGET.fullmatch(path := m.mount_point))}
    for path, place in places.items():
        if pods not in {None, place["pods"]} or store.publication(path) is not None:
            continue
        stack = table.stack(path)
        if not stack or not stack[-1].is_fuse or _is_within_fuse(stack[0], table):
            continue
        data = read(str(Path(path).parent)) or {}
        driver, handle = data.get("driverName"), data.get("volumeHandle")
        if isinstance(driver, str) and driver != DRIVER:
            continue
        known = driver == DRIVER and isinstance(handle, str)
        yield _Orphan(stack[-1], place["uid"], place["pv"], str(handle) if known else "")


def _is_within_fuse(mount: Mount, table: MountTable) -> bool:
    seen = {mount.mnt_id}
    while (above := table.by_id.get(mount.parent_id)) and above.mnt_id not in seen:
        if above.is_fuse:
            return True
        seen.add(above.mnt_id)
        mount = above
    return False


class _Evidence:
    """What a mount table and the store say about where a volume comes from."""

    def __init__(
        self, table: MountTable, store: Store, kubelet_root: str | None, mount_root: str
    ) -> None:
        self._store = store
        self._sources: dict[str, set[str]] = {}  # by volume id
        for row in store.publications():
            self._sources.setdefault(row.volume_id, set()).add(row.source)
        self._below = mount_root.rstrip("/") + "/"
        pods = None if kubelet_root is None else f"{kubelet_root.rstrip('/')}/pods/"
        self._elsewhere = tuple(
            m
            for m in table
            if m.is_fuse
            and not _in_pods(m.mount_point, pods)
            and not anchor.is_anchor(m.mount_point)
        )
        self._by_dev: dict[str, list[Mount]] = {}
        for mount in self._elsewhere:
            self._by_dev.setdefault(mount.dev, []).append(mount)

    def by_superblock(self, orphan: _Orphan) -> _Place | None:
        """Return the mount of the same superblock below the mount root most like a source."""
        return self._nearest(orphan, self._below)

    def by_superblock_anywhere(self, orphan: _Orphan) -> tuple[_Place, ...]:
        """Return the mount of the same superblock anywhere outside of pods, if there is one."""
        place = self._nearest(orphan, "/")
        return () if place is None else (place,)

    def _nearest(self, orphan: _Orphan, below: str) -> _Place | None:
        candidates = [
            mount
            for mount in self._by_dev.get(orphan.mount.dev, ())
            if mount.mount_point.startswith(below)
            and _inner(orphan.mount.inner_path, mount.inner_path) is not None
        ]
        best = min(candidates, key=self._rank, default=None)
        return None if best is None else _Place(best.mount_point, best.inner_path)

    def _rank(self, mount: Mount) -> tuple[bool, int, int, str]:
        """Sort the daemon's own mount before binds of it and binds of its sub-directories."""
        return (
            self._dataset(mount.mount_point) is None,
            mount.inner_path.rstrip("/").count("/"),
            mount.mount_point.count("/"),
            mount.mount_point,
        )

    def by_generation(self, orphan: _Orphan) -> _Place | None:
        """Return the source of this volume that is recorded with this very superblock."""
        sources = self._sources.get(orphan.volume_id, ())
        for generation in (g for source in sources for g in self._store.generations(source)):
            known = generation.dev, generation.fs_type, generation.mount_source
            if known == (orphan.mount.dev, orphan.mount.fs_type, orphan.mount.source):
                return _Place(generation.source, generation.root)
        return None

    def by_sibling(self, orphan: _Orphan) -> tuple[_Place, ...]:
        """Return the sources of other publications of this volume."""
        return _distinct(self._sources.get(orphan.volume_id, ()))

    def by_convention(self, orphan: _Orphan) -> tuple[_Place, ...]:
        """Return the sources that by their path are this volume's: handles are `<ns>-<name>`.

        "a-b" of "c" and "b-c" of "a" have the same handle, which is the name of their PV.  As that
        can exist only once, a node with pods of the volume normally has a mount of one of them.
        """
        alike = (m for m in self._elsewhere if m.fs_type == orphan.mount.fs_type)
        sources = (m.mount_point for m in alike)
        return _distinct(
            source
            for source in sources
            if (dataset := self._dataset(source)) and "-".join(dataset) == orphan.volume_id
        )

    def _dataset(self, path: str) -> tuple[str, str] | None:
        """Return namespace and name from `<mount root>/<runtime type>/<ns>/<name>/<type>-fuse`."""
        inner = path.removeprefix(self._below)
        found = None if inner == path else _SOURCE.fullmatch(inner)
        return None if found is None else (found["ns"], found["name"])

    def row(self, orphan: _Orphan, place: _Place) -> Publication:
        """Return the publication of a mount whose source is known; when it was made is not."""
        volume_id = orphan.volume_id or orphan.pv
        self._sources.setdefault(volume_id, set()).add(place.source)
        namespace, name = self._dataset(place.source) or ("", "")
        mount = orphan.mount
        return Publication(
            target=mount.mount_point,
            volume_id=volume_id,
            source=place.source,
            sub_path=_inner(mount.inner_path, place.root) or "",
            mount_type=mount.fs_type,
            read_only=mount.read_only or mount.superblock_read_only,
            runtime_namespace=namespace,
            runtime_name=name,
            pod_uid=orphan.pod_uid,
            adopted=True,
        )


def _in_pods(path: str, pods: str | None) -> bool:
    """Tell whether a mount belongs to a pod (target or subPath) and so cannot be a source."""
    if pods is not None and path.startswith(pods):
        return True
    return "/volumes/kubernetes.io~csi/" in path or "/volume-subpaths/" in path


def _inner(path: str, root: str) -> str | None:
    """Return a path of a superblock relative to another, "" for the same, None for one outside."""
    base = root.rstrip("/")
    return path[len(base) :].strip("/") if f"{path}/".startswith(f"{base}/") else None


def _distinct(sources: Iterable[str]) -> tuple[_Place, ...]:
    return tuple(_Place(source) for source in sorted(set(sources)))


def _reason(orphan: _Orphan, places: tuple[_Place, ...]) -> str:
    if not places:
        return f"no mount of volume {orphan.volume_id} is known or found by its name"
    names = ", ".join(place.source for place in places)
    return f"volume {orphan.volume_id} may come from any of {names}"
