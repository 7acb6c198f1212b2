"""The webhook as a process: built, started and stopped in order."""

import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from csi_fluid import log
from csi_fluid.kube.access import IN_CLUSTER, Access
from csi_fluid.kube.helper import Helper
from csi_fluid.kube.side import teller
from csi_fluid.metrics import catalogue
from csi_fluid.metrics.server import Server as MetricsServer
from csi_fluid.metrics.values import Gauges, Values
from csi_fluid.webhook import review, rules
from csi_fluid.webhook.certificates import Terms
from csi_fluid.webhook.keeper import Identity, Keeper
from csi_fluid.webhook.server import Server
from csi_fluid.webhook.sources import Files, Shared, Source
from csi_fluid.webhook.trust import Trust

_STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
_CHECK_S = 60.0
_FILES_S = 10.0
_DRAIN_S = 5.0  # after SIGTERM API servers go on asking until they have learnt of it
_GRACE_S = 2.0
_UNREADY = "no certificate is served that the API server trusts yet"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the webhook runs with.

    folder: the given certificates; None: its own, kept in the Secret.  configuration: whose
    caBundle is kept right, "" for none.  kubeconfig: "" for the pod's ServiceAccount.
    """

    listen: tuple[str, int]
    image: str
    namespace: str
    service: str
    secret: str
    configuration: str
    lifetime_s: float
    folder: Path | None = None
    kubeconfig: str = ""
    metrics_addr: tuple[str, int] | None = None
    drain_s: float = _DRAIN_S
    log_format: str = "text"
    log_level: str = "info"

    @property
    def terms(self) -> Terms:
        """Return the names by which API servers find the Service, and the lifetime."""
        name = f"{self.service}.{self.namespace}.svc"
        return Terms((name, f"{name}.cluster.local"), self.lifetime_s)


class Webhook:
    """All parts, wired; nothing runs before start()."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings; raises OSError if a port cannot be had."""
        self._drain_s = settings.drain_s
        self._identity = Identity()
        self._values = Values(self._gauges, catalogue.WEBHOOK_METRICS)
        self._helper = _helper(settings, self._values)
        self._keeper = _keeper(settings, self._helper, self._identity)
        is_ready = partial(getattr, self._keeper, "is_ready")
        answer = _answerer(settings.image, self._values)
        self.server = Server(settings.listen, self._identity, answer, is_ready)
        self._metrics = (
            MetricsServer(settings.metrics_addr, self._values.text, is_ready, _UNREADY)
            if settings.metrics_addr
            else None
        )

    def start(self) -> None:
        """Look for a certificate, and serve."""
        self._keeper.start()
        self.server.start()
        if self._metrics:
            self._metrics.start()
            _log.info("serving metrics", extra={"port": self._metrics.port})

    def stop(self) -> None:
        """End what is under way, then everything."""
        self.server.stop(_GRACE_S)
        self._keeper.stop()
        if self._helper:
            self._helper.close()
        if self._metrics:
            self._metrics.stop()

    def _gauges(self) -> Gauges:
        expires_at = self._identity.expires_at
        return {catalogue.CERTIFICATE_EXPIRY: {} if expires_at is None else {(): expires_at}}


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; raises OSError if a port cannot be had."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)  # before the first thread is made
    log.configure(settings.log_level, settings.log_format)
    webhook = Webhook(settings)
    webhook.start()
    _log.info(
        "answering admission reviews",
        extra={"port": webhook.server.port, "agent_image": settings.image},
    )
    received = signal.sigwait(_STOP_SIGNALS)
    _log.info("stopping on %s", signal.Signals(received).name)
    if received == signal.SIGTERM:  # a second signal ends the wait
        signal.sigtimedwait(_STOP_SIGNALS, settings.drain_s)
    webhook.stop()


def _helper(settings: Settings, values: Values) -> Helper | None:
    if settings.folder is not None and not settings.configuration:
        return None  # no call is ever made
    return Helper(
        Access(account=settings.kubeconfig or IN_CLUSTER),
        teller(partial(values.count, catalogue.API_CALLS)),
        partial(values.count, catalogue.API_HELPERS),
        idle_s=2 * _CHECK_S,  # it stays: starting it anew for each check would cost more
    )


def _keeper(settings: Settings, helper: Helper | None, identity: Identity) -> Keeper:
    source: Source
    if settings.folder is not None:
        source, period_s = Files(settings.folder), _FILES_S
    else:
        assert helper is not None
        terms = settings.terms
        source = Shared(helper, settings.namespace, settings.secret, terms)
        period_s = min(_CHECK_S, terms.grace_s / 5)
    trust = Trust(helper, settings.configuration) if helper and settings.configuration else None
    return Keeper(source, trust, identity, period_s)


def _answerer(image: str, values: Values) -> Callable[[bytes], bytes]:
    decide = partial(rules.decide, image=image)

    def answer(body: bytes) -> bytes:
        begun = time.perf_counter()
        result = "malformed"
        try:
            answered = review.answer(body, decide)
            result = answered.result
        finally:
            values.count(catalogue.ADMISSIONS, result)
            values.observe(catalogue.ADMISSION_SECONDS, time.perf_counter() - begun)
        return answered.body

    return answer
