"""The API server as NodeStage and NodeUnstage need it: a volume's node label and clean policy."""

import re
from collections.abc import Mapping
from typing import Any, Protocol

from csi_fluid import driver
from csi_fluid.errors import NotFound, Unavailable
from csi_fluid.kube import ON_FUSE_CHANGED, Fuse, Volume, labels, objects
from csi_fluid.kube.calls import FLUID_API, RUNTIMES
from csi_fluid.kube.objects import Name, Object
from csi_fluid.kube.wire import STRATEGIC, Request, Response

_NOT_FOUND = 404
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")  # a DNS-1123 subdomain
_SHOWN = 300


class Api(Protocol):
    """Somebody who makes calls: kube.helper.Helper."""

    def ask(self, request: Request, until: float) -> Response:
        """Make a call and return the answer; raises Unavailable."""


def refusal(request: Request, answer: Response) -> Unavailable:
    """Return the error for an answer that is no success."""
    path = request.path.partition("?")[0]
    said = objects.text(answer.body, "message") or answer.error or "no reason given"
    return Unavailable(
        f"the API server answered {answer.status} to {request.method} {path}: {said[:_SHOWN]}; "
        "look at the API server and at the plugin's RBAC",
        answer.status,
    )


def is_missing(answer: Response) -> bool:
    """Return whether an object is not there: said by the API server itself, not by a proxy."""
    return answer.status == _NOT_FOUND and objects.text(answer.body, "kind") == "Status"


def succeeded(answer: Response) -> bool:
    """Return whether a call was carried out and answered with an object."""
    return 200 <= answer.status < 300 and not answer.error


def place(*parts: str) -> str:
    """Return the path of an object or list; raises NotFound for a part that cannot be a name."""
    for part in parts:
        if not _NAME.fullmatch(part):
            raise NotFound(f"{part[:_SHOWN]!r} is no name of an object in Kubernetes")
    return "/".join(parts)


def get(api: Api, path: str, kind: str, until: float) -> Object | None:
    """Return an object, None where it is not there; raises Unavailable."""
    request = Request("account", "GET", path)
    answer = api.ask(request, until)
    if is_missing(answer):
        return None
    if not succeeded(answer) or objects.text(answer.body, "kind") != kind:
        raise refusal(request, answer)
    return answer.body


class Cluster:
    """Answers by calls to the API server."""

    def __init__(self, api: Api, node: str, *, look_first: bool = False) -> None:
        """Take the calls, this node's name, and whether to read the node before it is labelled."""
        self._api = api
        self._node = f"/api/v1/nodes/{node}"
        self._look_first = look_first

    def label_of(self, volume: Volume, until: float) -> str:
        """Return the node label of a volume's FUSE daemon."""
        name = Name(volume.namespace, volume.name)
        if not (name.namespace and name.name):
            found = self.volume(volume.volume_id, until)
            if found is None:
                raise NotFound(
                    f"there is no PersistentVolume {volume.volume_id}; was its dataset deleted?"
                )
            if label := objects.attribute(found, driver.NODE_LABEL):
                return label
            name = self._runtime_name(found, volume.volume_id, until)
        return self._label(name, until)

    def fuse_of(self, volume_id: str, until: float) -> Fuse | None:
        """Return the FUSE daemon of a volume, or None where volume, dataset or runtime is gone."""
        volume = self.volume(volume_id, until)
        if volume is None:
            return None
        try:
            name = self._runtime_name(volume, volume_id, until)
        except NotFound:  # no volume of a dataset any more: nothing is to be cleaned up
            return None
        dataset = self.dataset(name, until)
        described = None if dataset is None else objects.runtime_of(dataset)
        if dataset is None or described is None:
            return None
        runtime = self._runtime(described, until)
        if runtime is None:
            return None
        uid = objects.text(dataset, "metadata", "uid")
        policy = objects.clean_policy(described.type, runtime)
        return Fuse(
            label=objects.attribute(volume, driver.NODE_LABEL)
            or labels.fuse_label(name.namespace, name.name, uid),
            policy=policy,
            source=objects.attribute(volume, driver.FLUID_PATH),
            runtime=(described.type, name.namespace, name.name),
            generation=self._generation(name, until) if policy == ON_FUSE_CHANGED else "",
        )

    def label_node(self, key: str, until: float) -> None:
        """Set a label of this node to "true"."""
        if self._look_first:
            request = Request("node", "GET", self._node)
            answer = self._api.ask(request, until)
            if not succeeded(answer):
                raise refusal(request, answer)
        self._patch({key: "true"}, until)

    def unlabel_node(self, key: str, until: float) -> None:
        """Remove a label of this node; a node that is gone has none."""
        try:
            self._patch({key: None}, until)
        except Unavailable as error:
            if error.status != _NOT_FOUND:
                raise

    def volume(self, name: str, until: float) -> Object | None:
        """Return a PersistentVolume."""
        if not _NAME.fullmatch(name):
            return None  # a volume that was made without Kubernetes
        return get(self._api, f"/api/v1/persistentvolumes/{name}", "PersistentVolume", until)

    def dataset(self, name: Name, until: float) -> Object | None:
        """Return a Dataset."""
        path = f"{FLUID_API}/namespaces/{place(name.namespace, 'datasets', name.name)}"
        return get(self._api, path, "Dataset", until)

    def _runtime(self, described: objects.Runtime, until: float) -> Object | None:
        name, plural = described.place, RUNTIMES.get(described.type)
        if plural is None:
            raise Unavailable(
                f"dataset {name} has a runtime of type {described.type!r}, which this version "
                f"does not know; expected one of {', '.join(RUNTIMES)}"
            )
        path = f"{FLUID_API}/namespaces/{place(name.namespace, plural, name.name)}"
        request = Request("account", "GET", path)
        answer = self._api.ask(request, until)
        if is_missing(answer):
            return None
        if not succeeded(answer):
            raise refusal(request, answer)
        return answer.body

    def _claim(self, name: Name, until: float) -> Object | None:
        path = place(name.namespace, "persistentvolumeclaims", name.name)
        return get(self._api, f"/api/v1/namespaces/{path}", "PersistentVolumeClaim", until)

    def _runtime_name(self, volume: Object, volume_id: str, until: float) -> Name:
        """Return the runtime of a PersistentVolume: by itself, else by its claim (old volumes)."""
        if name := objects.runtime_name(volume):
            return name
        name = objects.claim_of(volume)
        claim = self._claim(name, until) if name else None
        if name is None or claim is None or not objects.is_fluids(claim):
            raise NotFound(
                f"PersistentVolume {volume_id} names no runtime and is bound to no claim of a "
                "Fluid dataset; was its dataset deleted?"
            )
        return name

    def _label(self, name: Name, until: float) -> str:
        uid = ""
        if labels.is_long(name.namespace, name.name):
            dataset = self.dataset(name, until)
            if dataset is None:
                raise NotFound(f"there is no Dataset {name}, whose UID makes the node label")
            uid = objects.text(dataset, "metadata", "uid")
        return labels.fuse_label(name.namespace, name.name, uid)

    def _generation(self, name: Name, until: float) -> str:
        claim = self._claim(name, until)
        return objects.text(claim, "metadata", "labels", objects.GENERATION_LABEL)

    def _patch(self, changes: Mapping[str, Any], until: float) -> None:
        body = {"metadata": {"labels": changes}}
        request = Request("node", "PATCH", self._node, body, STRATEGIC)
        answer = self._api.ask(request, until)
        if not succeeded(answer):
            raise refusal(request, answer)
