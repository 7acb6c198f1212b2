"""Which FUSE mounts of a pod an agent can guard, and why it cannot guard the others.  Pure.

Fluid gives the sidecar `fluid-fuse-N` a directory of the node (Bidirectional), in which its client
makes the FUSE mount, and the application a hostPath volume that is this mount point itself, or a
directory in it.  So a mount point is the first name below the shared directory on the way to what
an application mounts, unless the sidecar names it in FLUID_FUSE_MOUNTPOINT.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from csi_fluid.webhook import pod as pods
from csi_fluid.webhook.pod import Container, Mount, Pod

_SIDECAR = re.compile(r"fluid-fuse-\d+", re.ASCII)
_FUSE_SIDE = re.compile(r"(?:init-)?fluid-fuse(?:-|$)")
_NAMED = "FLUID_FUSE_MOUNTPOINT"
_UNPASSABLE = re.compile(r"[=:$\x00-\x1f]")  # in an argument --mount=PATH=HOST_PATH:ro
_MOST = 64  # FUSE mounts for one agent, which has a thread and two arguments of PATH_MAX for each


@dataclass(frozen=True, slots=True)
class Share:
    """A directory of the node in which a sidecar mounts, with the sidecar's mount of it.

    named is the mount point that the sidecar names, as a path of the node, "" if it names none.
    """

    sidecar: Container
    mount: Mount
    named: str


@dataclass(frozen=True, slots=True)
class Use:
    """An application container's mount of a FUSE mount point, or of a directory in it."""

    container: Container
    mount: Mount
    share: Share
    point: str

    @property
    def problem(self) -> str:
        """Say why no agent can heal it, "" if one can."""
        if self.mount.has_sub_path or self.mount.host_path != self.point:
            return (
                f"{self.mount.path} is a directory in the FUSE mount, which an agent cannot reach"
            )
        if self.mount.propagation == "None":
            return f"{self.mount.path} has mountPropagation None, so no new mount reaches it"
        return ""


@dataclass(frozen=True, slots=True)
class Guarded:
    """A FUSE mount point for the agent: its path on the node, and the directory it lies in."""

    point: str
    share: Share
    read_only: bool


@dataclass(frozen=True, slots=True)
class Finding:
    """What an agent is to guard, and what it cannot; each problem is a sentence without a stop."""

    guarded: tuple[Guarded, ...]
    problems: tuple[str, ...]


def of(pod: Pod) -> tuple[Container, ...]:
    """Return the FUSE sidecars of a pod; a plain init container of that name has ended."""
    return tuple(
        each
        for each in pod.containers
        if _SIDECAR.fullmatch(each.name) and (each.place == "containers" or each.is_native_sidecar)
    )


def find(pod: Pod) -> Finding:
    """Return the mounts of a pod's FUSE sidecars that an agent can guard."""
    problems: list[str] = []
    shares: list[Share] = []
    for sidecar in of(pod):
        found = tuple(_shares(sidecar))
        problem = _forbids(sidecar) or ("" if found else _NO_SHARE)
        if problem:
            problems.append(f"container {sidecar.name}: {problem}")
        else:
            shares += found
        if sidecar.restart_policy == "OnFailure":
            problems.append(f"container {sidecar.name}: {_ON_FAILURE}")
    uses = tuple(_uses(pod, shares))
    problems += (f"container {use.container.name}: {use.problem}" for use in uses if use.problem)
    guarded = tuple(_guarded(uses, problems))
    used = {use.share.sidecar.name for use in uses}
    lonely = sorted({share.sidecar.name for share in shares} - used)
    problems += (f"container {name}: no container mounts its FUSE mount" for name in lonely)
    return Finding(guarded, tuple(problems))


_NEVER = "with restartPolicy Never, kubelet does not start it again"
_ON_FAILURE = "with restartPolicy OnFailure, kubelet does not start it again if it ended with 0"
_NON_ROOT = "with runAsNonRoot, kubelet starts no agent, which must be root to mount"
_NO_SHARE = "it shares no hostPath volume with mountPropagation Bidirectional"


def _forbids(sidecar: Container) -> str:
    if sidecar.restart_policy == "Never":
        return _NEVER
    if not sidecar.is_privileged:
        return "it is not privileged, and an agent may have no more rights than its sidecar"
    if sidecar.user:
        return f"it runs as user {sidecar.user}, and an agent with these rights cannot mount"
    if sidecar.is_non_root:
        return _NON_ROOT
    return ""


def _shares(sidecar: Container) -> Iterator[Share]:
    for mount in sidecar.mounts:
        is_whole = bool(mount.host_path) and not mount.has_sub_path and not mount.read_only
        if is_whole and mount.propagation == "Bidirectional":
            named = pods.normal(sidecar.env.get(_NAMED, ""))
            below = named.removeprefix(_below(mount.path))
            yield Share(sidecar, mount, _below(mount.host_path) + below if below != named else "")


def _uses(pod: Pod, shares: Sequence[Share]) -> Iterator[Use]:
    seen = [
        (container, mount)
        for container in pod.containers
        if not _FUSE_SIDE.match(container.name)
        for mount in container.mounts
        if mount.host_path
    ]
    nearest = _nearest({mount.host_path for _, mount in seen}, shares)
    for container, mount in seen:
        if share := nearest.get(mount.host_path):
            yield Use(container, mount, share, _point(mount.host_path, share))


def _nearest(paths: set[str], shares: Sequence[Share]) -> dict[str, Share]:
    """Return the innermost shared directory around each path that lies in one.

    In the order of their parts a directory comes right before what lies in it, so one walk through
    all finds them, however many there are.
    """
    by_path: dict[str, Share] = {}
    for share in shares:
        by_path.setdefault(share.mount.host_path, share)
    found: dict[str, Share] = {}
    around: list[str] = []  # the directories that the walk is in
    for path in sorted(paths | by_path.keys(), key=lambda each: _below(each).split("/")):
        while around and not _is_within(path, around[-1]):
            around.pop()
        if path in paths and around:
            found[path] = by_path[around[-1]]
        if path in by_path:
            around.append(path)
    return found


def _below(folder: str) -> str:
    """Return what the paths of everything in a directory begin with."""
    return folder if folder == "/" else f"{folder}/"


def _is_within(path: str, folder: str) -> bool:
    return path != folder and path.startswith(_below(folder))


def _point(path: str, share: Share) -> str:
    """Return the mount point, on the node, on the way to a path below the shared directory."""
    if share.named and (path == share.named or _is_within(path, share.named)):
        return share.named
    around = _below(share.mount.host_path)
    return around + path[len(around) :].partition("/")[0]


def _guarded(uses: Sequence[Use], problems: list[str]) -> Iterator[Guarded]:
    """Yield each mount point that some container can be healed at; add what speaks against it."""
    points: dict[str, list[Use]] = {}
    for use in uses:
        points.setdefault(use.point, []).append(use)
    healable = [point for point, here in points.items() if not all(use.problem for use in here)]
    if len(healable) > _MOST:
        problems.append(f"an agent guards {_MOST} FUSE mounts, and it has {len(healable)}")
    for point in healable[:_MOST]:
        here = points[point]
        if _UNPASSABLE.search(point):
            problems.append(f"the path {point[:80]!r} cannot be told to the agent")
            continue
        readers = [use for use in here if use.mount.read_only]
        writers = [use for use in here if not use.mount.read_only]
        if readers and writers:
            problems.append(
                f"container {readers[0].container.name} mounts the volume readOnly, so a heal "
                f"makes it read-only for container {writers[0].container.name} too"
            )
        yield Guarded(point, here[0].share, read_only=bool(readers))
