"""`csi-fluid doctor`: does this machine have what the plugin needs, and what follows where not."""

import contextlib
import dataclasses
import json
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from csi_fluid import config
from csi_fluid.cli import facilities, holding, screen, usage
from csi_fluid.cli.facilities import Finding, Verdict
from csi_fluid.cli.status import absence
from csi_fluid.kube import access
from csi_fluid.rpc.client import Client
from recover.errors import StateError
from recover.linux import confinement, namespaces
from recover.linux.probe import Prober
from recover.store import Store

_EXAMPLES = """\
  csi-fluid doctor
  csi-fluid doctor --json | jq '.[] | select(.verdict != "ok")'"""
_CAPABILITIES: Mapping[str, tuple[Verdict, str]] = {
    "CAP_SYS_ADMIN": ("missing", "nothing can be mounted"),
    "CAP_SYS_CHROOT": ("limited", "containers cannot be entered: --strategy=propagation only"),
    "CAP_SYS_PTRACE": (
        "limited",
        "containers of other users are not seen, nor held by SeamlessRecovery",
    ),
}
_COLOURS = {"ok": "green", "limited": "yellow", "missing": "bold red"}


def run(words: Sequence[str]) -> int:
    """Print what was found; return 1 if something that is needed is missing."""
    parser = usage.Parser(
        "doctor", "[OPTIONS]", "Check what this machine offers to the plugin.", _EXAMPLES
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    usage.add_options(
        parser,
        usage.named(
            *("endpoint", "state", "holder", "probe-timeout"),
            *("kube", "kubelet-kube-config", "kubeconfig"),
        ),
    )
    settings, given = usage.parse(parser, words)
    findings = tuple(_findings(settings))
    if given.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        _print(findings)
    return int(any(finding.verdict == "missing" for finding in findings))


def _findings(settings: config.Settings) -> Iterator[Finding]:
    yield from facilities.find(Prober(timeout_s=settings.probe_timeout_s))
    yield from _capabilities()
    yield _host_processes()
    yield _fuse_device()
    yield _kubelet_folder(settings.kubelet_root)
    yield _mount_root(settings.mount_root)
    yield _state_file(settings.state)
    yield _socket(settings.endpoint)
    yield holding.finding(settings)
    yield _api_server(settings)


def _capabilities() -> Iterator[Finding]:
    lacking = confinement.lacking()
    for name, (verdict, follows) in _CAPABILITIES.items():
        if name in lacking:
            yield Finding(name, verdict, "not held", follows)
        else:
            yield Finding(name, "ok", "held")


def _host_processes() -> Finding:
    what = "the host's processes"
    if namespaces.sees_host():
        kind = "namespace" if namespaces.can_mount_inside() else "propagation"
        return Finding(what, "ok", f"visible: --strategy=auto heals by {kind}")
    return Finding(
        what,
        "limited",
        "not visible: --strategy=auto heals by propagation",
        "containers whose mount has no propagation are not healed, and with SeamlessRecovery too "
        "applications see a crash; set hostPID: true",
    )


def _fuse_device() -> Finding:
    try:
        found = stat.S_ISCHR(Path("/dev/fuse").stat().st_mode)
    except OSError:
        found = False
    if found:
        return Finding("/dev/fuse", "ok", "is there")
    return Finding(
        "/dev/fuse", "limited", "is not there", "a FUSE daemon cannot run here; try modprobe fuse"
    )


def _kubelet_folder(path: str) -> Finding:
    what = f"kubelet's directory {path}"
    try:
        mount = facilities.mount_below(path)
    except OSError as error:
        follows = "no kubelet here, or KUBELET_ROOTDIR names another place"
        return Finding(what, "limited", f"cannot be opened: {error.strerror}", follows)
    if namespaces.is_passed_on(mount):
        return Finding(what, "ok", f"is on {mount.mount_point}, which is shared")
    kind = "shared with nobody" if mount.shared else "not shared"
    return Finding(
        what,
        "limited",
        f"is on {mount.mount_point}, which is {kind}",
        "what is mounted here is seen in this mount namespace alone; mount it Bidirectional",
    )


def _mount_root(path: str) -> Finding:
    what = f"MOUNT_ROOT {path}"
    try:
        mount = facilities.mount_below(path)
    except OSError as error:
        follows = "no FUSE daemon has mounted yet, or MOUNT_ROOT names another place"
        return Finding(what, "limited", f"cannot be opened: {error.strerror}", follows)
    if mount.shared or mount.master:
        kind = "shared" if mount.shared else "a slave"
        return Finding(what, "ok", f"is on {mount.mount_point}, which is {kind}")
    return Finding(
        what,
        "limited",
        f"is on {mount.mount_point}, which is private",
        "only FUSE daemons in this mount namespace are seen; mount it with HostToContainer",
    )


def _state_file(path: Path) -> Finding:
    what = f"state file {path}"
    try:
        store = Store.read(path)
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return Finding(what, "limited", "is not there", "no plugin has run with this --state yet")
    except (StateError, OSError) as error:
        return Finding(
            what, "missing", str(error), "healing goes on from memory until it is mended"
        )
    if store.problem:
        return Finding(what, "limited", store.problem)
    if mode & 0o077:
        return Finding(what, "limited", f"has mode {mode:04o}", f"run chmod 600 {path}")
    rows = len(store.publications())
    return Finding(what, "ok", f"readable, {rows} publication{'s' * (rows != 1)}")


def _socket(endpoint: str) -> Finding:
    what = f"plugin at {endpoint}"
    if absent := absence(endpoint):
        return Finding(what, "limited", absent)
    if not endpoint.startswith("unix:"):
        return Finding(what, "limited", "not asked: it does not listen on a unix socket")
    with contextlib.closing(Client(Path(endpoint.removeprefix("unix:")))) as client:
        if client.ready():
            return Finding(what, "ok", "answers, and is ready")
    return Finding(what, "limited", "listens, but does not say that it is ready", "look at its log")


def _api_server(settings: config.Settings) -> Finding:
    what = "API server"
    if settings.kube == "none":
        return Finding(what, "ok", "not used: --kube=none")
    found = access.find(settings.kube, settings.kubelet_kube_config, settings.kubeconfig)
    if found:
        return Finding(what, "ok", found.described())
    return Finding(
        what, "limited", found.described(), "no node is labelled, events go to the log alone"
    )


def _print(findings: Sequence[Finding]) -> None:
    table = Table("what", "verdict", "seen", "what follows", box=None, header_style="bold")
    for finding in findings:
        verdict = Text(finding.verdict, _COLOURS[finding.verdict])
        what, seen, follows = map(screen.plain, (finding.what, finding.seen, finding.follows))
        table.add_row(Text(what), verdict, Text(seen), Text(follows))
    screen.console().print(table)
