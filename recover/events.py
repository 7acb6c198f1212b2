"""What recovery tells: one frozen value for each change worth telling, and who listens.

An observer must return at once and never raise: it runs on the healing path's threads.
Each is told once per change, not once per tick.
"""

from dataclasses import dataclass
from typing import Protocol

from recover.rows import Publication


@dataclass(frozen=True, slots=True)
class Broken:
    """The daemon of a source died or its mount is gone: all accesses in these publications fail."""

    source: str
    publications: tuple[Publication, ...]
    since: float


@dataclass(frozen=True, slots=True)
class Hung:
    """The daemon of a source does not answer within the probe's time limit."""

    source: str
    publications: tuple[Publication, ...]
    since: float


@dataclass(frozen=True, slots=True)
class Aborted:
    """A daemon had not answered for silent_s, so the connection of superblock dev was ended."""

    source: str
    publications: tuple[Publication, ...]
    dev: str
    silent_s: float


@dataclass(frozen=True, slots=True)
class AbortFailed:
    """A connection should have been ended and could not be."""

    source: str
    publications: tuple[Publication, ...]
    error: str


@dataclass(frozen=True, slots=True)
class Answering:
    """A hung or failing source answers again, without a new generation."""

    source: str
    publications: tuple[Publication, ...]


@dataclass(frozen=True, slots=True)
class Healed:
    """Every copy that could be healed was, and was seen to answer afterwards.

    latency_s counts from the moment the new mount answered to the last verified copy, outage_s from
    the moment the break was noticed (None when it was not seen to break).
    copies counts all mounts replaced, in every namespace; layers is the most that any path has
    left.
    """

    source: str
    publications: tuple[Publication, ...]
    strategy: str
    copies: int
    layers: int
    latency_s: float
    outage_s: float | None


@dataclass(frozen=True, slots=True)
class HealFailed:
    """A copy could not be healed; where says which, error what the kernel or the check said."""

    source: str
    publications: tuple[Publication, ...]
    where: str
    error: str
    retry_s: float


@dataclass(frozen=True, slots=True)
class Skipped:
    """A broken copy is left alone, for the reason given."""

    source: str
    publications: tuple[Publication, ...]
    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class Stacked:
    """So many layers stand at a target that the mount table grows; warned once per threshold."""

    source: str
    publication: Publication
    layers: int


@dataclass(frozen=True, slots=True)
class Adopted:
    """Mounts that another plugin, or an earlier life of this one, had made are now recorded."""

    publications: tuple[Publication, ...]


@dataclass(frozen=True, slots=True)
class Dropped:
    """Records of what is there no more were removed; why is half a sentence."""

    publications: tuple[Publication, ...]
    why: str


@dataclass(frozen=True, slots=True)
class StateTrouble:
    """The state file was set aside, or cannot be written; healing goes on from memory."""

    path: str
    problem: str


@dataclass(frozen=True, slots=True)
class Woken:
    """The loop woke up; by is the source of the wake-up."""

    by: str


Event = (
    Broken
    | Hung
    | Aborted
    | AbortFailed
    | Answering
    | Healed
    | HealFailed
    | Skipped
    | Stacked
    | Adopted
    | Dropped
    | StateTrouble
    | Woken
)


class Observer(Protocol):
    """Somebody who is told."""

    def tell(self, event: Event) -> None:
        """Take note of an event."""
