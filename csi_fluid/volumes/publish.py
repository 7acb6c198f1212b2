"""Publish a volume: make its FUSE mount visible at a target.

    1. claim the target: a second publish of it is refused while this one lasts
    2. refuse if no pod would see it, or something else is published there and lives
    3. wait until the source is ready                    (readiness; no lock is held)
    4. done if the target shows the source already       (what kubelet's restart asks for)
    5. make the source's anchor if it has none yet
    6. clone the anchor, lock the target
    7. attach the clone, or swap it for what is dead there, or make a symbolic link
    8. look whether it is so, record it, tell recovery

What stands at the target is seen before 2, 4 and 7, with the record of it, and handed down as one
value.  Nothing is made there before 7, and what 7 made goes again if it fails.  Killed at any line,
the next publish, or adoption at the next start, finds what the kernel has and goes on from there.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from csi_fluid import driver
from csi_fluid.errors import Conflict, InvalidArgument
from csi_fluid.volumes import targets
from csi_fluid.volumes.readiness import Content, Patience, Source, Sources
from csi_fluid.volumes.targets import Claim, Claims, Kind, Pods, Seen
from recover.anchors.shelf import Variant
from recover.errors import Covered, Unverified
from recover.linux import mountinfo, mounts, namespaces, syscalls
from recover.linux.mountinfo import Mount
from recover.linux.mounts import Attributes, Clone
from recover.linux.probe import Answer
from recover.parts import Parts
from recover.rows import Generation, Method, Publication

LOCK_WAIT_S = 5.0  # a heal holds a target for milliseconds

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Standing:
    """What stood at a target at one moment, and the record of it (None: there was none)."""

    row: Publication | None
    seen: Seen

    def records(self, wanted: Publication) -> bool:
        """Tell whether we made what is wanted there, and wrote it down."""
        return self.row is not None and not self.row.adopted and _same(self.row, wanted)

    def is_earlier(self, wanted: Publication) -> bool:
        """Tell whether an adopted record says that the target shows an older life of the source."""
        if self.row is None:
            return False
        return (self.row.source, self.row.sub_path) == (wanted.source, wanted.sub_path)


class Publisher:
    """Publishes volumes; one for all RPCs."""

    def __init__(
        self,
        parts: Parts,
        sources: Sources,
        claims: Claims,
        changed: Callable[[str], None],
        pods: Pods,
    ) -> None:
        """Take the collaborators; changed(source) is told which source has another publication."""
        self._store = parts.store
        self._locks = parts.locks
        self._prober = parts.prober
        self._keeper = parts.keeper
        self._sources = sources
        self._claims = claims
        self._changed = changed
        self._pods = pods

    def publish(self, wanted: Publication, patience: Patience, *, unchecked: bool = False) -> None:
        """Make the wanted publication true, or find that it is.

        unchecked: publish whatever stands at the source, without waiting for a FUSE mount.
        Raises Busy, Conflict, InvalidArgument, NotReady, Occupied, Overloaded, Unseen, Withdrawn,
        Unanswered, Unverified, OSError.
        """
        target, source_path = targets.canonical(self._prober, wanted.target, wanted.source)
        asked, wanted = wanted.target, replace(wanted, target=target, source=source_path)
        _refuse_overlap(wanted)
        self._pods.check(target, is_mount=wanted.method is Method.BIND, asked=asked)
        content = Content(wanted.source, wanted.sub_path, wanted.mount_type, unchecked)
        with self._claims.hold(wanted.target, wanted.volume_id) as claim:
            before = self._standing(wanted.target)
            self._refuse_others(wanted, before)

            def check() -> None:
                claim.check()
                patience.check()

            source = self._sources.wait(content, replace(patience, check=check))
            now = self._standing(wanted.target)
            if self._method(wanted, source, now) and now.records(wanted):
                return  # nothing new: kubelet publishes every volume again when it restarts
            self._make(wanted, source, claim)
        for path in {wanted.source, before.row.source if before.row else wanted.source}:
            self._changed(path)

    def _standing(self, target: str) -> _Standing:
        return _Standing(self._store.publication(target), targets.look(target))

    def _refuse_others(self, wanted: Publication, now: _Standing) -> None:
        row = now.row
        if row is None or row.adopted or _same(row, wanted):
            return
        if self._lives(wanted.target, now.seen):
            raise Conflict(
                f"{wanted.target} already shows {_described(row)}, not {_described(wanted)}; "
                "unpublish it first"
            )

    def _lives(self, target: str, seen: Seen) -> bool:
        if seen.kind not in {Kind.MOUNT, Kind.LINK}:
            return False
        answer = self._sources.answer_of(target, seen.dev or target)
        return answer in {Answer.ALIVE, Answer.FAILING}

    def _method(self, wanted: Publication, source: Source, now: _Standing) -> Method | None:
        """Return by which method the target shows the source as wanted, None if it does not.

        Raises Conflict if it shows something else that lives.
        """
        self._refuse_others(wanted, now)
        row, seen = now.row, now.seen
        if seen.kind is Kind.LINK and seen.link == source.shown_path:
            return Method.SYMLINK
        if seen.kind is not Kind.MOUNT:
            return None
        if row is None or row.adopted:
            return Method.BIND if self._is_right(wanted, source, now) else None
        return Method.BIND if _same(row, wanted) and seen.dev == source.dev else None

    def _is_right(self, wanted: Publication, source: Source, now: _Standing) -> bool:
        """Judge a mount that this plugin has no record of having made; raises Conflict."""
        top = mountinfo.read().at(wanted.target)
        if top is None:
            return False
        is_same = (top.dev, top.inner_path) == (source.dev, source.root)
        if is_same and top.read_only == (wanted.read_only or source.read_only):
            return True
        # Fluid's own plugin leaves a read-only volume writable: that is put right, not refused.
        is_lax = is_same and not top.read_only
        if not is_lax and not now.is_earlier(wanted) and self._lives(wanted.target, now.seen):
            raise Conflict(
                f"{wanted.target} already shows {top.inner_path} of a {top.fs_type} mount from "
                f"{top.source}, not {_described(wanted)}; unpublish it first"
            )
        return False

    def _make(self, wanted: Publication, source: Source, claim: Claim) -> None:
        """Make and record what is wanted, or record it if a heal or an earlier life made it."""
        with self._copy(wanted, source) as (clone, number), self._locked(wanted, claim):
            wanted = replace(wanted, generation=number)
            now = self._standing(wanted.target)
            method = self._method(wanted, source, now)
            is_link = wanted.method is Method.SYMLINK and now.seen.kind is not Kind.MOUNT
            if method is None and is_link:
                self._link(wanted, source.shown_path)
                method = Method.SYMLINK
            if method is not None:
                self._record(wanted, method, now)
            else:
                self._bind(wanted, source, clone, now)

    @contextlib.contextmanager
    def _copy(self, wanted: Publication, source: Source) -> Iterator[tuple[Clone, int]]:
        """Own a detached copy of a source's anchor, and the number of its generation, for a block.

        A target hangs off the anchor alone, not off the source: it does not receive, writable, what
        a daemon mounts over its dead mount.
        """
        if not source.mount.is_fuse:  # a plain directory, on request: it has no generations
            # What is mounted in it later appears, as in a bind of Fluid's, but comes with its own
            # flags: not in a volume that must not be written to.
            own = Attributes(frozenset({"ro"}), keep=True)
            wide = Attributes(frozenset(), "slave-shared", keep=True)
            with self._sources.clone(source, own if wanted.read_only else wide) as clone:
                yield clone, 0
            return
        with self._keeper.turn(wanted.source):
            path, number = self._sources.take(
                source, lambda: self._keeper.anchor(source.mount, Variant.of(wanted))
            )
            attributes = Attributes(frozenset(), "slave-shared", keep=True)
            with mounts.clone(path, "", attributes, source.dev) as clone:
                yield clone, number

    @contextlib.contextmanager
    def _locked(self, wanted: Publication, claim: Claim) -> Iterator[None]:
        with self._locks.hold(wanted.target, wait_s=LOCK_WAIT_S):
            claim.check()
            yield

    def _link(self, wanted: Publication, to: str) -> None:
        path = wanted.target
        _log.info("Creating symlink", extra={"target": path, "to": to})  # Fluid's e2e test greps it
        with targets.directory(Path(path).parent):
            targets.link(path, to)

    def _bind(self, wanted: Publication, source: Source, clone: Clone, now: _Standing) -> None:
        path = wanted.target
        if now.seen.kind is Kind.MOUNT:
            self._swap(wanted, source, clone)
            self._confirm(wanted, source, now)
            return
        if now.seen.kind in {Kind.LINK, Kind.FILE}:
            targets.clear(path)
        with targets.directory(Path(path)):
            mounts.attach_bare(clone, path, syscalls.AT_FDCWD)
            try:
                self._confirm(wanted, source, now)
            except BaseException:
                mounts.unmount_all(path)
                raise

    def _swap(self, wanted: Publication, source: Source, clone: Clone) -> None:
        """Put the clone in the place of what is mounted, without a moment of the bare directory."""
        path = wanted.target
        stack = mountinfo.read().stack(path)
        if not stack:
            raise Covered(f"what was mounted at {path} went away just now; try again")
        self._remember(wanted.source, (m for m in stack if m.is_fuse and m.dev != source.dev))
        own = clone.handed_over()  # the visit may outlive our patience
        layers = namespaces.visit(
            namespaces.home(),
            lambda root_fd: mounts.swap(own, stack, root_fd, ()),
            self._prober,
            release=own.close,
        )
        _log.info(
            "repaired a target", extra={"target": path, "before": len(stack), "after": layers}
        )

    def _remember(self, source: str, replaced: Iterable[Mount]) -> None:
        """Record earlier lives of a source that recovery may not have seen at a target yet.

        Once they are gone from here, nothing else tells that the containers' copies are ours.
        What is known already stays as it is, above all as another source's.
        """
        known = {generation.dev for generation in self._store.generations()}
        for m in replaced:
            if m.dev not in known:
                row = (source, m.dev, "/", m.fs_type, m.source, self._keeper.boot_id, time.time())
                self._store.put_generation(Generation(*row))

    def _confirm(self, wanted: Publication, source: Source, before: _Standing) -> None:
        seen = targets.look(wanted.target)
        if seen.kind is not Kind.MOUNT or seen.dev != source.dev:
            raise Unverified(
                f"{wanted.target} shows {seen.kind.value} {seen.dev} after it was mounted, "
                f"not superblock {source.dev} of {wanted.source}; try again"
            )
        self._record(wanted, Method.BIND, before)

    def _record(self, wanted: Publication, method: Method, before: _Standing) -> None:
        row = before.row
        published_at = row.published_at if row and before.records(wanted) else time.time()
        # containers may date from the earliest that was published here
        generation = row.generation if row else wanted.generation
        made = replace(wanted, method=method, published_at=published_at, generation=generation)
        self._store.put_publication(made)


def _refuse_overlap(wanted: Publication) -> None:
    target, source = f"{wanted.target}/", f"{wanted.source}/"
    if target.startswith(source) or source.startswith(target):
        raise InvalidArgument(
            f"target_path {wanted.target} and {driver.FLUID_PATH} {wanted.source} "
            "lie within each other; publish to a directory outside the FUSE mount"
        )


def _same(row: Publication, wanted: Publication) -> bool:
    """Compare what a caller chooses; the pod's identity may be left out the second time."""
    return _chosen(row) == _chosen(wanted)


def _chosen(publication: Publication) -> tuple[str, str, str, bool]:
    p = publication
    return p.volume_id, p.source, p.sub_path, p.read_only


def _described(publication: Publication) -> str:
    p = publication
    mode = "read-only" if p.read_only else "writable"
    return f"volume {p.volume_id} ({Path(p.source, p.sub_path)}, {mode})"
