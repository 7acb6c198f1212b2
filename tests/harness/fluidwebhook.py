"""A stand-in for Fluid's webhook: what it makes of a pod that is to get FUSE sidecars.

A pure function from pod to pod, so that unit tests can call it and a cluster can be served with it.
It does what Fluid's own was seen to do on a cluster: the template is the first container of the
dataset's FUSE DaemonSet, and the claim's volume becomes the FUSE mount itself.
"""

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from tests.cluster import fluidobjects
from tests.cluster.fluidobjects import MOUNT_ROOT, Spec

INJECT = "serverless.fluid.io/inject"
DONE = "done.sidecar.fluid.io/inject"
Object = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """What a PersistentVolumeClaim of a dataset leads to; sub_path is a reference dataset's."""

    spec: Spec
    sub_path: str = ""


def inject(
    pod: Object, claims: Mapping[str, Claim], *, native: bool = False, suffix: str = ""
) -> Object:
    """Return the pod with a FUSE sidecar for each claim that it mounts.

    native: as restartable init containers (Fluid's FUSE_SIDECAR_INJECTION_MODE).  suffix: the
    directory of the node that belongs to this pod alone (host-mount-path-mode: random-suffix).
    """
    labels = pod["metadata"].get("labels", {})
    if labels.get(INJECT) != "true" or labels.get(DONE) == "true":
        return pod
    if labels.get("fluid.io/enable-injection") == "false":
        return pod
    made = copy.deepcopy(pod)
    used = sorted(
        {v["persistentVolumeClaim"]["claimName"] for v in _claim_volumes(made["spec"], claims)}
    )
    for number, name in enumerate(used):
        _add(made, claims[name], name, number, native=native, suffix=suffix)
    if used:
        made["metadata"]["labels"] |= {DONE: "true", "fluid.io/managed-by": "fluid"}
        annotations = made["metadata"].setdefault("annotations", {})
        annotations["fluid.io/datasets-in-use"] = ",".join(used)
    return made


def _claim_volumes(spec: Object, claims: Mapping[str, Claim]) -> Iterator[Object]:
    for volume in spec.get("volumes", ()):
        if volume.get("persistentVolumeClaim", {}).get("claimName") in claims:
            yield volume


def _add(pod: Object, claim: Claim, name: str, number: int, *, native: bool, suffix: str) -> None:
    spec, dataset = pod["spec"], claim.spec
    directory = dataset.kind.directory(MOUNT_ROOT, dataset.namespace, dataset.name)
    directory += f"/{suffix}" if suffix else ""
    shown = "/".join(filter(None, (directory, dataset.kind.leaf, claim.sub_path)))
    volumes = [v["name"] for v in _claim_volumes(spec, {name: claim})]
    is_unprivileged = pod["metadata"]["labels"].get("unprivileged.sidecar.fluid.io/inject")
    sidecar, extra = _template(claim, number, directory)
    if is_unprivileged == "true":
        _strip(sidecar, extra)
    spec["volumes"] += extra
    for volume in spec["volumes"]:
        if volume["name"] in volumes:
            volume.pop("persistentVolumeClaim", None)
            volume["hostPath"] = {"path": shown}
    by_init = _show(spec.get("initContainers", ()), volumes)
    _show(spec["containers"], volumes)
    if native:
        spec.setdefault("initContainers", []).insert(0, sidecar | {"restartPolicy": "Always"})
    else:
        spec["containers"].insert(0, sidecar)
        if by_init:
            waiting = {"name": f"init-{sidecar['name']}", "command": ["sleep"], "args": ["2s"]}
            spec["initContainers"].insert(0, sidecar | waiting)
    pod["metadata"]["labels"] |= {
        f"dataset-name.sidecar.fluid.io/{sidecar['name']}": dataset.name,
        f"dataset-namespace.sidecar.fluid.io/{sidecar['name']}": dataset.namespace,
    }


def _template(claim: Claim, number: int, directory: str) -> tuple[Object, list[Object]]:
    """Return a sidecar and the volumes that it brings, each named after the number."""
    kind = claim.spec.kind
    template = fluidobjects.fuse_daemonset(claim.spec)["spec"]["template"]["spec"]
    sidecar, volumes = copy.deepcopy(template["containers"][0]), copy.deepcopy(template["volumes"])
    inside = next(m["mountPath"] for m in sidecar["volumeMounts"] if m["name"] == "fuse-mount")
    for volume in volumes:
        if volume["name"] == "fuse-mount":
            volume["hostPath"] = {"path": directory, "type": "DirectoryOrCreate"}
    script = {"name": f"{kind.mount_type.lower()}-default-check-mount", "defaultMode": 0o755}
    volumes.append({"name": "default-check-mount", "configMap": script})
    sidecar["volumeMounts"].append(
        {
            "name": "default-check-mount",
            "mountPath": "/check-mount.sh",
            "subPath": "check-mount.sh",
            "readOnly": True,
        }
    )
    for item in (*volumes, *sidecar["volumeMounts"]):
        prefix = f"{kind.engine}-" if item["name"] == "fuse-mount" else ""
        item["name"] = f"{prefix}{item['name']}-{number}"
    check = f"time /check-mount.sh {inside} {kind.mount_type} {claim.sub_path}"
    sidecar.setdefault("lifecycle", {})["postStart"] = {"exec": {"command": ["bash", "-c", check]}}
    return sidecar | {"name": f"fluid-fuse-{number}"}, volumes


def _show(containers: Any, volumes: list[str]) -> bool:
    """Let the containers that mount the volumes see later mounts; tell whether there are any."""
    mounts = [m for c in containers for m in c.get("volumeMounts", ()) if m["name"] in volumes]
    for mount in mounts:
        mount["mountPropagation"] = "HostToContainer"
    return bool(mounts)


def _strip(sidecar: Object, volumes: list[Object]) -> None:
    """Take from a sidecar what the platform has to give it in another way."""
    dropped = {v["name"] for v in volumes if "fuse-mount-" in v["name"]}
    volumes[:] = [v for v in volumes if v["name"] not in dropped]
    sidecar["volumeMounts"] = [m for m in sidecar["volumeMounts"] if m["name"] not in dropped]
    sidecar["securityContext"] = {"privileged": False}
