"""Serverless pods: the FUSE daemon of a dataset is a sidecar of the application's own pod."""

import dataclasses
from typing import Any

from tests.cluster import objects
from tests.cluster.admission import FluidWebhook
from tests.cluster.cluster import Cluster, Object
from tests.cluster.fluid import Fluid
from tests.cluster.fluidobjects import MOUNT_ROOT, Spec
from tests.cluster.fluidruntimes import KINDS
from tests.cluster.waiting import ClusterError, wait_for
from tests.harness.fluidwebhook import Claim

LABELS = {"alibabacloud.com/fluid-sidecar-target": "eci"}
POLICY = "alibabacloud.com/fuse-recover-policy"
SIDECAR = "fluid-fuse-0"
AGENT = "fluid-fuse-recovery"
NOT_CONNECTED = "Transport endpoint is not connected"
_INJECTED = ("jindo", "alluxio", "juicefs", "thin")  # the runtimes that have sidecars
HEAL_S = 40.0  # with the restart of the container, on a busy machine

# What the sidecar's postStart hook runs: wait for the mount, then for a path in it.
_CHECK_SIDECAR = """#!/bin/bash
mark=$2
[ "$mark" = jindo ] && mark=/dev/fuse
await() {
  for _ in {1..30}; do
    "$@" && return
    sleep 1
  done
  echo "not there after 30 s: $*" >/proc/1/fd/1
  exit 1
}
is_mounted() { grep -F "$1" /proc/self/mountinfo | grep -qF "$mark"; }
has_path() { compgen -G "$1/*/$2" >/dev/null; }
await is_mounted "$1"
await has_path "$1" "${3:-}"
"""


def check_scripts(namespace: str, *mount_types: str) -> list[Object]:
    """Return the ConfigMaps that Fluid's webhook makes for the sidecars' postStart hooks."""
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"{kind.lower()}-default-check-mount", "namespace": namespace},
            "data": {"check-mount.sh": _CHECK_SIDECAR},
        }
        for kind in mount_types
    ]


def application(
    name: str,
    *claims: str,
    policy: str | None = "auto",
    read_only: bool = False,
    command: str = "sleep infinity",
    grace_s: int = 30,  # Kubernetes' own
    **metadata: Any,
) -> Object:
    """Return a pod as its user writes it; the first claim is at /data, the next at /data1 ...

    metadata: more annotations and labels.
    """
    paths = {claim: f"/data{number or ''}" for number, claim in enumerate(claims)}
    more: dict[str, Any] = {"readOnly": True} if read_only else {}
    made = objects.pod(
        name,
        command,
        labels=LABELS | metadata.get("labels", {}),
        volumes=[objects.claim(f"{claim}-vol", claim) for claim in claims],
        mounts=[objects.mount(f"{claim}-vol", path, **more) for claim, path in paths.items()],
    )
    asked = {} if policy is None else {POLICY: policy}
    made["metadata"]["annotations"] = asked | metadata.get("annotations", {})
    made["spec"]["terminationGracePeriodSeconds"] = grace_s
    return made


def job(name: str, pod: Object, restart_policy: str) -> Object:
    """Return a Job around a pod."""
    metadata = {key: pod["metadata"][key] for key in ("labels", "annotations")}
    template = {"metadata": metadata, "spec": pod["spec"] | {"restartPolicy": restart_policy}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"template": template},
    }


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """What a container has at a path: mounts, bottom first, and what ls says."""

    superblocks: tuple[str, ...]
    flags: tuple[frozenset[str], ...]  # of each mount and its superblock
    listing: tuple[str, ...]

    @property
    def layers(self) -> int:
        """Return how many mounts stand on each other."""
        return len(self.superblocks)

    @property
    def is_broken(self) -> bool:
        """Tell whether the FUSE daemon is gone."""
        return any(NOT_CONNECTED in line for line in self.listing)


class ServerlessPod:
    """A running pod with FUSE sidecars."""

    def __init__(self, cluster: Cluster, namespace: str, name: str) -> None:
        self.name = name
        self.namespace = namespace
        self._cluster = cluster

    def start(self, pod: Object) -> "ServerlessPod":
        """Create it and return when it is Ready."""
        self._cluster.apply(pod, namespace=self.namespace)
        self._cluster.wait_ready(self.name, self.namespace, 90)
        return self

    def execute(self, container: str, *command: str, **options: Any) -> str:
        """Run a command in a container, as ``kubectl exec`` does."""
        where = {"namespace": self.namespace, "container": container}
        return str(self._cluster.execute(self.name, *command, **where, **options))

    def see(self, path: str = "/data", container: str = "main") -> View:
        """Return what a container has at a path."""
        script = 'grep " $0 " /proc/self/mountinfo; echo; ls "$0" 2>&1 || true'
        said = self.execute(container, "sh", "-c", script, path)
        table, _, listing = said.partition("\n\n")
        lines = [line.split() for line in table.splitlines()]
        return View(
            tuple(fields[2] for fields in lines),
            tuple(frozenset(f"{f[5]},{f[-1]}".split(",")) for f in lines),
            tuple(listing.splitlines()),
        )

    def crash(self, *containers: str) -> None:
        """Send ``kill 1`` to the first processes of containers, and return when they are back."""
        before = {name: self.restarts(name) for name in containers}
        for name in containers:
            # Not every image has a program for it, and the shell may end with the container.
            self.execute(name, "sh", "-c", "kill 1", check=False)
        for name, count in before.items():
            self.await_restart(name, count)

    def kill(self, *containers: str) -> None:
        """End the first processes of containers from the node, and return when they are back."""
        before = {name: self.restarts(name) for name in containers}
        for name in containers:
            self._cluster.kill_container(self.name, name, namespace=self.namespace)
        for name, count in before.items():
            self.await_restart(name, count)

    def await_restart(self, container: str, before: int) -> None:
        """Return when a container runs that had been restarted so often before."""

        def is_back() -> bool:
            status = self._cluster.container_status(self.name, container, self.namespace)
            return int(status["restartCount"]) > before and "running" in status["state"]

        wait_for(is_back, f"the restart of {container} in {self.name}", 60)

    def await_heal(
        self, before: View, *, path: str = "/data", container: str = "main", layers: int = 2
    ) -> View:
        """Return what a container has once it lists again what it listed, from a new daemon.

        Raises ClusterError when it does not in time, or keeps more layers than are allowed: a
        client that stacks while the agent is away adds one, which goes when the agent is back.
        """
        old = set(before.superblocks)

        def healed() -> View | None:
            view = self.see(path, container)
            is_new = bool(view.superblocks) and view.superblocks[-1] not in old
            is_whole = view.listing == before.listing and view.layers <= layers
            return view if is_new and is_whole else None

        try:
            view = wait_for(healed, f"the heal of {path} in {container} of {self.name}", HEAL_S)
        except ClusterError as error:
            seen = self.see(path, container)
            raise ClusterError(f"{error}: {seen}\n{self.log(AGENT)}") from error
        assert view is not None
        return view

    def await_listing(self, listing: tuple[str, ...]) -> None:
        """Return when the application lists this; raises ClusterError with what it has instead."""
        try:
            wait_for(lambda: self.see().listing == listing, f"{self.name} to list", HEAL_S)
        except ClusterError as error:
            raise ClusterError(f"{error}: {self.see()}\n{self.log(AGENT)}") from error

    def end_sidecars(self) -> None:
        """Do as Fluid's controller when the application has ended: run the FUSE side's hooks."""
        pod = self._cluster.get("pod", self.name, self.namespace)
        for container in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]):
            if container["name"].startswith("fluid-fuse"):
                self.execute(
                    container["name"], *container["lifecycle"]["preStop"]["exec"]["command"]
                )

    def await_end(self, container: str) -> None:
        """Return when a container has ended with status 0."""

        def has_ended() -> bool:
            status = self._cluster.container_status(self.name, container, self.namespace)
            return bool(status["state"].get("terminated", {}).get("exitCode") == 0)

        wait_for(has_ended, f"the end of {container} in {self.name}", 30)

    def restarts(self, container: str) -> int:
        """Return how often a container was restarted."""
        status = self._cluster.container_status(self.name, container, self.namespace)
        return int(status["restartCount"])

    def containers(self) -> list[str]:
        """Return the names of its containers."""
        pod = self._cluster.get("pod", self.name, self.namespace)
        return [container["name"] for container in pod["spec"]["containers"]]

    def log(self, container: str) -> str:
        """Return the log of a container, and of the one before it."""
        where = (self.name, "-n", self.namespace, "-c", container)
        before = self._cluster.kubectl("logs", *where, "--previous", check=False)
        return before + self._cluster.kubectl("logs", *where, check=False)

    def delete(self) -> None:
        """Delete it and return when it is gone; kubelet has the 30 s of its grace period."""
        timeout = "--timeout=35s"
        self._cluster.kubectl("delete", "pod", self.name, "-n", self.namespace, timeout)


class Serverless:
    """A namespace whose datasets are served by sidecars."""

    def __init__(self, cluster: Cluster, fluid: Fluid, webhook: FluidWebhook, name: str) -> None:
        self.namespace = name
        self._cluster = cluster
        self._fluid = fluid
        self._webhook = webhook
        self._made: list[Spec] = []
        cluster.apply(*check_scripts(name, *{KINDS[name].mount_type for name in _INJECTED}))

    def dataset(self, name: str = "demo", **fields: Any) -> Spec:
        """Make a dataset: of a directory on the node with the file ``hello``, if not told else."""
        source = f"/var/lib/data/{self.namespace}/{name}"
        if "environment" not in fields or "FUSE_KIND" not in fields["environment"]:
            fields["source"] = source
            self._cluster.enter("mkdir", "-p", source)
            self._cluster.write(f"{source}/hello", f"hello of {name}\n")
        spec = Spec(self.namespace, name, **fields)
        return self.adopt(self._fluid.dataset(spec))

    def adopt(self, spec: Spec, sub_path: str = "") -> Spec:
        """Have Fluid's webhook know the claim of a dataset."""
        self._made.append(spec)
        claims = self._webhook.claims.setdefault(self.namespace, {})
        claims[spec.name] = Claim(spec, sub_path)
        return spec

    def start(self, name: str, *claims: str, **more: Any) -> ServerlessPod:
        """Create an application that asks for recovery, and return it when it is Ready."""
        pod = ServerlessPod(self._cluster, self.namespace, name)
        return pod.start(application(name, *claims, **more))

    def start_job(self, name: str, *claims: str, restart_policy: str, **more: Any) -> ServerlessPod:
        """Create a Job of such an application, and return its pod when that is Ready."""
        made = job(name, application(name, *claims, **more), restart_policy)
        self._cluster.apply(made, namespace=self.namespace)
        (pod,) = wait_for(
            lambda: self._cluster.list("pods", self.namespace, f"job-name={name}"), "its pod"
        )
        self._cluster.wait_ready(pod["metadata"]["name"], self.namespace, 90)
        return ServerlessPod(self._cluster, self.namespace, pod["metadata"]["name"])

    def await_complete(self, job: str) -> None:
        """Return when a Job is Complete."""
        self._cluster.kubectl(
            "wait", f"job/{job}", "--for=condition=Complete", "-n", self.namespace, "--timeout=60s"
        )

    def traces(self) -> list[str]:
        """Return what there is on the node for the datasets: mounts, and the agents' files."""
        mounts = [m for m in self._cluster.mounts(MOUNT_ROOT) if f"/{self.namespace}/" in m]
        hidden = ("find", MOUNT_ROOT, "-xdev", "-name", ".csi-fluid")
        found = self._cluster.enter(*hidden, check=False).splitlines()
        return mounts + [path for path in found if f"/{self.namespace}/" in path]

    def close(self) -> None:
        """Delete its pods and then its datasets."""
        where = ("-n", self.namespace, "--timeout=60s")
        self._cluster.kubectl("delete", "pods", "--all", *where, timeout_s=70)
        for spec in self._made:
            self._fluid.remove(spec)
        self._webhook.claims.pop(self.namespace, None)
