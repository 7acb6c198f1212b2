"""`csi-fluid webhook`: gives serverless pods that ask for recovery their agent."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from csi_fluid import optiontypes
from csi_fluid.cli import usage
from csi_fluid.webhook import CONFIGURATION, NAMESPACE, SECRET, SERVICE

_SETTINGS = ("kubeconfig", "metrics-addr", "log-format", "log-level")
_LIFETIME = "2160h"
_MIN_LIFETIME_S = 5.0
_DRAIN = "5s"

_T = TypeVar("_T")

_EXAMPLES = """\
  csi-fluid webhook --agent-image=localhost/csi-fluid:0.1.0
  csi-fluid webhook --agent-image=... --cert-dir=/certs --webhook-config=   # cert-manager's"""


def run(words: Sequence[str]) -> int:
    """Answer admission reviews until a signal ends the webhook."""
    settings, given = usage.parse(_parser(), words)
    if not given.agent_image:
        raise usage.Misuse("webhook: --agent-image is missing; see csi-fluid webhook --help")
    listen = _value(optiontypes.parse_address, "listen", given.listen)
    if listen is None:
        raise usage.Misuse(f"webhook: --listen={given.listen}: expected host:port or :port")
    lifetime_s = _value(optiontypes.parse_long_duration, "certificate-lifetime", given.lifetime)
    if lifetime_s < _MIN_LIFETIME_S:
        raise usage.Misuse(f"webhook: --certificate-lifetime={given.lifetime}: expected 5s or more")
    try:
        from csi_fluid.webhook import process
    except ImportError as error:
        raise usage.Failure(
            f"the webhook needs {error.name}, which is not here; pip install csi-fluid[webhook]"
        ) from error

    process.run(
        process.Settings(
            listen=listen,
            image=given.agent_image,
            namespace=given.namespace,
            service=given.service_name,
            secret=given.secret,
            configuration=given.webhook_config,
            lifetime_s=lifetime_s,
            folder=given.cert_dir,
            kubeconfig=settings.kubeconfig,
            metrics_addr=settings.metrics_addr,
            drain_s=_value(optiontypes.parse_duration, "drain", given.drain),
            log_format=settings.log_format,
            log_level=settings.log_level,
        )
    )
    return 0


def _parser() -> usage.Parser:
    parser = usage.Parser(
        "webhook",
        "--agent-image IMAGE [OPTIONS]",
        "Answer the API servers' admission reviews: pods with FUSE sidecars that ask for recovery\n"
        "get an agent. Certificates are made here, and kept in a Secret, or given in --cert-dir.",
        _EXAMPLES,
    )
    for flag, default, metavar, what in (
        ("agent-image", "", "IMAGE", "the image of the agent; required"),
        ("listen", ":9443", "HOST:PORT", "where API servers ask, over TLS"),
        ("namespace", NAMESPACE, "NAME", "the namespace of Service and Secret"),
        ("service-name", SERVICE, "NAME", "the Service by which API servers find the webhook"),
        ("secret", SECRET, "NAME", "the Secret in which the replicas share their authority"),
        (
            "webhook-config",
            CONFIGURATION,
            "NAME",
            "the MutatingWebhookConfiguration whose caBundle is kept right; empty: none",
        ),
        ("drain", _DRAIN, "DURATION", "go on answering so long after SIGTERM"),
    ):
        shown = f"{what} (default {default})" if default else what
        parser.add_argument(f"--{flag}", default=default, metavar=metavar, help=shown)
    parser.add_argument(
        "--certificate-lifetime",
        dest="lifetime",
        default=_LIFETIME,
        metavar="DURATION",
        help=f"how long a certificate made here is valid, its authority ten times (default "
        f"{_LIFETIME}); renewed when a third is left",
    )
    parser.add_argument(
        "--cert-dir",
        type=Path,
        metavar="DIR",
        help="serve tls.crt and tls.key of this directory, and have ca.crt trusted if it is there; "
        "read again every 10 s",
    )
    usage.add_options(parser, usage.named(*_SETTINGS))
    return parser


def _value(parse: Callable[[str], _T], flag: str, text: str) -> _T:
    try:
        return parse(text)
    except ValueError as error:
        raise usage.Misuse(f"webhook: --{flag}={text}: {error}") from error
