"""The metrics of a running plugin: what feeds them, and where they are served.

Each is defined in the package itself, `metrics/catalogue.py`.
"""

import logging
from collections.abc import Callable

from csi_fluid.metrics import catalogue
from csi_fluid.metrics.observer import MetricsObserver, Publications
from csi_fluid.metrics.server import Server
from recover.linux.probe import Prober

_log = logging.getLogger(__name__)


class Meter:
    """Counts calls and what recovery tells, and serves the counts."""

    def __init__(
        self,
        address: tuple[str, int] | None,
        store: Publications,
        prober: Prober,
        ready: Callable[[], bool],
    ) -> None:
        """Take where to serve, as (host, port) or None, what the gauges are computed from, ready().

        Ready is what Probe of the CSI socket says.
        """
        self._address = address
        self._ready = ready
        self._server: Server | None = None
        self.observer = MetricsObserver(store, prober)

    def observe(self, method: str, code: str, seconds: float) -> None:
        """Count a call."""
        self.observer.values.observe(catalogue.RPC_SECONDS, seconds, method, code)

    def start(self) -> None:
        """Serve; where the port is taken, say so and go on, for no volume depends on it."""
        if self._address is None:
            return
        host, port = self._address
        try:
            self._server = Server(self._address, self.observer.values.text, self._ready)
        except OSError as error:
            _log.warning(
                "no metrics at %s:%d: %s; choose another --metrics-addr, or 0 for none",
                *(host, port, error.strerror or error),
            )
            return
        self._server.start()
        _log.info("serving metrics at %s:%d", host, self._server.port)

    def stop(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.stop()
