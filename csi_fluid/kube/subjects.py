"""Which objects of Kubernetes a publication's events are about: Datasets and a pod.

A volume of a reference dataset names the dataset that it refers to; the one that the pod mounts is
found by the PersistentVolume's name in the target.
"""

import time
from collections import OrderedDict
from dataclasses import dataclass

from csi_fluid import kubelet
from csi_fluid.errors import NotFound, Unavailable
from csi_fluid.kube import objects
from csi_fluid.kube.cluster import Api, Cluster, refusal, succeeded
from csi_fluid.kube.objects import Name
from csi_fluid.kube.wire import Request
from recover.rows import Publication

_KNOWN_S = 300.0
_KNOWN_AT_MOST = 1_024
_NO_SUCH_KIND = 404  # of no Status: what the API server says of a path that it does not serve
_NAMES_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


@dataclass(frozen=True, slots=True)
class Subject:
    """An object that an event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


class Subjects:
    """Looks subjects up, and remembers for five minutes what it found."""

    def __init__(self, api: Api, cluster: Cluster, node: str) -> None:
        self._api = api
        self._cluster = cluster
        self._pods = f"/api/v1/pods?fieldSelector=spec.nodeName%3D{node}"
        self._known: OrderedDict[tuple[str, str], tuple[float, Subject | Name | None]] = (
            OrderedDict()
        )

    def of(self, publication: Publication, until: float) -> tuple[Subject, ...]:
        """Return the subjects of a publication that exist; raises Unavailable."""
        found = [self._dataset(name, until) for name in self._datasets(publication, until)]
        found.append(self._pod(publication, until))
        return tuple(dict.fromkeys(subject for subject in found if subject is not None))

    def _datasets(self, publication: Publication, until: float) -> list[Name]:
        names = [Name(publication.runtime_namespace, publication.runtime_name)]
        if not all((names[0].namespace, names[0].name)):
            names = [self._named_by(publication.volume_id, until, own=True)]
        volume = kubelet.volume_of(publication.target)
        if volume and volume.name != publication.volume_id:
            names.append(self._named_by(volume.name, until, own=False))
        return [name for name in dict.fromkeys(names) if name.namespace and name.name]

    def _named_by(self, volume: str, until: float, *, own: bool) -> Name:
        """Return the dataset of a PersistentVolume: the one it shows, or the one it is bound to."""
        if not volume:  # a sidecar's mount is no volume
            return Name("", "")
        key = ("shown by" if own else "bound to", volume)
        if key not in self._fresh():
            found = self._cluster.volume(volume, until)
            name = None
            if found is not None:
                shown = objects.runtime_name(found) if own else None
                name = shown or objects.claim_of(found)
            self._keep(key, name)
        known = self._known[key][1]
        return known if isinstance(known, Name) else Name("", "")

    def _dataset(self, name: Name, until: float) -> Subject | None:
        key = ("Dataset", str(name))
        if key not in self._fresh():
            try:
                self._keep(key, self._look_up(name, until))
            except Unavailable as error:
                if error.status != _NO_SUCH_KIND:
                    raise
                return None  # Fluid is not installed yet; no event must wait for that
        known = self._known[key][1]
        return known if isinstance(known, Subject) else None

    def _look_up(self, name: Name, until: float) -> Subject | None:
        try:
            found = self._cluster.dataset(name, until)
        except NotFound:  # what a volume attribute says is no name at all
            return None
        uid = objects.text(found, "metadata", "uid")
        return (
            Subject("data.fluid.io/v1alpha1", "Dataset", name.namespace, name.name, uid)
            if uid
            else None
        )

    def _pod(self, publication: Publication, until: float) -> Subject | None:
        p = publication
        if p.pod_namespace and p.pod_name and p.pod_uid:
            return Subject("v1", "Pod", p.pod_namespace, p.pod_name, p.pod_uid)
        volume = kubelet.volume_of(p.target)
        return self._pod_of(p.pod_uid or (volume.pod_uid if volume else ""), until)

    def _pod_of(self, uid: str, until: float) -> Subject | None:
        """Return a pod of this node by its UID: kubelet's credential may list them."""
        key = ("Pod", uid)
        if uid and key not in self._fresh():
            for pod in self._list(until):
                self._keep(("Pod", pod.uid), pod)
            if key not in self._known:
                self._keep(key, None)
        known = self._known[key][1] if uid else None
        return known if isinstance(known, Subject) else None

    def _list(self, until: float) -> list[Subject]:
        request = Request("node", "GET", self._pods, accept=_NAMES_ONLY)
        answer = self._api.ask(request, until)
        if answer.status == 403:  # the ServiceAccount, where there is no kubelet's credential
            return []
        if not succeeded(answer):
            raise refusal(request, answer)
        return [
            Subject(
                "v1",
                "Pod",
                *(objects.text(pod, "metadata", key) for key in ("namespace", "name", "uid")),
            )
            for pod in objects.items(answer.body, "items")
        ]

    def _fresh(self) -> OrderedDict[tuple[str, str], tuple[float, Subject | Name | None]]:
        """Return what is known, without what is old."""
        oldest = time.monotonic() - _KNOWN_S
        while self._known and next(iter(self._known.values()))[0] < oldest:
            self._known.popitem(last=False)
        return self._known

    def _keep(self, key: tuple[str, str], found: Subject | Name | None) -> None:
        self._known.pop(key, None)
        self._known[key] = time.monotonic(), found
        while len(self._known) > _KNOWN_AT_MOST:
            self._known.popitem(last=False)
