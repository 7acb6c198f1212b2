"""A stand-in for Fluid's controllers: it makes of a dataset what they would, through the API.

It acts once for each call and watches nothing. What it leaves out: caches, workers, the webhook.
"""

import copy
import json
from collections.abc import Callable

from tests.cluster import fluidobjects, objects
from tests.cluster.cluster import Cluster, Object
from tests.cluster.fluidobjects import Spec
from tests.cluster.waiting import wait_for

Datasets = Callable[..., Spec]  # the fixture ``dataset``


class Fluid:
    """Fluid on one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        cluster.apply(*fluidobjects.crds())
        names = [crd["metadata"]["name"] for crd in fluidobjects.crds()]
        crds = [f"crd/{name}" for name in names]
        cluster.kubectl("wait", *crds, "--for=condition=Established", "--timeout=30s")

    def dataset(self, spec: Spec, clean_policy: str = "") -> Spec:
        """Create Dataset and runtime as a user does, then do the controllers' part.

        Returns the spec with the uid that the Dataset got.
        """
        self._cluster.apply(fluidobjects.dataset(spec), fluidobjects.runtime(spec, clean_policy))
        return self.reconcile(spec)

    def reconcile(self, spec: Spec) -> Spec:
        """Do the controllers' part for a Dataset and a runtime that exist."""
        found = self._cluster.get("dataset", spec.name, spec.namespace)
        values = {name: getattr(spec, name) for name in spec.__slots__}
        known = Spec(**values | {"uid": found["metadata"]["uid"]})
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
        self._cluster.apply(
            fluidobjects.dataset(virtual, mount_point),
            *fluidobjects.reference(physical, virtual, sub_path),
        )
        self._set_status(virtual)
        return virtual

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
    propagation: str | None = None,
    sub_path: str | None = None,
    labels: dict[str, str] | None = None,
) -> Object:
    """Return a pod that lists a dataset at /data each second.

    With the label fuse.serverful.fluid.io/inject Fluid's webhook sets HostToContainer where the
    pod says nothing; here that is done at once.
    """
    serverful = (labels or {}).get("fuse.serverful.fluid.io/inject") == "true"
    chosen = propagation or ("HostToContainer" if serverful else None)
    more = {"subPath": sub_path} if sub_path else {}
    return objects.pod(
        name,
        objects.LOOP,
        labels=labels,
        volumes=[objects.claim("data-vol", claim)],
        mounts=[objects.mount("data-vol", "/data", chosen, **more)],
    )


def injected(pod: Object) -> Object:
    """Return a pod with what Fluid's webhook adds for fuse.serverful.fluid.io/inject: "true".

    Its mounts of claims get HostToContainer where they say nothing; other objects stay as they are.
    """
    label = pod["metadata"].get("labels", {}).get("fuse.serverful.fluid.io/inject")
    if pod["kind"] != "Pod" or label != "true":
        return pod
    made = copy.deepcopy(pod)
    claims = {v["name"] for v in made["spec"]["volumes"] if "persistentVolumeClaim" in v}
    for container in made["spec"]["containers"]:
        for mount in container.get("volumeMounts", []):
            if mount["name"] in claims:
                mount.setdefault("mountPropagation", "HostToContainer")
    return made
