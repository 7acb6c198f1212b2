"""The plugin on the cluster, from the manifests and the image of this checkout."""

import http.client
import json
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.cluster import Cluster, Object
from tests.cluster.settings import ROOT
from tests.cluster.waiting import ClusterError, wait_for
from tests.images import product

NAMESPACE = "fluid-system"
DAEMONSET = "csi-nodeplugin-fluid"
CONTAINER = "plugins"
DRIVER = "fuse.csi.fluid.io"
RECOVERY = "overlays/recovery"
_ARCHIVE = ROOT / ".cache/images/csi-fluid.oci.tar"
_AGENT = "csi-fluid/"  # how its calls begin to name their program in the audit log


class Plugin:
    """csi-fluid as a user deploys it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    # ---- Deploy

    def load(self) -> None:
        """Give the node the image of this checkout."""
        self._cluster.load_image(image())

    def install(self, overlay: str = RECOVERY) -> None:
        """Load the image of this checkout and deploy."""
        self.load()
        self.deploy(overlay)

    def deploy(self, overlay: str = RECOVERY) -> None:
        """Apply a folder of manifests, also over another one; return when the plugin serves."""
        self._cluster.kubectl("apply", "-f", str(ROOT / "manifests/namespace.yaml"))
        self._cluster.kubectl("apply", "-k", str(ROOT / "manifests" / overlay))
        self.await_rollout()

    def add_arguments(self, *arguments: str) -> None:
        """Deploy anew with more arguments; the next ``deploy`` is without them."""
        path = "/spec/template/spec/containers/0/args/-"
        patch = json.dumps([{"op": "add", "path": path, "value": a} for a in arguments])
        where = ("daemonset", DAEMONSET, "-n", NAMESPACE)
        self._cluster.kubectl("patch", *where, "--type=json", "-p", patch)
        self.await_rollout()

    def hide_host_processes(self) -> None:
        """Deploy anew with the rights of Fluid's chart; the next ``deploy`` gives them back."""
        patch = json.dumps({"spec": {"template": {"spec": {"hostPID": False}}}})
        where = ("daemonset", DAEMONSET, "-n", NAMESPACE)
        self._cluster.kubectl("patch", *where, "--type=strategic", "-p", patch)
        self.await_rollout()

    def await_rollout(self, timeout_s: float = 60) -> None:
        """Return when the newest pod is ready and registered with kubelet."""
        status = ("rollout", "status", f"daemonset/{DAEMONSET}", "-n", NAMESPACE)
        self._cluster.kubectl(*status, f"--timeout={timeout_s:g}s", timeout_s=timeout_s + 10)
        wait_for(self._is_registered, "the plugin's registration")

    def _is_registered(self) -> bool:
        drivers = self._cluster.list("csinodes")[0]["spec"].get("drivers") or []
        return DRIVER in {driver["name"] for driver in drivers}

    def remove(self) -> None:
        """Delete the DaemonSet and return when its pod, and its registration, is gone.

        Does nothing without one.
        """
        what = ("daemonset", DAEMONSET, "-n", NAMESPACE)
        self._cluster.kubectl("delete", *what, "--ignore-not-found", "--timeout=60s")
        wait_for(lambda: not self._cluster.list("pods", NAMESPACE, f"app={DAEMONSET}"), "its end")
        wait_for(lambda: not self._is_registered(), "the end of its registration")

    # ---- Faults

    def kill(self) -> int:
        """End its process with SIGKILL, as when memory is short; return when kubelet sees it.

        Returns how often its container has been restarted. kubelet starts it again by itself.
        """
        pod = self.pod()
        before = self._restarts(pod)
        self._cluster.kill_container(pod, CONTAINER, namespace=NAMESPACE)
        return wait_for(
            lambda: restarts if (restarts := self._restarts(pod)) > before else 0,
            "the restart of the plugin's container",
            60,
        )

    def _restarts(self, pod: str) -> int:
        status = self._cluster.container_status(pod, CONTAINER, NAMESPACE)
        return int(status["restartCount"])

    def replace(self) -> str:
        """Delete its pod; return the name of the next one when that serves."""
        self._cluster.kubectl("delete", "pod", self.pod(), "-n", NAMESPACE, "--timeout=60s")
        wait_for(self._has_pod, "the DaemonSet's next pod")
        self.await_rollout()
        return self.pod()

    def upgrade(self, tag: str) -> str:
        """Roll out another tag of the image, with the same content; return the new pod's name."""
        repository = product.NAME.rpartition(":")[0]
        ctr = ("ctr", "-n", "k8s.io", "images", "tag", "--force")
        self._cluster.enter(*ctr, product.NAME, f"{repository}:{tag}")
        image = f"{CONTAINER}={repository}:{tag}"
        self._cluster.kubectl("set", "image", f"daemonset/{DAEMONSET}", image, "-n", NAMESPACE)
        self.await_rollout()
        return self.pod()

    # ---- What it says

    def pod(self) -> str:
        """Return the name of its pod."""
        return str(self._pods()[0]["metadata"]["name"])

    def _has_pod(self) -> bool:
        return bool(self._pods())

    def _pods(self) -> list[Object]:
        pods = self._cluster.list("pods", NAMESPACE, f"app={DAEMONSET}")
        return [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]

    def execute(self, *command: str) -> str:
        """Run a command in its container, as ``csi-fluid status``."""
        return str(self._cluster.execute(self.pod(), *command, namespace=NAMESPACE))

    def status(self) -> dict[str, Any]:
        """Return the report of ``csi-fluid status --json`` on each dataset, by namespace/name."""
        told = json.loads(self.execute("csi-fluid", "status", "--json"))
        return {report["dataset"]: report for report in told["datasets"]}

    def log(self) -> str:
        """Return its log."""
        return self._cluster.kubectl("logs", self.pod(), "-n", NAMESPACE)

    def metrics(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of a metric that have these labels; 0 when there is none.

        The metrics are read as Prometheus' own client for Python reads them.
        """
        families = text_string_to_metric_families(self.scrape())
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def scrape(self) -> str:
        """Return what /metrics answers."""
        pod = self._cluster.get("pod", self.pod(), NAMESPACE)
        connection = http.client.HTTPConnection(pod["status"]["podIP"], 8080, timeout=10)
        try:
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise ClusterError(f"/metrics answered {answer.status}: {text}")
        return text

    def calls(self) -> list[str]:
        """Return every call that it made to the API server, oldest first, as "create events"."""
        return [
            f"{entry['verb']} {entry['objectRef']['resource']}"
            for entry in self._cluster.audit_entries()
            if entry.get("userAgent", "").startswith(_AGENT)
            and entry["stage"] == "ResponseComplete"
        ]

    def resident_mib(self) -> dict[str, float]:
        """Return the resident memory in MiB of the serving process and of its helper, if alive."""
        ours = self._cluster.enter("ps", "-eo", "rss=,args=").splitlines()
        found = {}
        for name, mark in (("plugin", "csi-fluid start"), ("helper", "csi_fluid.kube.child")):
            sizes = [int(line.split()[0]) for line in ours if mark in line]
            if sizes:
                found[name] = sum(sizes) / 1024
        return found


def image() -> Path:
    """Return the archive of this checkout's image, written anew when its sources changed."""
    folders = (ROOT / "tests/images", *(ROOT / name for name in product.SOURCES))
    sources = [path for folder in folders for path in folder.rglob("*.py")]
    sources += [ROOT / "pyproject.toml", *(ROOT / name for name in product.FILES)]
    newest = max(path.stat().st_mtime for path in sources)
    if not _ARCHIVE.exists() or _ARCHIVE.stat().st_mtime < newest:
        product.build(_ARCHIVE, compress=False)
    return _ARCHIVE
