"""States as a person says them."""

from csi_fluid.cli import times
from recover.states import State
from recover.survey import SourceReport

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


def begun(report: SourceReport) -> float | None:
    """Return since when a source has been in its state, in Unix seconds, if that is known."""
    if report.since is None and report.state is State.HEALTHY:
        heal = report.last_heal
        published = (p.published_at for p in report.publications if p.published_at)
        return heal.at if heal is not None else min(published, default=None)
    return report.since


def since(report: SourceReport, now: float) -> str:
    """Say for how long a source has been in its state; "-" where that is not known."""
    return times.ago(begun(report), now)


def advice(report: SourceReport) -> str:
    """Say what to do about a source; "" where nothing is to be done."""
    if report.state is State.SKIPPED:
        return "; ".join(sorted({step.describe() for step in report.steps}))
    return _ADVICE[report.state].format(source=report.source)
