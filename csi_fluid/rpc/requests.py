"""Protobuf requests turned into checked, frozen values; anything else raises InvalidArgument.

Pure.  A message names the field, the value (shortened, never a secret: only fields known here are
quoted) and what is expected.

Lengths: CSI allows a sender 128 bytes in a string and 4 KiB in a map, paths being the operating
system's business.  Kubernetes keeps to neither (`<namespace>-<name>` of a dataset may take 317
bytes), so the limits here only keep nonsense out.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from csi_fluid import driver
from csi_fluid._pb import csi_pb2
from csi_fluid.errors import InvalidArgument
from csi_fluid.kube import Volume
from recover.rows import Method, Publication

MAX_ID_BYTES = 4_096
MAX_PATH_BYTES = 4_095  # PATH_MAX without its final zero: path_resolution(7)
MAX_NAME_BYTES = 255  # NAME_MAX
MAX_MAP_BYTES = 64 * 1_024
_SHOWN = 200  # a status message travels in a header, whose size is limited

_MODE = csi_pb2.VolumeCapability.AccessMode
_READERS = frozenset({_MODE.SINGLE_NODE_READER_ONLY, _MODE.MULTI_NODE_READER_ONLY})
_METHODS = {"symlink": Method.SYMLINK, "bindMount": Method.BIND, "bind": Method.BIND}
_POD = "csi.storage.k8s.io/pod."
_UNDERSTOOD = frozenset({"ro", "rw", "defaults"})  # and only the first makes a difference


@dataclass(frozen=True, slots=True)
class Publish:
    """A checked NodePublishVolumeRequest; paths are not yet canonical.

    idle_options are the volume's mount options that change nothing here.
    """

    wanted: Publication
    unchecked: bool
    idle_options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stage:
    """A checked NodeStageVolumeRequest; label is "" where the volume does not say it.

    sessions is the folder in which EFC's session manager listens, "" for every other runtime.
    """

    volume: Volume
    label: str
    sessions: str = ""


@dataclass(frozen=True, slots=True)
class Create:
    """A checked CreateVolumeRequest; sizes in bytes, 0 for any."""

    name: str
    parameters: Mapping[str, str]
    required_bytes: int
    limit_bytes: int


def publish(request: csi_pb2.NodePublishVolumeRequest, default_method: Method) -> Publish:
    """Check a NodePublishVolume; default_method is how to publish where the volume does not say."""
    volume_id = _text("volume_id", request.volume_id)
    target = _path("target_path", request.target_path)
    if request.staging_target_path:
        _path("staging_target_path", request.staging_target_path)
    mode = _capability(request.volume_capability, given=request.HasField("volume_capability"))
    attributes = _map("volume_context", request.volume_context)
    options = _mount_options(request.volume_capability.mount.mount_flags)
    wanted = Publication(
        target=target,
        volume_id=volume_id,
        source=_path(_field(driver.FLUID_PATH), attributes.get(driver.FLUID_PATH, "")),
        sub_path=_sub_path(attributes.get(driver.FLUID_SUB_PATH, "")),
        mount_type=_line(_field(driver.MOUNT_TYPE), attributes.get(driver.MOUNT_TYPE, "")),
        method=_method(attributes.get(driver.NODE_PUBLISH_METHOD, ""), default_method),
        read_only=request.readonly or mode in _READERS or "ro" in options,
        recover_writable=_bool(attributes, driver.RECOVER_WRITABLE),
        runtime_namespace=attributes.get(driver.RUNTIME_NAMESPACE, ""),
        runtime_name=attributes.get(driver.RUNTIME_NAME, ""),
        pod_namespace=attributes.get(f"{_POD}namespace", ""),
        pod_name=attributes.get(f"{_POD}name", ""),
        pod_uid=attributes.get(f"{_POD}uid", ""),
    )
    idle = tuple(option for option in options if option not in _UNDERSTOOD)
    return Publish(wanted, _skips_check(attributes.get(driver.SKIP_CHECK, "")), idle)


def unpublish(request: csi_pb2.NodeUnpublishVolumeRequest) -> str:
    """Check a NodeUnpublishVolume and return the target."""
    _text("volume_id", request.volume_id)
    return _path("target_path", request.target_path)


def stage(request: csi_pb2.NodeStageVolumeRequest) -> Stage:
    """Check a NodeStageVolume."""
    volume_id = _text("volume_id", request.volume_id)
    _path("staging_target_path", request.staging_target_path)
    _capability(request.volume_capability, given=request.HasField("volume_capability"))
    attributes = _map("volume_context", request.volume_context)
    sessions = attributes.get(driver.SESSIONS, "")
    return Stage(
        Volume(
            volume_id,
            attributes.get(driver.RUNTIME_NAMESPACE, ""),
            attributes.get(driver.RUNTIME_NAME, ""),
        ),
        _line(_field(driver.NODE_LABEL), attributes.get(driver.NODE_LABEL, "")),
        sessions and _path(_field(driver.SESSIONS), sessions),
    )


def unstage(request: csi_pb2.NodeUnstageVolumeRequest) -> str:
    """Check a NodeUnstageVolume and return the volume's id."""
    _path("staging_target_path", request.staging_target_path)
    return _text("volume_id", request.volume_id)


def stats(request: csi_pb2.NodeGetVolumeStatsRequest) -> tuple[str, str]:
    """Check a NodeGetVolumeStats and return (volume id, path).

    A relative path is not refused: no volume is there, which is NOT_FOUND (csi-sanity asks so).
    """
    volume_id = _text("volume_id", request.volume_id)
    return volume_id, _path("volume_path", request.volume_path, may_be_relative=True)


def health(request: csi_pb2.NodeGetVolumeHealthRequest) -> tuple[str, str]:
    """Check a NodeGetVolumeHealth and return (volume id, path or "")."""
    path = request.volume_publish_path
    return _text("volume_id", request.volume_id), path and _path("volume_publish_path", path)


def create(request: csi_pb2.CreateVolumeRequest) -> Create:
    """Check a CreateVolume."""
    name = _text("name", request.name)
    _capabilities(request.volume_capabilities)
    sizes = request.capacity_range
    required, limit = sizes.required_bytes, sizes.limit_bytes
    if required < 0 or limit < 0 or 0 < limit < required:
        raise InvalidArgument(
            f"capacity_range is {required} to {limit} bytes; expected two sizes of zero (any) or "
            "more, the limit not below the requirement"
        )
    return Create(name, _map("parameters", request.parameters), required, limit)


def delete(request: csi_pb2.DeleteVolumeRequest) -> str:
    """Check a DeleteVolume and return the volume's id."""
    return _text("volume_id", request.volume_id)


def validate(request: csi_pb2.ValidateVolumeCapabilitiesRequest) -> str:
    """Check a ValidateVolumeCapabilities and return the volume's id.

    Whether the capabilities can be had is the answer, so only their absence is an error.
    """
    volume_id = _text("volume_id", request.volume_id)
    if not request.volume_capabilities:
        raise InvalidArgument("volume_capabilities is missing; expected at least one")
    return volume_id


def unsupported(capabilities: Iterable[csi_pb2.VolumeCapability]) -> str:
    """Say why one of these capabilities cannot be had, or "" if all can."""
    try:
        for capability in capabilities:
            _capability(capability, given=True)
    except InvalidArgument as error:
        return str(error)
    return ""


def shorten(text: str) -> str:
    """Quote a value for a message: escaped, and cut where it is long."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}... ({len(text)} characters)"


def _field(attribute: str) -> str:
    return f"volume_context[{attribute}]"


def _text(field: str, text: str, limit: int = MAX_ID_BYTES) -> str:
    if not text:
        raise InvalidArgument(f"{field} is missing")
    if len(text.encode()) > limit:
        raise InvalidArgument(f"{field} is {shorten(text)}; expected at most {limit} bytes")
    if "\0" in text:
        raise InvalidArgument(f"{field} is {shorten(text)}; expected no NUL character")
    return text


def _line(field: str, text: str) -> str:
    return text and _text(field, text, MAX_NAME_BYTES)


def _path(field: str, text: str, *, may_be_relative: bool = False) -> str:
    _text(field, text, MAX_PATH_BYTES)
    parts = text.split("/")
    if ".." in parts:
        raise InvalidArgument(f'{field} is {shorten(text)}; expected no ".." in it')
    if any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        raise InvalidArgument(
            f"{field} is {shorten(text)}; expected names of at most {MAX_NAME_BYTES} bytes"
        )
    if may_be_relative and not text.startswith("/"):
        return text
    path = os.path.normpath(text)
    if not text.startswith("/") or not path.strip("/"):
        raise InvalidArgument(f"{field} is {shorten(text)}; expected an absolute path below /")
    return "/" + path.lstrip("/")


def _sub_path(text: str) -> str:
    field = _field(driver.FLUID_SUB_PATH)
    if not text:
        return ""
    if text.startswith("/"):
        raise InvalidArgument(
            f"{field} is {shorten(text)}; expected a path relative to {driver.FLUID_PATH}"
        )
    path = os.path.normpath(_path(field, text, may_be_relative=True))
    return "" if path == "." else path


def _capability(capability: csi_pb2.VolumeCapability, *, given: bool) -> int:
    """Return the access mode."""
    if not given:
        raise InvalidArgument("volume_capability is missing")
    kind = capability.WhichOneof("access_type")
    if kind != "mount":
        raise InvalidArgument(
            f"volume_capability has access type {kind or 'none'}; expected mount: "
            "a FUSE volume is no block device"
        )
    mode = capability.access_mode.mode
    if mode == _MODE.UNKNOWN or mode not in _MODE.Mode.values():
        raise InvalidArgument(
            f"volume_capability has access mode {mode}; expected one of "
            + ", ".join(_MODE.Mode.keys()[1:])
        )
    return mode


def _capabilities(capabilities: Iterable[csi_pb2.VolumeCapability]) -> None:
    given = list(capabilities)
    if not given:
        raise InvalidArgument("volume_capabilities is missing; expected at least one")
    for capability in given:
        _capability(capability, given=True)


def _mount_options(flags: Iterable[str]) -> list[str]:
    """Return single options of mount flags, which may hold several each as in mount(8)'s -o."""
    return [option for flag in flags for part in flag.split(",") if (option := part.strip())]


def _map(field: str, attributes: Mapping[str, str]) -> dict[str, str]:
    size = sum(len(key.encode()) + len(value.encode()) for key, value in attributes.items())
    if size > MAX_MAP_BYTES:
        raise InvalidArgument(f"{field} has {size} bytes; expected at most {MAX_MAP_BYTES}")
    return dict(attributes)


def _method(text: str, default: Method) -> Method:
    if text and text not in _METHODS:
        raise InvalidArgument(
            f"{_field(driver.NODE_PUBLISH_METHOD)} is {shorten(text)}; "
            "expected symlink or bindMount"
        )
    asked = {default, _METHODS.get(text, default)}
    return Method.SYMLINK if Method.SYMLINK in asked else Method.BIND


def _bool(attributes: Mapping[str, str], name: str) -> bool:
    text = attributes.get(name, "false")
    if text.lower() not in {"true", "false"}:
        raise InvalidArgument(f"{_field(name)} is {shorten(text)}; expected true or false")
    return text.lower() == "true"


def _skips_check(text: str) -> bool:
    """Return whether the readiness of mount pods, which is what is checked here, goes unchecked."""
    skips = False
    for kind in filter(None, (part.strip() for part in text.split(","))):
        if kind in {"All", "None"}:  # the list ends here, as Fluid reads it
            return kind == "All"
        if kind not in {"MountPod", "Sidecar"}:
            raise InvalidArgument(
                f"{_field(driver.SKIP_CHECK)} is {shorten(text)}; expected a list of All, None, "
                "MountPod, Sidecar"
            )
        skips = skips or kind == "MountPod"
    return skips
