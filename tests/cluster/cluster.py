"""One Kubernetes with one node, as the tests see it."""

import dataclasses
import json
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import credentials, programs
from tests.cluster.node import Node
from tests.cluster.settings import BIN, NODE_NAME, KubeletSettings, Place
from tests.cluster.waiting import ClusterError, wait_for
from tests.images import clients

DEFAULT_NAME = "default"
CONTROL_PLANE = ("etcd", "apiserver", "controllers", "scheduler")
Object = dict[str, Any]


class Cluster:
    """A cluster by its name; several of different names run side by side."""

    def __init__(self, name: str = DEFAULT_NAME) -> None:
        self.name = name
        self.place = Place(name)
        self.node = Node(self.place)
        self.kubelet_settings = KubeletSettings()

    # ---- Up and down

    def up(self, settings: KubeletSettings | None = None) -> None:
        """Start it and return when the node is Ready; does nothing when it is up already."""
        if self.node.is_up:
            return
        self.node.down()
        self.kubelet_settings = settings or KubeletSettings()
        try:
            self._start()
        except ClusterError as error:
            said = "\n".join(self.last_words())
            self.down()
            raise ClusterError(f"{error}\n{said}") from error

    def down(self) -> None:
        """End it and remove everything of it."""
        self.node.down()

    def _start(self) -> None:
        self.place.secrets.parent.mkdir(parents=True)
        self.node.up()
        credentials.make(self.place, self.node.ip)
        self._configure_node()
        self.node.start("containerd", *programs.containerd())
        self.node.start("etcd", *programs.etcd(self.place))
        self.node.start("apiserver", *programs.apiserver(self.place, self.node.ip))
        wait_for(lambda: self._says("ctr", "version"), "containerd's socket")
        for archive in clients.archives(self.place.name):
            self.load_image(archive)
        self._await_api()
        self.node.start("controllers", *programs.controllers(self.place))
        self.node.start("scheduler", *programs.scheduler(self.place))
        self.start_kubelet()
        node = self.kubectl_command("get", "node", NODE_NAME)
        wait_for(lambda: self._says(*node), "the node's registration")
        self.kubectl("wait", f"node/{NODE_NAME}", "--for=condition=Ready", "--timeout=60s")
        self.await_service_account("default")

    def _configure_node(self) -> None:
        secrets = self.place.secrets
        self.write("/etc/cni/net.d/10-pods.conflist", programs.cni_config(self.node.pod_subnet))
        pem = (secrets / "kubelet-client.pem").read_text()
        self.write("/var/lib/kubelet/pki/kubelet-client-current.pem", pem, mode="0600")
        self.write("/etc/kubernetes/kubelet.conf", (secrets / "kubelet.conf").read_text())

    def _says(self, *command: str) -> bool:
        """Say whether a command on the node ends well."""
        try:
            self.node.enter(*command, timeout_s=10)
        except ClusterError:
            return False
        return True

    def last_words(self) -> list[str]:
        """Return the end of every log."""
        names = [path.stem for path in sorted(self.place.logs.glob("*.log"))]
        return [f"--- {n}\n{self.node.log(n)}" for n in names if n != "audit"]

    # ---- On the node

    def enter(self, *command: str | Path, **options: Any) -> str:
        """Run a command as root on the node and return its standard output; see Node.enter."""
        return self.node.enter(*command, **options)

    def write(self, path: str, text: str, mode: str = "0644") -> None:
        """Write a file on the node."""
        script = 'mkdir -p "$(dirname "$1")" && umask 077 && cat >"$1" && chmod "$2" "$1"'
        self.enter("sh", "-c", script, "sh", path, mode, input=text)

    def load_image(self, archive: Path) -> None:
        """Import an OCI archive; one of the same name takes the place of the one before."""
        self.enter("ctr", "-n", "k8s.io", "images", "import", archive, timeout_s=120)

    def mounts(self, below: str = "/") -> list[str]:
        """Return the lines of the node's mountinfo whose mount point is at or below a path."""
        lines = self.enter("cat", "/proc/1/mountinfo").splitlines()
        prefix = below.rstrip("/")
        return [line for line in lines if f"{line.split()[4]}/".startswith(f"{prefix}/")]

    def kill_container(
        self, pod: str, container: str, number: signal.Signals = signal.SIGKILL, *, namespace: str
    ) -> int:
        """Send a signal to the first process of a container; return its process id on the node."""
        status = self.container_status(pod, container, namespace)
        identity = status["containerID"].removeprefix("containerd://")
        for line in self.enter("ctr", "-n", "k8s.io", "tasks", "ls").splitlines():
            fields = line.split()
            if fields[0] == identity:
                self.enter("kill", f"-{number.value}", fields[1])
                return int(fields[1])
        raise ClusterError(f"container {container} of pod {namespace}/{pod} has no process")

    # ---- The API

    def kubectl_command(self, *arguments: str) -> tuple[str, ...]:
        """Return the command, on the node, of kubectl as cluster administrator."""
        return (str(BIN / "kubectl"), f"--kubeconfig={self.place.secrets}/admin.conf", *arguments)

    def kubectl(self, *arguments: str, **options: Any) -> str:
        """Run kubectl as cluster administrator and return its output; options as for enter."""
        return self.enter(*self.kubectl_command(*arguments), **options)

    def apply(self, *objects: Object | str, namespace: str | None = None) -> None:
        """Apply objects, or texts of YAML with objects."""
        texts = [o if isinstance(o, str) else yaml.safe_dump(o) for o in objects]
        where = () if namespace is None else (f"--namespace={namespace}",)
        self.kubectl("apply", "-f", "-", *where, input="\n---\n".join(texts))

    def get(self, kind: str, name: str, namespace: str = "") -> Object:
        """Return one object."""
        where = (f"--namespace={namespace}",) if namespace else ()
        found: Object = json.loads(self.kubectl("get", kind, name, "-ojson", *where))
        return found

    def list(self, kind: str, namespace: str = "", selector: str = "") -> list[Object]:
        """Return the objects of a kind, in one namespace or in all."""
        where = (f"--namespace={namespace}",) if namespace else ("--all-namespaces",)
        chosen = (f"--selector={selector}",) if selector else ()
        answer = json.loads(self.kubectl("get", kind, "-ojson", *where, *chosen))
        return [dict(item) for item in answer["items"]]

    def await_service_account(self, namespace: str) -> None:
        """Return when pods can be made in a new namespace."""
        account = self.kubectl_command("get", "serviceaccount", "default", "-n", namespace)
        wait_for(lambda: self._says(*account), "the default ServiceAccount")

    def delete_namespace(self, namespace: str) -> None:
        """Delete a namespace and return when every pod in it is gone; the rest goes by itself."""
        owners = "daemonsets,deployments,jobs,pods"
        self.kubectl("delete", owners, "--all", "-n", namespace, "--timeout=60s", timeout_s=70)
        wait_for(lambda: not self.list("pods", namespace), "the end of the pods", 60)
        self.kubectl("delete", "namespace", namespace, "--wait=false")

    def container_status(self, pod: str, container: str, namespace: str) -> Object:
        """Return what the API server knows of a container, init containers too."""
        status = self.get("pod", pod, namespace)["status"]
        listed = status.get("containerStatuses", []) + status.get("initContainerStatuses", [])
        for entry in listed:
            if entry["name"] == container:
                return dict(entry)
        raise ClusterError(f"pod {namespace}/{pod} has no container {container} yet")

    def wait_ready(self, pod: str, namespace: str, timeout_s: float = 60) -> None:
        """Return when a pod is Ready; ClusterError tells its description when it is not in time."""
        try:
            self._wait(pod, namespace, timeout_s)
        except ClusterError as error:
            described = self.kubectl("describe", "pod", pod, "-n", namespace, check=False)
            raise ClusterError(f"{error}\n{described}") from error

    def _wait(self, pod: str, namespace: str, timeout_s: float) -> None:
        condition = ("--for=condition=Ready", f"--timeout={timeout_s:g}s")
        where = ("-n", namespace)
        wait_for(lambda: self._says(*self.kubectl_command("get", "pod", pod, *where)), f"pod {pod}")
        self.kubectl("wait", f"pod/{pod}", *condition, *where, timeout_s=timeout_s + 10)

    def execute(self, pod: str, *command: str, namespace: str, container: str = "", **options: Any):
        """Run a command in a pod and return its standard output."""
        which = ("-c", container) if container else ()
        return self.kubectl("exec", pod, "-n", namespace, *which, "--", *command, **options)

    def audit_entries(self) -> Iterator[Object]:
        """Return what the API server was asked, oldest first: verb, user, objectRef and so on."""
        with (self.place.logs / "audit.log").open(encoding="utf-8") as lines:
            yield from (json.loads(line) for line in lines if line.endswith("\n"))

    # ---- Faults

    def start_kubelet(self) -> None:
        """Start the kubelet with the settings of ``kubelet_settings``."""
        config = programs.kubelet_config(self.place, self.kubelet_settings)
        (self.place.folder / "kubelet.yaml").write_text(config)
        self.node.start("kubelet", *programs.kubelet(self.place, self.node.ip))

    def stop_kubelet(self) -> None:
        """End the kubelet; containers go on."""
        self.node.signal("kubelet", signal.SIGKILL)

    def restart_kubelet(self, **changes: Any) -> None:
        """Restart the kubelet, with other settings if given; return when it answers.

        changes: fields of KubeletSettings, as ``max_restart_period=None``.
        """
        self.stop_kubelet()
        self.kubelet_settings = dataclasses.replace(self.kubelet_settings, **changes)
        self.start_kubelet()
        wait_for(self._kubelet_knows_its_pods, "the kubelet's return")

    def _kubelet_knows_its_pods(self) -> bool:
        raw = f"--raw=/api/v1/nodes/{NODE_NAME}/proxy/pods"
        text = self.kubectl("get", raw, check=False, timeout_s=10)
        try:
            known = json.loads(text)["items"] or []
        except ValueError:
            return False
        ids = {pod["metadata"]["uid"] for pod in known}
        return ids >= {pod["metadata"]["uid"] for pod in self.list("pods")}

    def stop_apiserver(self) -> None:
        """Kill the API server; etcd goes on."""
        self.node.signal("apiserver", signal.SIGKILL)

    def start_apiserver(self) -> None:
        """Start the API server again and return when it is ready."""
        self.node.start("apiserver", *programs.apiserver(self.place, self.node.ip))
        self._await_api()

    def freeze_apiserver(self) -> None:
        """Make the API server answer nothing; connections to it stay open."""
        self.node.signal("apiserver", signal.SIGSTOP)

    def thaw_apiserver(self) -> None:
        """Let a frozen API server go on."""
        self.node.signal("apiserver", signal.SIGCONT)
        self._await_api()

    def _await_api(self) -> None:
        ready = self.kubectl_command("get", "--raw=/readyz", "--request-timeout=3s")
        wait_for(lambda: self._says(*ready), "the API server", 60)


def scratch() -> Path:
    """Return a new folder for files of a test that the node is to see too."""
    return Path(tempfile.mkdtemp(prefix="csi-cluster-"))
