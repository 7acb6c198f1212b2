"""csi-fluid's admission webhook on the cluster, from the manifests and this checkout's image."""

import json
from typing import Any

import yaml

from tests.cluster.cluster import Cluster, Object
from tests.cluster.settings import ROOT
from tests.cluster.waiting import wait_for

NAMESPACE = "fluid-system"
NAME = "csi-fluid-webhook"
CONFIGURATION = "csi-fluid-recovery-webhook"
SECRET = "csi-fluid-webhook-certificates"
ROLLOUT = ("rollout", "status", f"deployment/{NAME}", "-n", NAMESPACE, "--timeout=90s")
_FOLDER = ROOT / "manifests/serverless"
# A pod that gets an answer that can be told from none: it asks, and nothing brings a sidecar.
_ASKING: Object = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "asks", "annotations": {"fuse.csi.fluid.io/recover-policy": "auto"}},
    "spec": {"containers": [{"name": "main", "image": "localhost/busybox:1"}]},
}


class Recovery:
    """The webhook as a user deploys it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def deploy(self) -> None:
        """Apply the manifests and return when the API server gets answers."""
        self._cluster.kubectl("apply", "-f", str(ROOT / "manifests/namespace.yaml"))
        self._cluster.kubectl("apply", "-k", str(_FOLDER))
        self._cluster.kubectl(*ROLLOUT, timeout_s=100)
        wait_for(self.answers, "an answer of the webhook")

    def scale(self, replicas: int) -> None:
        """Have so many replicas, and return when the API server asks no others."""
        self._cluster.kubectl(
            "scale", f"deployment/{NAME}", "-n", NAMESPACE, f"--replicas={replicas}"
        )
        wait_for(lambda: len(self.pods()) == replicas, f"{replicas} replicas", 60)
        self._cluster.kubectl(*ROLLOUT, timeout_s=100)
        wait_for(lambda: self.answers() == bool(replicas), "the API server to know of it", 60)

    def pods(self) -> list[str]:
        """Return the names of its pods."""
        found = self._cluster.list("pods", NAMESPACE, f"app={NAME}")
        return [pod["metadata"]["name"] for pod in found]

    def answers(self) -> bool:
        """Tell whether the API server gets answers."""
        return "will not be recovered" in self.try_out(_ASKING)

    def try_out(self, pod: Object, namespace: str = "default") -> str:
        """Return all that kubectl says of the creation of a pod that is not made (dry run)."""
        create = ("create", "--dry-run=server", "-f", "-", "-n", namespace)
        both = ("sh", "-c", 'exec "$@" 2>&1', "sh", *self._cluster.kubectl_command(*create))
        return self._cluster.enter(*both, input=yaml.safe_dump(pod))

    def log(self) -> str:
        """Return the logs of all replicas."""
        which = ("-l", f"app={NAME}", "-n", NAMESPACE, "--tail=-1", "--prefix")
        return self._cluster.kubectl("logs", *which)

    def bundle(self) -> str:
        """Return whom the API server trusts, in base64."""
        found = self._cluster.get("mutatingwebhookconfiguration", CONFIGURATION)
        return str(found["webhooks"][0]["clientConfig"].get("caBundle", ""))

    def forget_bundle(self) -> None:
        """Take from the configuration whom the API server trusts, as another tool might."""
        change: list[dict[str, Any]] = [
            {"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}
        ]
        patch = ("patch", "mutatingwebhookconfiguration", CONFIGURATION, "--type=json")
        self._cluster.kubectl(*patch, "-p", json.dumps(change))
