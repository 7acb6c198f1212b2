"""Pods for the tests of the admission webhook, before and after Fluid has handled them."""

import copy
import json
from typing import Any

from csi_fluid import webhook
from csi_fluid.webhook import rules
from tests.cluster.fluidobjects import Spec
from tests.harness import fluidwebhook, jsonpatch
from tests.harness.fluidwebhook import Claim

IMAGE = "localhost/agent:1"
DEMO = Spec("walk2", "demo-dataset")
CLAIMS = {
    "demo-dataset": Claim(DEMO),
    "other": Claim(Spec("walk2", "other")),
    "juice": Claim(Spec("walk2", "juice", "juicefs")),
    "part": Claim(Spec("walk2", "demo-dataset"), "year/2026"),
}
ASKS = {"alibabacloud.com/fuse-recover-policy": "auto"}
ECI = {"alibabacloud.com/fluid-sidecar-target": "eci"}
SERVER = f"{webhook.SERVICE}.{webhook.NAMESPACE}.svc"
INJECT = "serverless.fluid.io/inject"
OURS = "fuse.csi.fluid.io/recover-policy"
PLATFORMS = "alibabacloud.com/fuse-recover-policy"
INSIDE = "/fluid/jindofs-fuse-mount-0"
ON_NODE = "/runtime-mnt/jindo/walk2/demo-dataset"
Object = dict[str, Any]


def app(*claims: str, name: str = "demo", **mount: Any) -> Object:
    """Return an application's container that mounts claims at /data, /data1 ..."""
    mounts = [
        {"name": f"{claim}-vol", "mountPath": f"/data{number or ''}", **mount}
        for number, claim in enumerate(claims)
    ]
    return {"name": name, "image": "nginx", "volumeMounts": mounts}


def pod(*claims: str, containers: Any = (), **metadata: Any) -> Object:
    """Return a pod as its user writes it."""
    given = {"name": "demo-app", "labels": dict(ECI), "annotations": dict(ASKS)} | metadata
    volumes = [
        {"name": f"{claim}-vol", "persistentVolumeClaim": {"claimName": claim}} for claim in claims
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": given,
        "spec": {"containers": list(containers) or [app(*claims)], "volumes": volumes},
    }


def patched(found: Object, image: str = IMAGE) -> Object:
    """Return a pod as the API server has it after our answer."""
    return jsonpatch.apply(found, rules.decide(found, image).operations)


def injected(found: Object, **options: Any) -> Object:
    """Return a pod after our first answer and Fluid's."""
    return fluidwebhook.inject(patched(found), CLAIMS, **options)


def admitted(found: Object, **options: Any) -> Object:
    """Return a pod after everything: ours, Fluid's, ours again, Fluid's again."""
    done = patched(injected(found, **options))
    again = fluidwebhook.inject(done, CLAIMS, **options)
    assert again == done
    return done


def agents(found: Object) -> list[Object]:
    """Return the agents of a pod."""
    spec = found["spec"]
    return [
        copy.deepcopy(c)
        for place in ("initContainers", "containers")
        for c in spec.get(place, ())
        if c["name"] == "fluid-fuse-recovery"
    ]


def warnings(found: Object) -> str:
    """Return all that the pod's user is told."""
    return " | ".join(rules.decide(found, IMAGE).warnings)


def mounts_of(container: Object) -> list[str]:
    """Return the agent's arguments that name what it guards."""
    return [word for word in container["args"] if word.startswith("--mount=")]


def names(found: Object, place: str = "containers") -> list[str]:
    """Return the names of a pod's containers, in their order."""
    return [each["name"] for each in found["spec"][place]]


def question(pod: dict[str, Any]) -> bytes:
    """Return what an API server asks about a pod."""
    resource = {"group": "", "version": "v1", "resource": "pods"}
    request = {"uid": "u1", "operation": "CREATE", "resource": resource, "object": pod}
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    return json.dumps(review).encode()
