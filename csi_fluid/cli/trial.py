"""`csi-fluid trial`: does the plugin that runs here publish and heal."""

import signal
from collections.abc import Sequence

from csi_fluid.cli import usage

_EXAMPLES = """\
  csi-fluid trial
  csi-fluid trial --no-crash      # where FuseRecovery is off"""


def run(words: Sequence[str]) -> int:
    """Try the plugin of this node out, with a volume of the trial's own."""
    parser = usage.Parser(
        "trial",
        "[OPTIONS]",
        "Publish a small volume with the plugin of this node, kill its FUSE daemon, see it heal.\n"
        "No pod and no dataset is touched, and nothing is left.",
        _EXAMPLES,
    )
    parser.add_argument("--no-crash", action="store_true", help="publish and unpublish only")
    usage.add_options(parser, usage.named("endpoint", "state", "probe-timeout"))
    settings, given = usage.parse(parser, words)
    if not settings.endpoint.startswith("unix:"):
        raise usage.Misuse("trial: --endpoint: expected a unix socket; run it on the node itself")
    from csi_fluid.demo import trial

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing is left
    return trial.run(settings, crash=not given.no_crash)
