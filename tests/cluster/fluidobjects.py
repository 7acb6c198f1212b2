"""The objects that Fluid's controllers make for a dataset, as plain data.

Only what a node plugin, kubelet or the scheduler reads is in them.
"""

import dataclasses
import json
from typing import Any

from tests.cluster import objects
from tests.cluster.fluidruntimes import KINDS, Kind

GROUP = "data.fluid.io"
DRIVER = "fuse.csi.fluid.io"
MOUNT_ROOT = "/runtime-mnt"
GENERATION = "fuse.runtime.fluid.io/generation"
READ_ONLY = "ReadOnlyMany"
_SYMLINK = {"fluid.io/node-publish-method": "symlink"}
Object = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Spec:
    """What the double is told of a dataset; runtime is a key of KINDS.

    environment: what the FUSE client is told (tests/images/fuse-entrypoint.sh).  symlink: the
    runtime asks for it as a user does, by its annotation data.fluid.io/metadataList.  names_label:
    False as in the volumes of old releases of Fluid, which did not name the node's label.
    """

    namespace: str
    name: str
    runtime: str = "jindo"
    uid: str = ""
    access_mode: str = READ_ONLY
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    clean_policy: str = ""
    symlink: bool = False
    names_label: bool = True
    source: str | None = None  # a directory of the node, for bindfs
    secret: str | None = None  # keys for a bucket

    @property
    def kind(self) -> Kind:
        """Return the kind of runtime."""
        return KINDS[self.runtime]

    @property
    def identity(self) -> str:
        """Return the name of the PV, of labels, of everything cluster-wide."""
        return f"{self.namespace}-{self.name}"

    @property
    def fluid_path(self) -> str:
        """Return the FUSE mount on the node."""
        return self.kind.fluid_path(MOUNT_ROOT, self.namespace, self.name)

    def label(self, prefix: str) -> str:
        """Return a label key; one that is too long for the API has the Dataset's uid instead."""
        key = f"{prefix}{self.identity}"
        return key if len(key) < 63 else f"{prefix}{self.uid}"

    @property
    def fuse_label(self) -> str:
        """Return the key of the label that brings the FUSE pod to a node."""
        return self.label("fluid.io/f-")


def _of_group(kind: str, namespace: str, name: str, spec: Object) -> Object:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": f"{GROUP}/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def crds() -> list[Object]:
    """Return the definitions of Dataset and of every kind of runtime; they take any field."""
    names = [("Dataset", "datasets"), *((k.resource, k.plural) for k in KINDS.values())]
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {
        "name": "v1alpha1",
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": schema},
    }
    return [
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{plural}.{GROUP}"},
            "spec": {
                "group": GROUP,
                "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
                "scope": "Namespaced",
                "versions": [version],
            },
        }
        for kind, plural in names
    ]


def dataset(spec: Spec, mount_point: str = "oss://demo-bucket/dir") -> Object:
    """Return the Dataset as a user writes it."""
    return _of_group(
        "Dataset", spec.namespace, spec.name, {"mounts": [{"mountPoint": mount_point, "path": "/"}]}
    )


def runtime(spec: Spec) -> Object:
    """Return the runtime as a user writes it."""
    part = "client" if spec.runtime == "cache" else "fuse"
    body = {part: {"cleanPolicy": spec.clean_policy}} if spec.clean_policy else {}
    made = _of_group(spec.kind.resource, spec.namespace, spec.name, body)
    if spec.symlink:
        wanted = {"labels": _SYMLINK, "selector": {"group": "", "kind": "PersistentVolume"}}
        made["metadata"]["annotations"] = {"data.fluid.io/metadataList": json.dumps([wanted])}
    return made


def status(spec: Spec) -> Object:
    """Return the status of a Dataset whose runtime is ready."""
    entry = {
        "category": "Accelerate",
        "name": spec.name,
        "namespace": spec.namespace,
        "type": spec.runtime,
    }
    return {"phase": "Bound", "runtimes": [entry]}


def volume_attributes(spec: Spec) -> dict[str, str]:
    """Return what the PV tells the plugin."""
    attributes = {
        "fluid_path": spec.fluid_path,
        "mount_type": spec.kind.mount_type,
        "runtime_namespace": spec.namespace,
        "runtime_name": spec.name,
    }
    if spec.runtime == "efc":
        return attributes | {"efc_sessmgr_workdir": f"{MOUNT_ROOT}/efc-sock"}
    if spec.names_label:
        attributes["mount_pod_node_selector_key"] = spec.fuse_label
    return attributes | ({"node_publish_method": "symlink"} if spec.symlink else {})


def volume(spec: Spec) -> Object:
    """Return the PV; Fluid's EFC engine makes its own without claimRef and metadataList."""
    made: Object = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": _marked(spec, spec.identity),
        "spec": {
            "accessModes": [spec.access_mode],
            "capacity": {"storage": "100Pi"},
            "csi": {
                "driver": DRIVER,
                "volumeHandle": spec.identity,
                "volumeAttributes": volume_attributes(spec),
            },
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "fluid",
        },
    }
    if spec.runtime != "efc":
        made["spec"]["claimRef"] = _reference(spec)
        made["metadata"]["labels"] |= _SYMLINK if spec.symlink else {}
    return made


def claim(spec: Spec) -> Object:
    """Return the PVC, which has the Dataset's name."""
    metadata = _marked(spec, spec.name) | {"namespace": spec.namespace}
    if spec.kind.has_generation:
        metadata["labels"][GENERATION] = "1"  # of the DaemonSet when the PVC is made
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": {
            "accessModes": [spec.access_mode],
            "resources": {"requests": {"storage": "100Pi"}},
            "storageClassName": "fluid",
            "volumeName": spec.identity,
        },
    }


def reference(physical: Spec, virtual: Spec, sub_path: str = "") -> tuple[Object, Object]:
    """Return PV and PVC of a dataset that refers to another one, maybe to a part of it.

    Handle and attributes stay those of the physical dataset, so both share one stage. What refers
    to a read-only dataset is read-only.
    """
    mode = READ_ONLY if physical.access_mode == READ_ONLY else virtual.access_mode
    pv, pvc = volume(physical), claim(virtual)
    pv["metadata"] = _marked(virtual, virtual.identity)
    pv["spec"] |= {"claimRef": _reference(virtual), "accessModes": [mode]}
    pvc["spec"]["accessModes"] = [mode]
    if sub_path:
        pv["spec"]["csi"]["volumeAttributes"]["fluid_sub_path"] = sub_path
    pvc["metadata"]["labels"] |= {
        "fluid.io/dataset.referring-name": physical.name,
        "fluid.io/dataset.referring-namespace": physical.namespace,
    }
    pvc["metadata"]["labels"].pop(GENERATION, None)
    return pv, pvc


def _marked(spec: Spec, name: str) -> Object:
    labels = {spec.label("fluid.io/s-"): "true", "fluid.io/dataset-id": spec.label("")}
    return {"name": name, "annotations": {"CreatedBy": "fluid"}, "labels": labels}


def _reference(spec: Spec) -> Object:
    target = {"name": spec.name, "namespace": spec.namespace}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **target}


def pod_labels(spec: Spec) -> dict[str, str]:
    """Return the labels of the FUSE pods."""
    engine = spec.kind.engine
    return {
        "app": engine,
        "release": spec.name,
        "heritage": "Helm",
        "role": f"{engine}-fuse",
        "fluid.io/managed-by": "fluid",
        "fluid.io/dataset-id": spec.label(""),
    }


def fuse_daemonset(spec: Spec) -> Object:
    """Return the DaemonSet of the FUSE client."""
    kind = spec.kind
    directory = kind.directory(MOUNT_ROOT, spec.namespace, spec.name)
    directory = spec.fluid_path if kind.mounts_leaf else directory
    inside = kind.inside or directory
    told = {
        "FLUID_RUNTIME_TYPE": kind.engine,
        "FLUID_RUNTIME_NS": spec.namespace,
        "FLUID_RUNTIME_NAME": spec.name,
        "FUSE_MODE": "ro" if spec.access_mode == READ_ONLY else "rw",
    }
    if kind.mount_type not in spec.fluid_path:  # the plugin looks for it in the mount table
        told["FUSE_FSNAME"] = f"/{kind.mount_type}:{spec.name}"
    container = objects.fuse_container(
        f"{kind.engine}-fuse",
        inside if kind.mounts_leaf else f"{inside}/{kind.leaf}",
        told | spec.environment,
    )
    container["lifecycle"] = {"preStop": {"exec": {"command": ["/prestop.sh"]}}}
    shared = "fluid-cache-runtime-shared-path" if kind.mounts_leaf else "fuse-mount"
    parts: list[tuple[str, str, str, str | None]] = [(shared, directory, inside, "Bidirectional")]
    if spec.source:
        parts.append(("source", spec.source, "/source", None))
    container["volumeMounts"] = [objects.mount(n, inner, p) for n, _, inner, p in parts]
    volumes = [objects.host_path(name, path) for name, path, _, _ in parts]
    if spec.secret:
        volumes.append(_token(spec.secret))
        container["volumeMounts"].append(objects.mount("token", "/token", readOnly=True))
    pod = {
        "containers": [container],
        "volumes": volumes,
        "hostNetwork": True,
        "dnsPolicy": "Default",
        "nodeSelector": {spec.fuse_label: "true"},
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 5,
        "priorityClassName": "system-node-critical",
    }
    made = objects.daemonset(kind.daemonset(spec.name), pod_labels(spec), pod)
    made["metadata"]["namespace"] = spec.namespace
    if spec.runtime == "juicefs":
        _tell_generation(made["spec"]["template"], spec)
    return made


def _tell_generation(template: Object, spec: Spec) -> None:
    """Number the client, and show the number on the node for the policy that compares it."""
    template["metadata"]["labels"] = template["metadata"]["labels"] | {GENERATION: "1"}
    if spec.clean_policy != "OnFuseChanged":
        return
    name = "fuse-labels-downward-api-volume"
    item = {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}
    pod = template["spec"]
    pod["volumes"].append({"name": name, "downwardAPI": {"items": [item]}})
    path = f"{spec.kind.directory(MOUNT_ROOT, spec.namespace, spec.name)}/.meta/fuse"
    pod["containers"][0]["volumeMounts"].append(objects.mount(name, path))


def _token(secret: str) -> Object:
    names = {"fs.oss.accessKeyId": "AccessKeyId", "fs.oss.accessKeySecret": "AccessKeySecret"}
    items = [{"key": key, "path": f"bucket/{path}"} for key, path in names.items()]
    source = {"secret": {"name": secret, "items": items}}
    return {"name": "token", "projected": {"sources": [source]}}
