"""Numbers and states as a person says them."""

from recover.store import Heal
from recover.survey import SourceReport, State

_UNITS = ((60.0, 1.0, "s"), (3600.0, 60.0, "min"), (86400.0, 3600.0, "h"))
_ADVICE = {
    State.HEALTHY: "",
    State.STALE: "the FUSE mount is back, but the pods do not have it yet. A running plugin with "
    "FuseRecovery=true heals them; csi-fluid recover does it now",
    State.WAITING: "the FUSE daemon of {source} is gone. Look at the FUSE pod; the volumes heal by "
    "themselves when it mounts again",
    State.HUNG: "every access waits. Look at the FUSE pod and its storage, or restart the pod",
    State.FAILING: "the FUSE daemon answers with errors. Look at its log and its storage",
    State.ABSENT: "nothing is mounted at {source}. Look at the FUSE pod",
}


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


def since(report: SourceReport, now: float) -> str:
    """Say for how long a source has been in its state; "-" where that is not known."""
    begun = report.since
    if begun is None and report.state is State.HEALTHY:
        heal = report.last_heal
        published = (p.published_at for p in report.publications if p.published_at)
        begun = heal.at if heal is not None else min(published, default=None)
    return "-" if begun is None else span(now - begun)


def advice(report: SourceReport) -> str:
    """Say what to do about a source; "" where nothing is to be done."""
    if report.state is State.LEFT:
        return "; ".join(sorted({step.describe() for step in report.steps}))
    return _ADVICE[report.state].format(source=report.source)
