"""A stand-in for Fluid's controllers: it makes of a dataset what they would, through the API.

It acts once for each call and watches nothing. What it leaves out: caches, workers, the webhook.
"""

import copy
import dataclasses
import json
from collections.abc import Callable, Collection

from tests.cluster import fluidobjects, objects
from tests.cluster.cluster import Cluster, Object
from tests.cluster.fluidobjects import Spec
from tests.cluster.waiting import wait_for

_SKIPPED = {"fluid.io/enable-injection": "false", "done.sidecar.fluid.io/inject": "true"}
Datasets = Callable[..., Spec]  # the fixture ``dataset``


class Fluid:
    """Fluid on one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        cluster.apply(*fluidobjects.crds())
        names = [crd["metadata"]["name"] for crd in fluidobjects.crds()]
        crds = [f"crd/{name}" for name in names]
        cluster.kubectl("wait", *crds, "--for=condition=Established", "--timeout=30s")

    def dataset(self, spec: Spec) -> Spec:
        """Create Dataset and runtime as a user does, then do the controllers' part.

        Returns the spec with the uid that the Dataset got.
        """
        self._cluster.apply(fluidobjects.dataset(spec), fluidobjects.runtime(spec))
        return self.reconcile(spec)

    def reconcile(self, spec: Spec) -> Spec:
        """Do the controllers' part for a Dataset and a runtime that exist."""
        known = self._with_uid(spec)
        self._cluster.apply(
            fluidobjects.volume(known),
            fluidobjects.claim(known),
            self._owned(fluidobjects.fuse_daemonset(known), known),
        )
        self._set_status(known)
        return known

    def refer(self, physical: Spec, virtual: Spec, sub_path: str = "") -> Spec:
        """Make a dataset that refers to another one, or to a directory of it."""
        mount_point = f"dataset://{physical.namespace}/{physical.name}/{sub_path}".rstrip("/")
        self._cluster.apply(fluidobjects.dataset(virtual, mount_point))
        known = self._with_uid(virtual)
        self._cluster.apply(*fluidobjects.reference(physical, known, sub_path))
        self._set_status(known)
        return known

    def change_client(self, spec: Spec, generation: str) -> None:
        """Number the client anew, as the JuiceFS engine does; the pod that runs stays as it is."""
        label = f"{fluidobjects.GENERATION}={generation}"
        where = ("-n", spec.namespace, "--overwrite")
        self._cluster.kubectl("label", "pvc", spec.name, label, *where)
        metadata = {"labels": {fluidobjects.GENERATION: generation}}
        patch = json.dumps({"spec": {"template": {"metadata": metadata}}})
        daemonset = ("daemonset", spec.kind.daemonset(spec.name))
        self._cluster.kubectl("patch", *daemonset, "-n", spec.namespace, "-p", patch)

    def fuse_pod(self, spec: Spec) -> str:
        """Return the name of the dataset's FUSE pod, which comes with the first stage."""
        labels = fluidobjects.pod_labels(spec)
        selector = f"role={labels['role']},release={labels['release']}"

        def names() -> list[str]:
            pods = self._cluster.list("pods", spec.namespace, selector)
            return [
                p["metadata"]["name"] for p in pods if not p["metadata"].get("deletionTimestamp")
            ]

        return wait_for(names, f"the FUSE pod of {spec.identity}", 60)[0]

    def fuse_container(self, spec: Spec) -> str:
        """Return the name of the container in that pod."""
        return f"{spec.kind.engine}-fuse"

    def remove(self, spec: Spec) -> None:
        """Delete what belongs to a dataset, the label on the node too, as CleanUpFuse does."""
        cluster = self._cluster
        where = ("-n", spec.namespace, "--ignore-not-found", "--wait=false")
        cluster.kubectl("delete", "daemonset", spec.kind.daemonset(spec.name), *where)
        cluster.kubectl("delete", "pvc", spec.name, *where)
        cluster.kubectl("delete", "pv", spec.identity, "--ignore-not-found", "--wait=false")
        cluster.kubectl("delete", f"{spec.kind.plural}.{fluidobjects.GROUP}", spec.name, *where)
        cluster.kubectl("delete", f"datasets.{fluidobjects.GROUP}", spec.name, *where)
        cluster.kubectl("label", "nodes", "--all", f"{spec.fuse_label}-", check=False)

    def _with_uid(self, spec: Spec) -> Spec:
        found = self._cluster.get("dataset", spec.name, spec.namespace)
        return dataclasses.replace(spec, uid=found["metadata"]["uid"])

    def _owned(self, daemonset: Object, spec: Spec) -> Object:
        owner = self._cluster.get(
            f"{spec.kind.plural}.{fluidobjects.GROUP}", spec.name, spec.namespace
        )
        daemonset["metadata"]["ownerReferences"] = [
            {
                "apiVersion": owner["apiVersion"],
                "kind": owner["kind"],
                "name": spec.name,
                "uid": owner["metadata"]["uid"],
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ]
        return daemonset

    def _set_status(self, spec: Spec) -> None:
        patch = json.dumps({"status": fluidobjects.status(spec)})
        kind = f"datasets.{fluidobjects.GROUP}"
        where = ("-n", spec.namespace, "--subresource=status", "--type=merge", "-p", patch)
        self._cluster.kubectl("patch", kind, spec.name, *where)


def application(
    name: str,
    claim: str,
    *,
    command: str = objects.LOOP,
    propagation: str | None = None,
    sub_path: str | None = None,
    labels: dict[str, str] | None = None,
) -> Object:
    """Return a pod that has a dataset at /data, and lists it each second or does as told.

    With the label fuse.serverful.fluid.io/inject it is as Fluid's webhook leaves it.
    """
    more = {"subPath": sub_path} if sub_path else {}
    made = objects.pod(
        name,
        command,
        labels=labels,
        volumes=[objects.claim("data-vol", claim)],
        mounts=[objects.mount("data-vol", "/data", propagation, **more)],
    )
    return injected(made, {claim})


def injected(found: Object, claims: Collection[str]) -> Object:
    """Return a pod with what Fluid's webhook adds for fuse.serverful.fluid.io/inject: "true".

    claims: the names of the PVCs that are datasets. Their mounts get HostToContainer where they
    say nothing, except in init containers; other objects stay as they are.
    """
    labels = found["metadata"].get("labels", {})
    if found["kind"] != "Pod" or labels.get("fuse.serverful.fluid.io/inject") != "true":
        return found
    if any(labels.get(key) == value for key, value in _SKIPPED.items()):
        return found
    made = copy.deepcopy(found)
    used = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in made["spec"].get("volumes", [])
        if volume.get("persistentVolumeClaim", {}).get("claimName") in claims
    }
    for container in made["spec"]["containers"]:
        for mount in container.get("volumeMounts", []):
            if mount["name"] in used:
                mount.setdefault("mountPropagation", "HostToContainer")
    if used:
        annotations = made["metadata"].setdefault("annotations", {})
        annotations["fluid.io/datasets-in-use"] = ",".join(sorted(set(used.values())))
    return made
