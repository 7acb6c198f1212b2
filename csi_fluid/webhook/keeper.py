"""Keeps what is served and what is trusted in step: a thread that looks again and again."""

import logging
import os
import ssl
import threading
import time

from csi_fluid.errors import Error
from csi_fluid.webhook import certificates
from csi_fluid.webhook.sources import Served, Source
from csi_fluid.webhook.trust import Trust

_CHECK_S = 30.0  # one check may take so long
_RETRY_S = 2.0
_JOIN_S = 1.0

_log = logging.getLogger(__name__)


class Identity:
    """The certificate that is served now; safe to use from any thread."""

    def __init__(self) -> None:
        self._served: Served | None = None
        self.context: ssl.SSLContext | None = None
        self.expires_at: float | None = None

    def use(self, served: Served) -> None:
        """Serve this to new connections; raises ValueError (ssl.SSLError is an OSError)."""
        if served == self._served:
            return
        expires_at = certificates.expiry(served.certificate)
        self.context = _context(served)
        self._served, self.expires_at = served, expires_at
        _log.info("serving a certificate", extra={"expires": time.ctime(expires_at)})


def _context(served: Served) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # OpenSSL reads files only; this one is in memory and has no name.
    with os.fdopen(os.memfd_create("certificate"), "w") as file:
        file.write(f"{served.key}\n{served.certificate}")
        file.flush()
        # An encrypted key is refused: without a password OpenSSL would ask the terminal for one.
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}", password="")
    return context


class Keeper:
    """Fetches the certificate, serves it, and puts its authority into the configuration."""

    def __init__(
        self, source: Source, trust: Trust | None, identity: Identity, period_s: float
    ) -> None:
        """Take where it comes from, who is to trust it (None: not our matter), and how often."""
        self._source = source
        self._trust = trust
        self._identity = identity
        self._period_s = period_s
        self._is_trusted = trust is None
        self._problem = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="certificates", daemon=True)

    @property
    def is_ready(self) -> bool:
        """Return whether a certificate is served that the API server trusts, as last seen."""
        expires_at = self._identity.expires_at
        return self._is_trusted and expires_at is not None and time.time() < expires_at

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking; a call under way is left to its own end."""
        self._stop.set()
        self._thread.join(_JOIN_S)

    def check(self) -> None:
        """Look once; raises Error, OSError or ValueError, and what was served stays."""
        until = time.monotonic() + _CHECK_S
        # Read first: what the source says is then newer, and never replaced by something older.
        before = self._trust.read(until) if self._trust else None
        served = self._source.fetch(until)
        if self._trust and before and served.bundle and before.lacks(served.bundle):
            self._trust.write(before, served.bundle, until)
            _log.info("the API server was told what to trust")
        self._identity.use(served)
        self._is_trusted = True

    def _run(self) -> None:
        while not self._stop.is_set():
            self._stop.wait(self._period_s if self._checked() else min(_RETRY_S, self._period_s))

    def _checked(self) -> bool:
        try:
            self.check()
        except (Error, OSError, ValueError) as error:
            said = str(error)
            if said != self._problem:
                _log.warning("the certificate cannot be looked after: %s; trying again", said)
            self._problem = said
            return False
        if self._problem:
            _log.info("the certificate is looked after again")
        self._problem = ""
        return True
