"""The states of a source, in the words that people and other programs read."""

import enum


class State(enum.StrEnum):
    """The state of a source in words."""

    HEALTHY = "healthy"
    STALE = "broken, FUSE is back"
    WAITING = "broken, waiting for FUSE"
    HUNG = "hung: FUSE does not answer"
    FAILING = "FUSE answers with errors"
    ABSENT = "FUSE is not mounted"
    SKIPPED = "broken, not healed (writable)"
