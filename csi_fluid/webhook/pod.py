"""A pod as the rules see it: read from any JSON, where what has another form reads as missing.

Nobody has checked the pod yet, so what can be no name or path is missing as well.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from csi_fluid.kube import objects

Place = Literal["initContainers", "containers"]
PLACES: tuple[Place, ...] = ("initContainers", "containers")
_ALWAYS = "Always"
_NAME = re.compile(r"[a-z0-9-]{1,63}")  # of a container or volume: a DNS label
_MAX_PATH = 4095  # bytes: PATH_MAX without its final zero

MAX_SIZE = 10_000
"""The `size` above which a pod is not looked at; deciding about one so large takes some 50 ms."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume in a container; host_path is "" unless the volume is a directory of the node."""

    volume: str
    path: str
    host_path: str
    propagation: str
    read_only: bool
    has_sub_path: bool


@dataclass(frozen=True, slots=True)
class Container:
    """A container; index is its place in its list, security its securityContext as given.

    user is the user id that container or pod demand, None where they leave it to the image, and
    is_non_root tells that they refuse root; restart_policy is Always, OnFailure, Never, or "" for
    an init container that is to end.
    """

    name: str
    place: Place
    index: int
    restart_policy: str
    security: Mapping[str, Any]
    user: int | None
    is_non_root: bool
    env: Mapping[str, str]
    mounts: tuple[Mount, ...]

    @property
    def is_native_sidecar(self) -> bool:
        """Return whether it is an init container that goes on beside the others."""
        return self.place == "initContainers" and self.restart_policy == _ALWAYS

    @property
    def is_privileged(self) -> bool:
        """Return whether it may mount for the node."""
        return self.security.get("privileged") is True


@dataclass(frozen=True, slots=True)
class Pod:
    """What is read of a pod; has_resources: the pod itself has requests or limits."""

    annotations: Mapping[str, str]
    labels: Mapping[str, str]
    containers: tuple[Container, ...]
    volumes: frozenset[str]
    has_resources: bool


def annotations(pod: object) -> Mapping[str, str]:
    """Return the annotations of a pod's JSON, whatever that is."""
    return _strings(objects.at(pod, "metadata", "annotations"))


def size(pod: object) -> int:
    """Return how many volumes, containers, mounts and variables `read` goes through.

    The latter two are not counted where the others are too many by themselves.
    """
    containers = [each for place in PLACES for each in _list(pod, "spec", place)]
    count = len(containers) + len(_list(pod, "spec", "volumes"))
    if count > MAX_SIZE:
        return count
    return count + sum(len(_list(c, key)) for c in containers for key in ("volumeMounts", "env"))


def read(pod: object) -> Pod:
    """Return what is read of a pod's JSON, whatever that is."""
    volumes = dict(_volumes(pod))
    found = (
        _container(pod, place, index, each, volumes)
        for place in PLACES
        for index, each in enumerate(_list(pod, "spec", place))
        if isinstance(each, Mapping)
    )
    return Pod(
        annotations=annotations(pod),
        labels=_strings(objects.at(pod, "metadata", "labels")),
        containers=tuple(found),
        volumes=frozenset(volumes),
        has_resources=bool(objects.at(pod, "spec", "resources")),
    )


def _container(
    pod: object, place: Place, index: int, found: objects.Object, volumes: Mapping[str, str]
) -> Container:
    security = objects.at(found, "securityContext")
    return Container(
        name=_name(found),
        place=place,
        index=index,
        restart_policy=_restart_policy(pod, place, found),
        security=security if isinstance(security, Mapping) else {},
        user=next((u for u in _demanded(pod, found, "runAsUser") if isinstance(u, int)), None),
        is_non_root=next(_demanded(pod, found, "runAsNonRoot"), None) is True,
        env={
            objects.text(e, "name"): objects.text(e, "value") for e in objects.items(found, "env")
        },
        mounts=tuple(_mounts(found, volumes)),
    )


def _demanded(pod: object, found: objects.Object, key: str) -> Iterator[object]:
    """Yield what the security context of the container, then that of the pod says."""
    for each in (found, objects.at(pod, "spec")):
        demanded = objects.at(each, "securityContext", key)
        if demanded is not None:
            yield demanded


def _restart_policy(pod: object, place: Place, found: objects.Object) -> str:
    """Return the container's own policy, or the pod's, which init containers do not have."""
    pods = objects.text(pod, "spec", "restartPolicy") or _ALWAYS
    return objects.text(found, "restartPolicy") or (pods if place == "containers" else "")


def _mounts(container: objects.Object, volumes: Mapping[str, str]) -> Iterator[Mount]:
    for found in objects.items(container, "volumeMounts"):
        volume = _name(found)
        yield Mount(
            volume=volume,
            path=normal(objects.text(found, "mountPath")),
            host_path=volumes.get(volume, ""),
            propagation=objects.text(found, "mountPropagation") or "None",
            read_only=found.get("readOnly") is True,
            has_sub_path=bool(objects.text(found, "subPath") or objects.text(found, "subPathExpr")),
        )


def _volumes(pod: object) -> Iterator[tuple[str, str]]:
    for found in objects.items(pod, "spec", "volumes"):
        if name := _name(found):
            yield name, normal(objects.text(found, "hostPath", "path"))


def _name(found: object) -> str:
    name = objects.text(found, "name")
    return name if _NAME.fullmatch(name) else ""


def normal(path: str) -> str:
    """Return an absolute path without doubled or trailing slashes, "" for any other.

    Kubernetes takes no ".." in a path of the node.
    """
    is_usable = path.startswith("/") and len(path.encode("utf-8", "replace")) <= _MAX_PATH
    if not is_usable or ".." in path.split("/"):
        return ""
    return os.path.normpath("/" + path.lstrip("/"))


def _list(thing: object, *path: str) -> list[Any]:
    found = objects.at(thing, *path)
    return found if isinstance(found, list) else []


def _strings(found: object) -> Mapping[str, str]:
    pairs = found.items() if isinstance(found, Mapping) else ()
    return {key: value for key, value in pairs if isinstance(value, str)}
