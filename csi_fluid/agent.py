"""The serverless agent as a process: what it guards, whom it tells, when it ends.

Every pod that asks for recovery pays for one, so nothing is imported here that it can do without:
no gRPC, no Kubernetes, no SQLite.
"""

import gc
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from csi_fluid import log, telling
from csi_fluid.metrics.meter import Meter
from recover.events import Observer
from recover.linux.probe import Prober
from recover.linux.probehelper import ProbeHelper
from recover.rows import Publication
from recover.serverless.agent import Agent
from recover.serverless.guard import STRATEGY, Guard, Target
from recover.serverless.place import Place

_STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
_STOP_S = 4.0
_RELEASE_S = 20.0  # within the 30 s that kubelet gives a pod by default
_HEALTH_S = 10.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """What an agent runs with; times in s."""

    targets: tuple[Target, ...]
    pod_uid: str = ""
    recover_writable: bool = False
    probe_timeout_s: float = 3.0
    period_s: float = 1.0
    health_file: Path | None = None
    metrics_addr: tuple[str, int] | None = None
    log_format: str = "text"
    log_level: str = "info"

    @property
    def pod(self) -> str:
        """Return what tells the pod from every other one on its node.

        Where an old webhook made the pod its agent has no uid, whatever its image is changed to,
        and goes on with the mounts that it keeps under the host name.
        """
        return self.pod_uid or os.uname().nodename


class _Guarded:
    """What is guarded, for the metrics."""

    problem = ""

    def __init__(self) -> None:
        self.guards: list[Guard] = []

    def publications(self) -> tuple[Publication, ...]:
        return tuple(row for guard in self.guards for row in guard.publications)

    def are_leaving(self) -> bool:
        """Tell whether the preStop hook ran."""
        return any(guard.place.leaving.exists() for guard in self.guards)


def run(settings: Settings) -> int:
    """Guard until SIGTERM or SIGINT, and return the exit status.

    It is 0 only when the pod is over: in a Job kubelet does not start again what ended with 0.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)  # before the first thread is made
    helper = ProbeHelper()
    helper.start()
    log.configure(settings.log_level, settings.log_format)
    prober = Prober(timeout_s=settings.probe_timeout_s, helper=helper)
    guarded = _Guarded()
    meter = Meter(settings.metrics_addr, guarded, prober, lambda: True)
    meter.observer.strategy = STRATEGY
    observer = telling.FanOut(
        meter.observer, telling.EventObserver(telling.LogSink()), telling.LogObserver()
    )
    guarded.guards = [_guard(settings, target, prober, observer) for target in settings.targets]
    agent = Agent(guarded.guards, observer)
    for guard in guarded.guards:  # kubelet starts no container of a pod that is being deleted
        guard.place.leaving.unlink(missing_ok=True)
    meter.start()
    helper.ready()  # who reads that this guards may count on the first look
    agent.start()
    _log.info(
        "guarding %s",
        ", ".join(target.mount_point for target in settings.targets),
        extra={"pod": settings.pod, "wakeups": ", ".join(agent.wakeups)},
    )
    if not settings.pod_uid:
        _log.warning(
            "POD_UID is not set: the deletion of another pod on this node that has the host name "
            "%s too would end the recovery of this one; make the pod anew, or set it to the "
            "downward API's metadata.uid",
            settings.pod,
        )
    gc.collect()
    gc.freeze()
    try:
        number = _serve(agent, settings.health_file, guarded.are_leaving)
    finally:
        is_over = guarded.are_leaving()
        if not agent.stop(_STOP_S, release_s=_RELEASE_S if is_over else None):
            _log.warning("a pass did not end in time; the next agent goes on from what it left")
        meter.stop()
        helper.close()
    return 0 if is_over else 128 + number


def _guard(settings: Settings, target: Target, prober: Prober, observer: Observer) -> Guard:
    return Guard(
        target,
        settings.pod,
        prober,
        observer,
        recover_writable=settings.recover_writable,
        period_s=settings.period_s,
    )


def _serve(agent: Agent, health_file: Path | None, are_leaving: Callable[[], bool]) -> int:
    """Return the signal to end when it comes, and show meanwhile whether the agent gets on.

    When the application of a Job has ended, Fluid's controller runs the preStop hooks of the FUSE
    side and nobody sends a signal: the pod completes only if the agent ends by itself.
    """
    is_shown = False
    number = 0
    while not are_leaving():
        if health_file is not None and agent.is_working != is_shown:
            is_shown = not is_shown
            _show(health_file, is_working=is_shown)
        received = signal.sigtimedwait(_STOP_SIGNALS, _HEALTH_S)
        if received is not None:
            number = received.si_signo
            _log.info("stopping on %s", signal.Signals(number).name)
            break
    else:
        _log.info("stopping: the preStop hook says that the pod is over")
    if health_file is not None:
        _show(health_file, is_working=False)
    return number


def _show(path: Path, *, is_working: bool) -> None:
    try:
        if is_working:
            path.touch(mode=0o600)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning(
            "--health-file %s: %s; the probe that looks for it fails", path, error.strerror
        )


def leave(settings: Settings) -> None:
    """Tell the agent of this pod that the pod is being deleted; the preStop hook does it.

    The agent then takes its mounts off the node and ends.  kubelet runs the hook also when the
    health probe has failed and it replaces the container: without the health file nothing is done,
    because the application goes on.  Raises OSError.
    """
    if settings.health_file is not None and not settings.health_file.exists():
        return
    for target in settings.targets:
        place = Place(target.mount_point, settings.pod)
        if place.folder.is_dir():
            place.leaving.touch(mode=0o600)
