"""What the demonstration may be told."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# A directory of every Linux that never holds programs; a tmpfs is mounted over it in the demo's
# namespace only, so nothing has to be made, and nothing removed, on the machine.
WORKSPACE = Path("/dev/shm")  # noqa: S108

_DESCRIPTION = """\
Show on this machine, without Kubernetes, how a volume heals under a running
pod: publish it, kill its FUSE daemon, restart it.  Needs root; leaves nothing
behind."""
_EXAMPLES = """\
examples:
  csi-fluid demo
  csi-fluid demo --daemon=s3fs
  csi-fluid demo --serverless
  csi-fluid demo --seamless
  csi-fluid demo --svg=heal.svg"""


@dataclass(frozen=True, slots=True)
class Options:
    """Which FUSE daemon dies, and where a picture of the screen is written (None: nowhere).

    serverless: it is the sidecar of the application's pod, and there is no node plugin.
    seamless: the application waits for the daemon and sees no error.
    """

    daemon: str
    serverless: bool
    seamless: bool
    svg: Path | None


def parse(words: Sequence[str]) -> Options:
    """Return the options of a command line; argparse ends the process after --help or an error."""
    parser = argparse.ArgumentParser(
        prog="csi-fluid demo",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--daemon",
        choices=("bindfs", "s3fs", "rclone"),
        default="bindfs",
        help="bindfs shows a folder (default), s3fs and rclone a bucket of a local S3 server",
    )
    parser.add_argument(
        "--serverless",
        action="store_true",
        help="the daemon is a sidecar of the pod, healed by the agent beside it (bindfs only)",
    )
    parser.add_argument(
        "--seamless",
        action="store_true",
        help="with the gate SeamlessRecovery: the pod reads through three crashes without an error",
    )
    parser.add_argument(
        "--svg", type=Path, metavar="FILE", help="write what the screen shows as a picture, too"
    )
    options = Options(**vars(parser.parse_args(words)))
    if options.serverless and options.daemon != "bindfs":
        parser.error("--serverless shows bindfs only; leave --daemon out")
    if options.serverless and options.seamless:
        parser.error("--seamless is not for serverless pods; leave one of them out")
    return options
