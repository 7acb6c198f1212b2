"""Lengths of time as a person says them."""

from recover.rows import Heal

_UNITS = ((60.0, 1.0, "s"), (3600.0, 60.0, "min"), (86400.0, 3600.0, "h"))


def span(seconds: float) -> str:
    """Return a length of time in its largest unit: 45 s, 3 min, 5 h, 2 d."""
    seconds = max(seconds, 0.0)
    for below, unit_s, unit in _UNITS:
        if seconds < below:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def latency(seconds: float) -> str:
    """Return a short time with the digits that matter: 0.8 ms, 12 ms, 1.25 s."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"


def last_heal(heal: Heal | None, now: float) -> str:
    """Say how long the last heal took and when it was."""
    if heal is None:
        return "-"
    verdict = latency(heal.latency_s) if heal.ok else "failed"
    return f"{verdict}, {span(now - heal.at)} ago"


def ago(at: float | None, now: float) -> str:
    """Say how long ago something was; "-" where that is not known."""
    return "-" if at is None else span(now - at)
