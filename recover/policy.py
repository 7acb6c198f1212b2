"""Which broken copies may be healed, how they are reached, how long, and when to try again.

A writable volume may have lost writes with its daemon; only its operator can say that going on is
right, so it is healed on request alone.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from recover.rows import Publication

MAPPED = (
    "it is id-mapped, and the kernel does not tell how, so the owners of its files would be "
    "others; restart the container to heal it"
)
KEPT_ANCHORS = 256  # of one variant; off each a container may hang that was started meanwhile
SURPLUS = (
    f"more than {KEPT_ANCHORS} FUSE daemons came and went; a container that was started during the "
    "life of an early one, other than the first, heals no more until it is restarted"
)
FIRST_RETRY_S = 0.1
LAST_RETRY_S = 30.0


class Strategy(enum.StrEnum):
    """Which copies are reached beside those that hang off an anchor."""

    NAMESPACE = "namespace"  # those inside other mount namespaces too, by a visit
    PROPAGATION = "propagation"  # none: nobody else's namespace can be entered


@dataclass(frozen=True, slots=True)
class HoldSettings:
    """The holder's socket; how long callers are kept waiting, in s; whether we start the holder."""

    socket: Path
    hold_s: float = 30.0
    starts: bool = True


def refusal(
    *, copy_read_only: bool, publications: Iterable[Publication], recover_writable: bool
) -> str | None:
    """Return why a copy must not be healed, or None when it may.

    publications are those that the copy can belong to: the one at its target, or all of its source.
    """
    if copy_read_only or recover_writable:
        return None
    writable = [p for p in publications if not p.read_only and not p.recover_writable]
    if not writable:
        return None
    return (
        "the volume is writable and may have lost writes; to heal it anyway set "
        "--recover-writable, or recover-writable for this volume alone"
    )


class Backoff:
    """Doubling waits for one source: 0.1 s up to 30 s, begun anew by `reset`."""

    def __init__(self) -> None:
        self._next_s = FIRST_RETRY_S

    def reset(self) -> None:
        """Begin anew: a new generation is a new chance."""
        self._next_s = FIRST_RETRY_S

    def wait_s(self) -> float:
        """Return how long to wait this time, and double the next one."""
        current, self._next_s = self._next_s, min(self._next_s * 2, LAST_RETRY_S)
        return current
