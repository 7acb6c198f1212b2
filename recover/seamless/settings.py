"""What the operator may choose about holds: a value that needs nothing of the kernel."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class HoldSettings:
    """The holder's socket; how long callers are kept waiting, in s; whether we start the holder."""

    socket: Path
    hold_s: float = 30.0
    starts: bool = True
