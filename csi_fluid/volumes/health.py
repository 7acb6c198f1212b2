"""What is wrong with a volume on this node, in words that kubelet passes on to the pod's status."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from csi_fluid.errors import NotFound, NotReady
from csi_fluid.volumes import targets
from csi_fluid.volumes.readiness import Content, Source, Sources
from csi_fluid.volumes.targets import Kind
from recover.linux.probe import Answer, Prober
from recover.rows import Publication
from recover.store import Store

_REASONS = {
    Answer.DEAD: "FuseNotConnected",
    Answer.HUNG: "FuseHung",
    Answer.FAILING: "FuseFailing",
    Answer.ABSENT: "FuseNotMounted",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: a word for machines and a sentence for people."""

    reason: str
    message: str

    @property
    def inaccessible(self) -> bool:
        """Return whether nothing can be read; else the volume is degraded."""
        return self.reason != "FuseFailing"


class Health:
    """Examines published volumes."""

    def __init__(self, store: Store, prober: Prober, sources: Sources) -> None:
        self._store = store
        self._prober = prober
        self._sources = sources

    def problems(self, volume_id: str, path: str = "") -> tuple[Problem, ...]:
        """Return what is wrong with a volume, one problem for each reason; empty when it is well.

        path narrows it to one target.  Raises NotFound where the volume is not published.
        """
        rows = [row for row in self._store.publications() if row.volume_id == volume_id]
        if path:
            (target,) = targets.canonical(self._prober, path)
            rows = [row for row in rows if row.target == target]
        if not rows:
            where = f" at {path}" if path else " on this node"
            raise NotFound(f"volume {volume_id} is not published{where}; publish it first")
        found: dict[str, Problem] = {}
        for row in rows:
            for problem in self._examine(row):
                found.setdefault(problem.reason, problem)
        return tuple(found.values())

    def _examine(self, row: Publication) -> Iterator[Problem]:
        content = Content(row.source, row.sub_path, row.mount_type)
        try:
            if _shows(row, self._sources.look(content)):
                return
        except NotReady as error:
            if self._is_unchecked(row, content):
                return
            yield Problem(error.reason, str(error))
            if error.reason != "FuseNotMounted":
                return
        yield from self._examine_target(row)

    def _is_unchecked(self, row: Publication, content: Content) -> bool:
        """Return whether a volume that was published without a check shows its source."""
        try:
            return _shows(row, self._sources.look(replace(content, unchecked=True)))
        except NotReady:
            return False

    def _examine_target(self, row: Publication) -> Iterator[Problem]:
        """Examine a target that does not show what its source shows now."""
        seen = targets.look(row.target)
        is_mount = seen.kind is Kind.MOUNT
        answer = self._sources.answer_of(row.target, seen.dev) if is_mount else Answer.ABSENT
        if answer is not Answer.ALIVE:  # an older daemon that still serves is well
            yield Problem(
                _REASONS[answer],
                f"{row.target} {answer.value}; it is healed when {row.source} is mounted again",
            )


def _shows(row: Publication, source: Source) -> bool:
    seen = targets.look(row.target)
    if seen.kind is Kind.LINK:
        return seen.link == source.shown_path
    return seen.kind is Kind.MOUNT and seen.dev == source.dev
