"""The plugin on the cluster, from the manifests and the image of this checkout."""

from tests.cluster.cluster import Cluster
from tests.cluster.settings import ROOT
from tests.cluster.waiting import wait_for
from tests.images import product

NAMESPACE = "fluid-system"
DAEMONSET = "csi-nodeplugin-fluid"
DRIVER = "fuse.csi.fluid.io"
_ARCHIVE = ROOT / ".cache/images/csi-fluid.oci.tar"


class Plugin:
    """csi-fluid as a user deploys it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def install(self, overlay: str = "overlays/recovery") -> None:
        """Load the image of this checkout, apply a folder of manifests, wait until it serves."""
        cluster = self._cluster
        cluster.load_image(product.build(_ARCHIVE, compress=False))
        cluster.kubectl("apply", "-f", str(ROOT / "manifests/namespace.yaml"))
        cluster.kubectl("apply", "-k", str(ROOT / "manifests" / overlay))
        self.await_rollout()

    def await_rollout(self, timeout_s: float = 60) -> None:
        """Return when the newest pod is ready and registered with kubelet."""
        status = ("rollout", "status", f"daemonset/{DAEMONSET}", "-n", NAMESPACE)
        self._cluster.kubectl(*status, f"--timeout={timeout_s:g}s", timeout_s=timeout_s + 10)
        wait_for(self._is_registered, "the plugin's registration")

    def _is_registered(self) -> bool:
        drivers = self._cluster.list("csinodes")[0]["spec"].get("drivers") or []
        return DRIVER in {driver["name"] for driver in drivers}

    def pod(self) -> str:
        """Return the name of its pod."""
        pods = self._cluster.list("pods", NAMESPACE, f"app={DAEMONSET}")
        alive = [p for p in pods if not p["metadata"].get("deletionTimestamp")]
        return str(alive[0]["metadata"]["name"])

    def execute(self, *command: str) -> str:
        """Run a command in its container, as ``csi-fluid status``."""
        return str(self._cluster.execute(self.pod(), *command, namespace=NAMESPACE))

    def log(self) -> str:
        """Return its log."""
        return self._cluster.kubectl("logs", self.pod(), "-n", NAMESPACE)
