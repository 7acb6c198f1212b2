"""The plugin as a process: built, started and stopped in order.

Starting: the state file, then the socket, so that Probe is answered early (not ready yet); then the
state is reconciled with the kernel, and recovery begins if its gate is on.
Stopping: no new calls, recovery ends after the step under way, the state file is closed.  Mounts
stay as they are.
"""

import gc
import logging
import os
import resource
import signal
import threading

from csi_fluid import config, log, telling, updatedb
from csi_fluid.kube import access
from csi_fluid.kube.side import ApiSide, Counts, Reset
from csi_fluid.kubelet import Kubelet
from csi_fluid.metrics import catalogue
from csi_fluid.metrics.meter import Meter
from csi_fluid.mountroot import MountRoot
from csi_fluid.rpc.controller import Controller
from csi_fluid.rpc.identity import Identity
from csi_fluid.rpc.loop import Loop
from csi_fluid.rpc.node import Node, Volumes
from csi_fluid.rpc.registration import Registrar
from csi_fluid.rpc.server import Server
from csi_fluid.volumes.health import Health
from csi_fluid.volumes.publish import Publisher
from csi_fluid.volumes.readiness import Sources
from csi_fluid.volumes.stage import Stager
from csi_fluid.volumes.static import StaticVolumes
from csi_fluid.volumes.stats import Stats
from csi_fluid.volumes.targets import Claims, Pods
from csi_fluid.volumes.unpublish import Unpublisher
from csi_fluid.volumes.users import Users
from recover import events, loop, reconcile
from recover.layout import Layout
from recover.linux import mountinfo, syscalls
from recover.linux.probe import Prober
from recover.linux.probehelper import ProbeHelper
from recover.parts import Parts
from recover.rows import Method
from recover.store import Store

_STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
_RPC_GRACE_S = 1.5
_RECOVERY_GRACE_S = 2.0
_EVENTS_GRACE_S = 0.8  # together below the 5 s within which the process must end

_log = logging.getLogger(__name__)


def run(settings: config.Settings) -> None:
    """Serve until SIGTERM or SIGINT; raises OSError if the socket cannot be had.

    Threads that hang in a FUSE mount may be left when it returns.
    """
    # Blocked in every thread, and before the first is made: a signal ends the wait below and no
    # system call in the middle of a heal.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # no terminal or log rotation ends a node plugin
    syscalls.keep_memory_small()
    log.configure(settings.log_level, settings.log_format)
    _raise_file_limit()
    plugin = Plugin(settings)
    try:
        plugin.start()
        gc.collect()
        gc.freeze()  # what is here now stays: the collector need not look at it again
        received = signal.sigwait(_STOP_SIGNALS)
        _log.info("stopping on %s", signal.Signals(received).name)
    finally:
        plugin.stop()


class Plugin:
    """All parts of the plugin, wired."""

    def __init__(self, settings: config.Settings) -> None:
        """Build the parts; nothing runs yet."""
        self._settings = settings
        # As the kernel has them, which knows no links: its mount points are compared with these.
        self._kubelet = Kubelet(os.path.realpath(settings.kubelet_root))
        self._layout = Layout(self._kubelet, MountRoot(os.path.realpath(settings.mount_root)))
        self._store = Store.open(settings.state, self._tell_of_state)
        self._helper = ProbeHelper()
        self._helper.start()  # it is there before the first look at a FUSE mount
        self._prober = Prober(timeout_s=settings.probe_timeout_s, helper=self._helper)
        self._parts = Parts.of(self._store, self._prober, settings.anchors)
        self._meter = Meter(settings.metrics_addr, self._store, self._prober, self._is_ready)
        self._api = self._build_api()
        self._observer = self._build_observer()
        self._reconciled = threading.Event()
        self._recovery = self._build_recovery() if settings.recovery else None
        self._loop = Loop()
        self._server = self._build_server()
        self._registrar = self._build_registrar()

    def start(self) -> None:
        """Serve, reconcile, and begin to heal; raises OSError if the socket cannot be had."""
        self._loop.start()
        self._server.start()  # first: whoever asks is told "not ready yet"
        self._meter.start()
        updatedb.prune(self._settings.prune_fs, self._settings.prune_path)
        self._api.start()
        if self._recovery is not None:
            self._recovery.start()
        else:
            self._reconcile()
        if self._registrar is not None:
            self._registrar.start()
        self._tell_settings()

    def stop(self) -> None:
        """Stop everything within the graces; what does not end by then is left as it is."""
        if self._registrar is not None:
            self._registrar.stop()
        self._server.stop(_RPC_GRACE_S)
        self._loop.stop()
        if self._recovery is not None and not self._recovery.stop(_RECOVERY_GRACE_S):
            _log.warning("a heal did not end in time; the next start finishes it")
        self._api.stop(_EVENTS_GRACE_S)
        self._meter.stop()
        self._helper.close()
        self._store.close()

    def _build_api(self) -> ApiSide:
        settings, values = self._settings, self._meter.observer.values
        counts = Counts(
            call=lambda *labels: values.count(catalogue.API_CALLS, *labels),
            event=lambda result: values.count(catalogue.EVENTS, result),
            start=lambda: values.count(catalogue.API_HELPERS),
        )
        found = access.find(settings.kube, settings.kubelet_kube_config, settings.kubeconfig)
        look_first = not settings.allow_patch_stale_node
        side = ApiSide(found, settings.node_id, counts, look_first=look_first)
        self._meter.observer.events_waiting = lambda: side.waiting
        return side

    def _build_observer(self) -> telling.FanOut:
        settings, sent = self._settings, self._api.events
        sink = telling.Sinks(telling.LogSink(), *(() if sent is None else (sent,)))
        observers: list[events.Observer] = [
            *(self._meter.observer, telling.EventObserver(sink), telling.LogObserver())
        ]
        if settings.recovery and settings.reset_backoff_s is not None:
            reset = Reset(settings.reset_backoff_s, settings.reset_backoff_interval_s)
            if watcher := self._api.reset_backoff(self._store, sink, reset):
                observers.append(watcher)
        return telling.FanOut(*observers)

    def _build_recovery(self) -> loop.Recovery:
        settings = self._settings
        chosen = loop.Settings(
            layout=self._layout,
            period_s=settings.period_s,
            strategy=settings.strategy,
            recover_writable=settings.recover_writable,
            warning_threshold=settings.warning_threshold,
            hung_abort_after_s=settings.hung_abort_after_s,
            lease=settings.lease,
            holds=settings.holds,
        )
        recovery = loop.Recovery(self._parts, self._observer, chosen)
        self._meter.observer.strategy = recovery.strategy
        self._meter.observer.held = recovery.held
        return recovery

    def _build_server(self) -> Server:
        store, prober = self._store, self._prober
        sources, claims = Sources(prober), Claims()
        users = Users(store, self._kubelet)
        changed = self._recovery.changed if self._recovery else self._flush
        volumes = Volumes(
            stager=Stager(self._api.kube, users, claims, prober, self._settings.mount_root),
            publisher=Publisher(self._parts, sources, claims, changed, Pods(self._kubelet.root)),
            unpublisher=Unpublisher(self._parts, claims, changed),
            stats=Stats(store, prober),
            health=Health(store, prober, sources),
        )
        settings = self._settings
        return Server(
            settings.endpoint,
            Identity(self._is_ready),
            Node(settings.node_id, volumes, Method(settings.publish_method)),
            Controller(StaticVolumes(store)),
            self._meter.observe,
            self._loop,
        )

    def _build_registrar(self) -> Registrar | None:
        settings = self._settings
        if settings.registration is None:
            return None
        registrar = Registrar(self._kubelet.registry, settings.registration, self._loop)
        self._meter.observer.registered = lambda: registrar.registered
        return registrar

    def _flush(self, _source: str) -> None:
        """Try again to write what a full disk refused; recovery, where it is on, does so itself."""
        self._store.flush()

    def _is_ready(self) -> bool:
        return (self._recovery.reconciled if self._recovery else self._reconciled).is_set()

    def _reconcile(self) -> None:
        """Make the state agree with the kernel, as recovery does itself where it is on."""
        reconcile.Reconciler(self._parts, self._observer, self._layout).run(mountinfo.read())
        self._reconciled.set()

    def _tell_of_state(self, problem: str) -> None:
        telling.LogObserver().tell(events.StateTrouble(str(self._settings.state), problem))

    def _tell_settings(self) -> None:
        settings = self._settings
        if self._recovery is not None:
            wakeups = ", ".join(self._recovery.wakeups)
            facts = {"strategy": self._recovery.strategy, "wakeups": wakeups}
            _log.info("recovery is on", extra=facts)
        else:
            _log.info("recovery is off: --feature-gates=FuseRecovery=true turns it on")
            if settings.hung_abort_after_s is not None:
                _log.warning("--hung-abort-after has no effect while recovery is off")
        for name in settings.without_effect:
            _log.debug("%s is accepted and has no effect", name)


def _raise_file_limit() -> None:
    """Allow as many open files as we may: every pinned mount, probe and call holds some."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
