"""`csi-fluid agent`: heals the FUSE mounts of one serverless pod, from a container in it."""

import logging
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from csi_fluid import config, optiontypes
from csi_fluid.cli import usage
from recover.serverless.guard import Target

_SETTINGS = ("recover-writable", "probe-timeout", "metrics-addr", "log-format", "log-level")
_READ_ONLY = ":ro"
_PERIOD = "1s"

_EXAMPLES = """\
  csi-fluid agent --mount=/jfs/jindofs-fuse=/runtime-mnt/jindo/default/demo/jindofs-fuse
  csi-fluid agent --mount=/mnt/a/fuse --mount=/mnt/b/fuse:ro --health-file=/tmp/healthy
  csi-fluid agent --mount=/jfs/jindofs-fuse --leave        # the container's preStop hook"""


def run(words: Sequence[str]) -> int:
    """Guard the mount points until a signal ends the agent."""
    settings, given = usage.parse(_parser(), words)
    from csi_fluid import agent

    chosen = agent.Settings(
        targets=_targets(given.mount),
        pod_uid=settings.pod_uid,
        recover_writable=settings.recover_writable,
        probe_timeout_s=settings.probe_timeout_s,
        period_s=_period(given.period),
        health_file=given.health_file,
        metrics_addr=_metrics_addr(settings, given),
        log_format=settings.log_format,
        log_level=settings.log_level,
    )
    if given.leave:
        agent.leave(chosen)
        return 0
    status = agent.run(chosen)
    # A thread that hangs in a FUSE mount must not keep the process: nothing is left to be done.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)


def _parser() -> usage.Parser:
    parser = usage.Parser(
        "agent",
        "--mount PATH[=HOST_PATH][:ro] [--mount ...] [OPTIONS]",
        "Heal the FUSE mounts of a serverless pod from a container beside its FUSE sidecar, which\n"
        "needs the sidecar's privileges and its directories with mountPropagation: Bidirectional.",
        _EXAMPLES,
    )
    parser.add_argument(
        "--mount",
        action="append",
        default=[],
        metavar="PATH[=HOST_PATH][:ro]",
        help="a mount point of a FUSE sidecar as this container sees it, and its path on the node "
        "for the messages; :ro where a container of the pod mounts it readOnly",
    )
    parser.add_argument(
        "--period",
        default=_PERIOD,
        metavar="DURATION",
        help=f"ask each FUSE daemon this often whether it lives (default {_PERIOD})",
    )
    parser.add_argument(
        "--health-file",
        type=Path,
        metavar="FILE",
        help="a file that is there while the agent works, for an exec probe with test -e",
    )
    parser.add_argument(
        "--leave",
        action="store_true",
        help="tell the running agent of this pod that the pod is being deleted, and end; with "
        "--health-file only while that file is there",
    )
    usage.add_options(parser, usage.named(*_SETTINGS))
    return parser


def _targets(given: Sequence[str]) -> tuple[Target, ...]:
    if not given:
        raise usage.Misuse("agent: --mount is missing; see csi-fluid agent --help")
    return tuple(_target(text) for text in given)


def _target(text: str) -> Target:
    paths = text.removesuffix(_READ_ONLY)
    inside, _, host = paths.partition("=")
    for path in filter(None, (inside, host)):
        if not path.startswith("/") or ".." in path.split("/") or os.path.normpath(path) == "/":
            raise usage.Misuse(f'agent: --mount={text}: {path} is no absolute path without ".."')
    if not inside:
        raise usage.Misuse(f"agent: --mount={text}: expected PATH or PATH=HOST_PATH")
    # As the mount table has it.  Of the mount point itself nothing may be asked: it may be dead.
    folder, name = os.path.split(os.path.normpath(inside))
    here = str(Path(os.path.realpath(folder)) / name)
    return Target(here, os.path.normpath(host) if host else "", read_only=paths != text)


def _period(text: str) -> float:
    try:
        return optiontypes.parse_duration(text)
    except ValueError as error:
        raise usage.Misuse(f"agent: --period={text}: {error}") from error


def _metrics_addr(settings: config.Settings, given: Namespace) -> tuple[str, int] | None:
    """Return where metrics are served; off unless asked for, in an application's pod."""
    return settings.metrics_addr if vars(given)["metrics-addr"] is not None else None
