"""What one run of a healer achieved: what was done, what failed, what was left."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from recover import events
from recover.anchors import plan as node
from recover.anchors.plan import Skip
from recover.batch import Done, Failed, Result
from recover.linux import confinement
from recover.outage import Complaint
from recover.rows import Publication
from recover.steps import Act, Step, where
from recover.visits import plan as visits


@dataclass(slots=True)
class Tally:
    """Counts of one run, and what to complain of; last_at is a monotonic time in s."""

    reached: int = 0  # copies that hung off an anchor
    touched: int = 0  # copies that had a step of their own
    failed: dict[str, tuple[Act, Exception]] = field(default_factory=dict)
    skipped: tuple[Skip, ...] = ()
    open: bool = False  # something was still to be done at the last look
    last_at: float = 0.0
    layers: int = 1

    @property
    def copies(self) -> int:
        """Return how many copies were healed."""
        return self.reached + self.touched

    def to_do(self, stage: Iterable[Step]) -> list[Act]:
        """Return the steps of a stage that were not tried in vain; note what is left."""
        acts: list[Act] = []
        # what was left in an earlier round stays told: a surplus anchor is gone by the next one
        left = {where(skip): skip for skip in self.skipped}
        for step in stage:
            place = where(step)
            if isinstance(step, Skip):
                left[place] = step
            elif place not in self.failed:
                acts.append(step)
        self.skipped = tuple(left.values())
        return acts

    def add(self, result: Result[node.Act] | Result[visits.Act]) -> None:
        """Take what became of a step."""
        place = where(result.step)
        match result:
            case Done():
                self.failed.pop(place, None)
                self.layers = max(self.layers, result.layers)
                self.last_at = max(self.last_at, result.at)
                if isinstance(result.step, node.Cover | node.Attach | visits.Swap | visits.Peel):
                    self.touched += 1
            case Failed():
                if not result.stale:
                    self.failed[place] = result.step, result.error

    def complaints(
        self, source: str, publications: tuple[Publication, ...], retry_s: float
    ) -> dict[str, Complaint]:
        """Return what is to be told of what failed, or was left, by place."""
        found: dict[str, Complaint] = {}
        for place, (act, error) in self.failed.items():
            concerned = _concerned(publications, act.target)
            text = confinement.told(error)
            found[place] = events.HealFailed(source, concerned, place, text, retry_s)
        for left in self.skipped:
            place = where(left)
            concerned = _concerned(publications, left.target)
            found[place] = events.Skipped(source, concerned, place, left.reason)
        return found

    def whole(self, publications: tuple[Publication, ...]) -> tuple[Publication, ...]:
        """Return the publications none of whose steps failed or were left."""
        bad: Iterable[Step] = (*(act for act, _ in self.failed.values()), *self.skipped)
        targets = {step.target for step in bad if step.target}
        return tuple(p for p in publications if p.target not in targets)


def _concerned(publications: tuple[Publication, ...], target: str) -> tuple[Publication, ...]:
    return tuple(p for p in publications if not target or p.target == target)
