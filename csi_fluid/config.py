"""Every option of the plugin, as data, and the frozen settings made of it.

The only reader of the environment.  A flag wins over its environment variable, that over the
default; an empty variable counts as unset, because charts pass empty values on.  Whoever replaces
Fluid's image keeps Fluid's arguments, so each is accepted, also where it has no effect here.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from csi_fluid import kubelet
from csi_fluid.kubelet import Kubelet
from recover.holds import HoldSettings

Owner = Literal["Fluid", "ours"]

_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
_DURATION = re.compile(rf"(\d+(?:\.\d*)?|\.\d+)({'|'.join(_SECONDS)})", re.ASCII)
_PLAIN = re.compile(r"[^\s\"'#\\\x00-\x1f]+")
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_MAX_SOCKET_PATH = 107  # sockaddr_un.sun_path without its final zero: unix(7)
_STATE_NAME = "state.db"
_HOLDER_FOLDER = "holder"
_STATE_FOLDER = Path("/var/lib/csi-fluid")

GATES: Mapping[str, str] = {"FuseRecovery": "Beta", "SeamlessRecovery": "Alpha"}


class Invalid(ValueError):
    """An option's value cannot be used; the message names option, value and expectation."""


def parse_duration(text: str) -> float:
    """Return the seconds of a Go duration such as 1m30s; raises ValueError."""
    total = _seconds(text)
    if total is None or not 1e-3 <= total <= 86400:
        raise ValueError("expected a duration from 1ms to 24h, such as 5s, 1m30s or 500ms")
    return total


def parse_long_duration(text: str) -> float:
    """Return the seconds of a Go duration of up to ten years, such as 2160h; raises ValueError."""
    total = _seconds(text)
    if total is None or not 1 <= total <= 87600 * 3600:
        raise ValueError("expected a duration from 1s to 87600h, such as 2160h")
    return total


def _seconds(text: str) -> float | None:
    pieces = _DURATION.findall(text)
    if "".join(number + unit for number, unit in pieces) != text:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in pieces)


def parse_bool(text: str) -> bool:
    """Return the truth of what Go's strconv.ParseBool takes; raises ValueError."""
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise ValueError("expected true or false")


def parse_gates(text: str) -> Mapping[str, bool]:
    """Return the state of each gate from a list of Name=true|false; raises ValueError."""
    given: dict[str, bool] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ValueError(f"{name} has no value; expected {name}=true or {name}=false")
        given[name] = _gate_state(name, value)
    return {gate: given.get(gate, given.get(f"All{stage}", False)) for gate, stage in GATES.items()}


def _gate_state(name: str, value: str) -> bool:
    if name not in {*GATES, "AllAlpha", "AllBeta"}:
        raise ValueError(f"there is no gate {name}; expected {', '.join(GATES)}, AllAlpha, AllBeta")
    try:
        return parse_bool(value)
    except ValueError as error:
        raise ValueError(f"{name} is {value!r}; {error}") from error


def parse_endpoint(text: str) -> str:
    """Return the gRPC address of unix://PATH or tcp://HOST:PORT; raises ValueError."""
    scheme, _, rest = text.partition("://")
    if scheme == "tcp" and ":" in rest:
        return rest
    if scheme != "unix" or not rest.strip("/"):
        raise ValueError("expected unix:///absolute/path.sock or tcp://host:port")
    path = os.path.normpath("/" + rest.lstrip("/"))  # Fluid reads unix://a/b as /a/b, too
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise ValueError(f"expected a socket path of at most {_MAX_SOCKET_PATH} bytes")
    return f"unix:{path}"


def parse_socket(text: str) -> str:
    """Return the absolute path of a unix socket; raises ValueError."""
    path = _folder(text)
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise ValueError(f"expected a socket path of at most {_MAX_SOCKET_PATH} bytes")
    return path


def parse_address(text: str) -> tuple[str, int] | None:
    """Return (host, port) of [HOST]:PORT, or None (off) of "" and "0"; raises ValueError."""
    if text in {"", "0"}:
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ValueError("expected host:port or :port, or 0 for off")
    return host.strip("[]"), int(port)


def _folder(text: str) -> str:
    if not text.startswith("/") or ".." in text.split("/"):
        raise ValueError('expected an absolute path without ".."')
    return os.path.normpath("/" + text.lstrip("/"))


def _words(text: str) -> tuple[str, ...]:
    words = tuple(filter(None, (word.strip() for word in text.split(","))))
    if any(not _PLAIN.fullmatch(word) for word in words):
        raise ValueError(
            'expected words without blank, quote, "#" or backslash, with commas between'
        )
    return words


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("expected a whole number above zero")
    return int(text)


def _identifier(text: str) -> str:
    if not re.fullmatch(r"[\w-]{0,253}", text, re.ASCII):
        raise ValueError("expected letters, digits and hyphens")
    return text


def _level(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ValueError("expected a whole number") from error


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("expected a value that is not empty")
    return text


def _method(text: str) -> str:
    return "symlink" if text == "symlink" else "bind"


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of option: its name in help texts, and how a text becomes a value.

    parse raises ValueError, whose message says what is expected.  A switch may be given without a
    value, which then is "true".
    """

    name: str
    parse: Callable[[str], object]
    is_switch: bool = False


def _choice(*names: str) -> Kind:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"expected {' or '.join(names)}")
        return text

    return Kind("|".join(names), parse)


_TEXT = Kind("TEXT", str)
_NAME = Kind("TEXT", _filled)
_BOOL = Kind("BOOL", parse_bool, is_switch=True)
_UNREAD = Kind("BOOL", str, is_switch=True)
_DIR = Kind("DIR", _folder)
_TIME = Kind("DURATION", parse_duration)


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
        _NAME, "Fluid", "name of this node in Kubernetes; required", flag="nodeid", env=("NODE_ID",)
    )
    endpoint: str = _option(
        Kind("URL", parse_endpoint),
        "Fluid",
        "where kubelet calls: unix:///path or tcp://host:port; required",
        flag="endpoint",
        env=("CSI_ENDPOINT",),
    )
    registration: str | None = _option(
        Kind("PATH", parse_socket),
        "ours",
        "register with kubelet, which finds the CSI socket at this path; if not given somebody "
        "else registers the plugin, such as the registrar sidecar of Fluid's chart",
        flag="kubelet-registration-path",
    )
    gates: Mapping[str, bool] = _option(
        Kind("NAME=BOOL,...", parse_gates),
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
        _choice("auto", "account", "none"),
        "ours",
        "how to reach the API server; auto: node labels with kubelet's credential where there is "
        "one, all else with the ServiceAccount or --kubeconfig; account: never kubelet's; none: "
        "label no node, write events to the log alone",
        flag="kube",
        default="auto",
    )
    kubelet_kube_config: str = _option(
        _TEXT,
        "Fluid",
        "kubelet's kubeconfig, whose credential labels this node",
        flag="kubelet-kube-config",
        default="/etc/kubernetes/kubelet.conf",
    )
    kubeconfig: str = _option(
        _TEXT,
        "Fluid",
        "a kubeconfig to use in place of the pod's ServiceAccount",
        flag="kubeconfig",
        default="",
    )
    reset_backoff_s: float | None = _option(
        _TIME,
        "ours",
        "delete a FUSE pod that has waited so long in CrashLoopBackOff, so that its DaemonSet "
        "makes a fresh one; if not given never",
        flag="reset-backoff",
        unit="time",
    )
    reset_backoff_interval_s: float = _option(
        _TIME,
        "ours",
        "the least time between two such deletions for one dataset",
        flag="reset-backoff-interval",
        default="10m",
        unit="time",
    )
    strategy: Literal["auto", "namespace", "propagation"] = _option(
        _choice("auto", "namespace", "propagation"),
        "ours",
        "how to heal: namespace enters every container (needs the host's PID namespace), "
        "propagation mounts on top of the dead mount; auto: namespace where it works",
        flag="strategy",
        default="auto",
    )
    recover_writable: bool = _option(
        _BOOL,
        "ours",
        "heal volumes that can be written to as well",
        flag="recover-writable",
        default="false",
    )
    probe_timeout_s: float = _option(
        _TIME,
        "ours",
        "a FUSE daemon that does not answer for so long is hung",
        flag="probe-timeout",
        default="3s",
        unit="time",
    )
    hung_abort_after_s: float | None = _option(
        _TIME,
        "ours",
        "end the FUSE connection of a daemon that has not answered for so long, so that nobody "
        "waits for it any more; if not given never",
        flag="hung-abort-after",
        unit="time",
    )
    hold_timeout_s: float = _option(
        _TIME,
        "ours",
        "with SeamlessRecovery, keep applications waiting for at most so long after a crash",
        flag="hold-timeout",
        default="30s",
        unit="time",
    )
    holder: Path | None = _option(  # noqa: RUF009  a dataclass field
        Kind("PATH", lambda text: Path(parse_socket(text))),
        "ours",
        "with SeamlessRecovery, the socket of a holder that runs by itself and outlives the "
        "plugin; if not given the plugin starts one, with its socket beside the state file",
        flag="holder",
    )
    period_s: float = _option(
        _TIME,
        "Fluid",
        "look at every volume this often, also when nothing woke the plugin",
        env=("RECOVER_FUSE_PERIOD",),
        default="5s",
        unit="time",
    )
    warning_threshold: int = _option(
        Kind("N", _count),
        "Fluid",
        "warn when more mounts are stacked on one path; the second, misspelt name is the one that "
        "Fluid's chart sets",
        env=("RECOVER_WARNING_THRESHOLD", "REVOCER_WARNING_THRESHOLD"),
        default="50",
        unit="mounts",
    )
    mount_root: str = _option(
        _DIR,
        "Fluid",
        "the directory below which the FUSE daemons mount",
        env=("MOUNT_ROOT",),
        default="/runtime-mnt",
    )
    kubelet_root: str = _option(
        _DIR, "Fluid", "kubelet's directory", env=("KUBELET_ROOTDIR",), default=kubelet.ROOT
    )
    publish_method: Literal["bind", "symlink"] = _option(
        Kind("symlink|bindMount", _method),
        "Fluid",
        "symlink publishes every volume as a symbolic link; all else binds",
        env=("NODEPUBLISH_METHOD",),
        default="bindMount",
    )
    allow_patch_stale_node: bool = _option(
        _BOOL,
        "Fluid",
        "label the node without reading it before",
        env=("ALLOW_PATCH_STALE_NODE",),
        default="true",
    )
    pod_uid: str = _option(
        Kind("UID", _identifier),
        "ours",
        "for the agent: the uid of its pod, by the downward API; without it the host name stands "
        "in, which another pod may have too",
        env=("POD_UID",),
        default="",
    )
    prune_fs: tuple[str, ...] = _option(
        Kind("TYPE,...", _words),
        "Fluid",
        "file system types that the node's updatedb is to skip",
        flag="prune-fs",
        default="fuse.alluxio-fuse,fuse.jindofs-fuse,fuse.juicefs,ossfs",
    )
    prune_path: tuple[str, ...] = _option(
        Kind("DIR,...", _words),
        "Fluid",
        "directories that the node's updatedb is to skip",
        flag="prune-path",
        default="/runtime-mnt",
    )
    metrics_addr: tuple[str, int] | None = _option(
        Kind("ADDR", parse_address),
        "Fluid",
        "serve /metrics and /healthz at host:port; 0 or an empty value: nowhere",
        flag="metrics-addr",
        default=":8080",
    )
    log_format: Literal["text", "json"] = _option(
        _choice("text", "json"),
        "ours",
        "one line for each record, as key=value text or as JSON",
        flag="log-format",
        default="text",
    )
    log_level: str = _option(
        _choice("debug", "info", "warning", "error"),
        "ours",
        "the least that is logged; if not given info, or debug where --v is 5 or more",
        flag="log-level",
    )
    verbosity: int = _option(
        Kind("LEVEL", _level), "Fluid", "5 or more means --log-level=debug", flag="v", default="0"
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


def _ignored(help_: str, *flags: str, kind: Kind = _TEXT) -> tuple[Option, ...]:
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
    *_ignored(_NO_GLOG, "add_dir_header", "alsologtostderr", "logtostderr", kind=_UNREAD),
    *_ignored(_NO_GLOG, "one_output", "skip_headers", "skip_log_headers", kind=_UNREAD),
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
