"""One crash under pods of every shape: each reads on, none is restarted."""

from tests.cluster.cluster import Cluster, Object
from tests.cluster.fluid import Datasets, Fluid, application
from tests.cluster.fluidobjects import Spec
from tests.cluster.objects import mount
from tests.cluster.plugin import Plugin
from tests.cluster.waiting import wait_for

WHOLE, PART = ["hello", "sub"], ["deep"]
# Pod and container to what it lists at /data.
LISTINGS = {
    ("labelled", "main"): WHOLE,
    ("unlabelled", "main"): WHOLE,
    ("private", "main"): WHOLE,
    ("part", "main"): PART,
    ("part-labelled", "main"): PART,
    ("two", "main"): WHOLE,
    ("two", "second"): PART,
    ("referring", "main"): WHOLE,
    ("referring-part", "main"): PART,
}
LABEL = {"fuse.serverful.fluid.io/inject": "true"}


def two_containers(claim: str) -> Object:
    pod = application("two", claim, labels=LABEL)
    (main,) = pod["spec"]["containers"]
    second = main | {"name": "second", "volumeMounts": [mount("data-vol", "/data", subPath="sub")]}
    pod["spec"]["containers"].append(second)
    return pod


def pods(claim: str) -> list[Object]:
    return [
        application("labelled", claim, labels=LABEL),
        application("unlabelled", claim),
        application("private", claim, propagation="None"),
        application("part", claim, sub_path="sub"),
        application("part-labelled", claim, sub_path="sub", labels=LABEL),
        two_containers(claim),
        application("referring", "alias"),
        application("referring-part", "alias-part"),
    ]


def listings(cluster: Cluster, namespace: str) -> dict[tuple[str, str], list[str]]:
    """Return what each container lists; an error message where it cannot."""
    command = ("sh", "-c", "ls /data 2>&1 || true")
    return {
        (pod, container): cluster.execute(
            pod, *command, namespace=namespace, container=container
        ).splitlines()
        for pod, container in LISTINGS
    }


def layers(cluster: Cluster, namespace: str) -> set[int]:
    """Return how many mounts stand at /data, over all containers."""
    command = ("grep", "-c", " /data ", "/proc/self/mountinfo")
    return {
        int(cluster.execute(pod, *command, namespace=namespace, container=container))
        for pod, container in LISTINGS
    }


def reasons(cluster: Cluster, namespace: str, kind: str) -> dict[str, set[str]]:
    """Return the names of a kind's objects that have our events, with the reasons."""
    found: dict[str, set[str]] = {}
    for event in cluster.list("events", namespace):
        about = event["involvedObject"]
        if about["kind"] == kind and event["source"].get("component") == "FuseRecover":
            found.setdefault(about["name"], set()).add(event["reason"])
    return found


def test_one_crash_heals_pods_of_every_shape(
    cluster: Cluster, plugin: Plugin, fluid: Fluid, namespace: str, dataset: Datasets
):
    spec = dataset()
    whole = fluid.refer(spec, Spec(namespace, "alias"))
    part = fluid.refer(spec, Spec(namespace, "alias-part"), "sub")
    cluster.apply(*pods(spec.name), namespace=namespace)
    names = {pod for pod, _ in LISTINGS}
    for pod in names:
        cluster.wait_ready(pod, namespace)
    assert listings(cluster, namespace) == LISTINGS

    cluster.execute(fluid.fuse_pod(spec), "kill", "1", namespace=namespace, check=False)
    both = {"FuseBroken", "FuseRecoverSucceed"}
    wait_for(
        lambda: reasons(cluster, namespace, "Pod") == dict.fromkeys(names, both),
        "both events at each pod",
        60,
    )

    assert listings(cluster, namespace) == LISTINGS
    assert layers(cluster, namespace) <= {1, 2}
    containers = [cluster.container_status(*each, namespace) for each in LISTINGS]
    assert {status["restartCount"] for status in containers} == {0}
    wait_for(
        lambda: (
            reasons(cluster, namespace, "Dataset")
            == dict.fromkeys(("demo", "alias", "alias-part"), both)
        ),
        "both events at each dataset",
    )
    assert plugin.status()[f"{namespace}/demo"]["state"] == "healthy"
    for virtual in (whole, part):
        fluid.remove(virtual)
