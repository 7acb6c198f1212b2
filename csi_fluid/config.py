"""Every option of the plugin, as data, and the frozen settings made of it.

The only reader of the environment.  A flag wins over its environment variable, that over the
default; an empty variable counts as unset, because charts pass empty values on.  Whoever replaces
Fluid's image keeps Fluid's arguments, so each is accepted, also where it has no effect here.
"""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from csi_fluid import kubelet, optiontypes
from csi_fluid.kubelet import Kubelet
from csi_fluid.optiontypes import Kind
from recover.policy import HoldSettings

Owner = Literal["Fluid", "ours"]

_STATE_NAME = "state.db"
_HOLDER_FOLDER = "holder"
_STATE_FOLDER = Path("/var/lib/csi-fluid")


class Invalid(ValueError):
    """An option's value cannot be used; the message names option, value and expectation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option: how it is given and what it means.

    Of the environment variables the first that is set wins.  default is text, parsed as a given
    value is; None means that help explains what holds without the option.
    """

    kind: Kind
    owner: Owner
    help: str
    flag: str = ""
    env: tuple[str, ...] = ()
    default: str | None = None
    unit: str = ""
    field: str = ""  # the attribute of Settings; "" where the option has no effect

    @property
    def name(self) -> str:
        """Return the name to show: the flag, or where there is none the variable."""
        return f"--{self.flag}" if self.flag else self.env[0]


def _option(kind: Kind, owner: Owner, help_: str, **more: Any) -> Any:
    return dataclasses.field(
        metadata={"option": Option(kind=kind, owner=owner, help=help_, **more)}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the plugin runs with: the value of every option."""

    node_id: str = _option(
        optiontypes.NAME,
        "Fluid",
        "name of this node in Kubernetes; required",
        flag="nodeid",
        env=("NODE_ID",),
    )
    endpoint: str = _option(
        Kind("URL", optiontypes.parse_endpoint),
        "Fluid",
        "where kubelet calls: unix:///path or tcp://host:port; required",
        flag="endpoint",
        env=("CSI_ENDPOINT",),
    )
    registration: str | None = _option(
        Kind("PATH", optiontypes.parse_socket),
        "ours",
        "register with kubelet, which finds the CSI socket at this path; if not given somebody "
        "else registers the plugin, such as the registrar sidecar of Fluid's chart",
        flag="kubelet-registration-path",
    )
    gates: Mapping[str, bool] = _option(
        Kind("NAME=BOOL,...", optiontypes.parse_gates),
        "Fluid",
        "FuseRecovery=true heals broken volumes, with SeamlessRecovery=true applications wait for "
        "that and see no error; AllAlpha=, AllBeta= switch every gate of a stage",
        flag="feature-gates",
        default="",
    )
    state: Path = _option(  # noqa: RUF009  a dataclass field
        Kind("FILE", Path),
        "ours",
        f"the state file; if not given {kubelet.OWN}/{_STATE_NAME} in kubelet's directory "
        f"where that folder exists, else {_STATE_FOLDER / _STATE_NAME}",
        flag="state",
    )
    kube: Literal["auto", "account", "none"] = _option(
        optiontypes.choice("auto", "account", "none"),
        "ours",
        "how to reach the API server; auto: node labels with kubelet's credential where there is "
        "one, all else with the ServiceAccount or --kubeconfig; account: never kubelet's; none: "
        "label no node, write events to the log alone",
        flag="kube",
        default="auto",
    )
    kubelet_kube_config: str = _option(
        optiontypes.TEXT,
        "Fluid",
        "kubelet's kubeconfig, whose credential labels this node",
        flag="kubelet-kube-config",
        default="/etc/kubernetes/kubelet.conf",
    )
    kubeconfig: str = _option(
        optiontypes.TEXT,
        "Fluid",
        "a kubeconfig to use in place of the pod's ServiceAccount",
        flag="kubeconfig",
        default="",
    )
    reset_backoff_s: float | None = _option(
        optiontypes.TIME,
        "ours",
        "delete a FUSE pod that has waited so long in CrashLoopBackOff, so that its DaemonSet "
        "makes a fresh one; if not given never",
        flag="reset-backoff",
        unit="time",
    )
    reset_backoff_interval_s: float = _option(
        optiontypes.TIME,
        "ours",
        "the least time between two such deletions for one dataset",
        flag="reset-backoff-interval",
        default="10m",
        unit="time",
    )
    strategy: Literal["auto", "namespace", "propagation"] = _option(
        optiontypes.choice("auto", "namespace", "propagation"),
        "ours",
        "how to heal: namespace enters every container (needs the host's PID namespace), "
        "propagation mounts on top of the dead mount; auto: namespace where it works",
        flag="strategy",
        default="auto",
    )
    recover_writable: bool = _option(
        optiontypes.BOOL,
        "ours",
        "heal volumes that can be written to as well",
        flag="recover-writable",
        default="false",
    )
    probe_timeout_s: float = _option(
        optiontypes.TIME,
        "ours",
        "a FUSE daemon that does not answer for so long is hung",
        flag="probe-timeout",
        default="3s",
        unit="time",
    )
    hung_abort_after_s: float | None = _option(
        optiontypes.TIME,
        "ours",
        "end the FUSE connection of a daemon that has not answered for so long, so that nobody "
        "waits for it any more; if not given never",
        flag="hung-abort-after",
        unit="time",
    )
    hold_timeout_s: float = _option(
        optiontypes.TIME,
        "ours",
        "with SeamlessRecovery, keep applications waiting for at most so long after a crash",
        flag="hold-timeout",
        default="30s",
        unit="time",
    )
    holder: Path | None = _option(  # noqa: RUF009  a dataclass field
        Kind("PATH", lambda text: Path(optiontypes.parse_socket(text))),
        "ours",
        "with SeamlessRecovery, the socket of a holder that runs by itself and outlives the "
        "plugin; if not given the plugin starts one, with its socket beside the state file",
        flag="holder",
    )
    period_s: float = _option(
        optiontypes.TIME,
        "Fluid",
        "look at every volume this often, also when nothing woke the plugin",
        env=("RECOVER_FUSE_PERIOD",),
        default="5s",
        unit="time",
    )
    warning_threshold: int = _option(
        Kind("N", optiontypes.parse_count),
        "Fluid",
        "warn when more mounts are stacked on one path; the second, misspelt name is the one that "
        "Fluid's chart sets",
        env=("RECOVER_WARNING_THRESHOLD", "REVOCER_WARNING_THRESHOLD"),
        default="50",
        unit="mounts",
    )
    mount_root: str = _option(
        optiontypes.DIR,
        "Fluid",
        "the directory below which the FUSE daemons mount",
        env=("MOUNT_ROOT",),
        default="/runtime-mnt",
    )
    kubelet_root: str = _option(
        optiontypes.DIR,
        "Fluid",
        "kubelet's directory",
        env=("KUBELET_ROOTDIR",),
        default=kubelet.ROOT,
    )
    publish_method: Literal["bind", "symlink"] = _option(
        Kind("symlink|bindMount", optiontypes.parse_method),
        "Fluid",
        "symlink publishes every volume as a symbolic link; all else binds",
        env=("NODEPUBLISH_METHOD",),
        default="bindMount",
    )
    allow_patch_stale_node: bool = _option(
        optiontypes.BOOL,
        "Fluid",
        "label the node without reading it before",
        env=("ALLOW_PATCH_STALE_NODE",),
        default="true",
    )
    pod_uid: str = _option(
        Kind("UID", optiontypes.parse_identifier),
        "ours",
        "for the agent: the uid of its pod, by the downward API; without it the host name stands "
        "in, which another pod may have too",
        env=("POD_UID",),
        default="",
    )
    prune_fs: tuple[str, ...] = _option(
        Kind("TYPE,...", optiontypes.parse_words),
        "Fluid",
        "file system types that the node's updatedb is to skip",
        flag="prune-fs",
        default="fuse.alluxio-fuse,fuse.jindofs-fuse,fuse.juicefs,ossfs",
    )
    prune_path: tuple[str, ...] = _option(
        Kind("DIR,...", optiontypes.parse_words),
        "Fluid",
        "directories that the node's updatedb is to skip",
        flag="prune-path",
        default="/runtime-mnt",
    )
    metrics_addr: tuple[str, int] | None = _option(
        Kind("ADDR", optiontypes.parse_address),
        "Fluid",
        "serve /metrics and /healthz at host:port; 0 or an empty value: nowhere",
        flag="metrics-addr",
        default=":8080",
    )
    log_format: Literal["text", "json"] = _option(
        optiontypes.choice("text", "json"),
        "ours",
        "one line for each record, as key=value text or as JSON",
        flag="log-format",
        default="text",
    )
    log_level: str = _option(
        optiontypes.choice("debug", "info", "warning", "error"),
        "ours",
        "the least that is logged; if not given info, or debug where --v is 5 or more",
        flag="log-level",
    )
    verbosity: int = _option(
        Kind("LEVEL", optiontypes.parse_level),
        "Fluid",
        "5 or more means --log-level=debug",
        flag="v",
        default="0",
    )
    without_effect: tuple[str, ...] = ()

    @property
    def anchors(self) -> Path:
        """Return the plugin's own folder in kubelet's directory, which the host shares."""
        return Kubelet(os.path.realpath(self.kubelet_root)).socket.parent

    @property
    def lease(self) -> Path:
        """Return the file by which processes take turns in healing."""
        return self.state.with_name(f"{self.state.name}.lease")

    @property
    def recovery(self) -> bool:
        """Tell whether broken volumes are healed.

        Also those published as symbolic links: a container holds the mount that its link led to.
        """
        return self.gates["FuseRecovery"]

    @property
    def holds(self) -> HoldSettings | None:
        """Return how the connections of dead daemons are held, None if they are not."""
        if not (self.recovery and self.gates["SeamlessRecovery"]):
            return None
        starts = self.holder is None
        return HoldSettings(self.holder_socket, self.hold_timeout_s, starts=starts)

    @property
    def holder_socket(self) -> Path:
        """Return where a holder listens, if there is one."""
        return self.holder or self.state.with_name(_HOLDER_FOLDER) / "socket"


_NO_GLOG = "no effect: Go's logging library is not here"


def _ignored(help_: str, *flags: str, kind: Kind = optiontypes.TEXT) -> tuple[Option, ...]:
    return tuple(Option(kind=kind, owner="Fluid", help=help_, flag=flag) for flag in flags)


OPTIONS: tuple[Option, ...] = (
    *(
        dataclasses.replace(field.metadata["option"], field=field.name)
        for field in dataclasses.fields(Settings)
        if field.metadata
    ),
    *_ignored("no effect: Go's profiler is not here", "pprof-addr"),
    *_ignored(_NO_GLOG, "log_backtrace_at", "log_dir", "log_file", "log_file_max_size", "log_link"),
    *_ignored(_NO_GLOG, "logbuflevel", "stderrthreshold", "vmodule"),
    *_ignored(
        _NO_GLOG, "add_dir_header", "alsologtostderr", "logtostderr", kind=optiontypes.UNREAD
    ),
    *_ignored(_NO_GLOG, "one_output", "skip_headers", "skip_log_headers", kind=optiontypes.UNREAD),
)


def settle(
    flags: Mapping[str, str],
    environ: Mapping[str, str] | None = None,
    *,
    required: tuple[str, ...] = (),
) -> Settings:
    """Return the settings of flags (name to text) and environment (default: the process's).

    The flags named in required must have a value.  Raises Invalid.
    """
    variables = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    for option in filter(lambda option: option.field, OPTIONS):
        name, text = _given(option, flags, variables)
        if text is None and option.flag in required:
            raise Invalid(f"{name} is missing: {option.help.removesuffix('; required')}")
        values[option.field] = None if text is None else _parse(option, name, text)
    _derive(values)
    unused = tuple(o.name for o in OPTIONS if not o.field and o.flag in flags)
    return Settings(**values, without_effect=unused)


def _given(
    option: Option, flags: Mapping[str, str], environ: Mapping[str, str]
) -> tuple[str, str | None]:
    if option.flag in flags:
        return option.name, flags[option.flag]
    for name in option.env:
        if environ.get(name):
            return name, environ[name]
    return option.name, option.default


def _parse(option: Option, name: str, text: str) -> object:
    try:
        return option.kind.parse(text)
    except ValueError as error:
        raise Invalid(f"{name}={text}: {error}") from error


def _derive(values: dict[str, Any]) -> None:
    place = Kubelet(values["kubelet_root"])
    folder = place.own if place.own.is_dir() else _STATE_FOLDER
    values["node_id"] = values["node_id"] or ""
    values["endpoint"] = values["endpoint"] or f"unix:{place.socket}"
    values["state"] = values["state"] or folder / _STATE_NAME
    values["log_level"] = values["log_level"] or ("debug" if values["verbosity"] >= 5 else "info")
