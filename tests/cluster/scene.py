"""A dataset in use: its FUSE daemon and the pods that read it, with what can happen to them."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from tests.cluster.cluster import Cluster, Object
from tests.cluster.fluid import Fluid, application
from tests.cluster.fluidobjects import Spec
from tests.cluster.settings import NODE_NAME
from tests.cluster.waiting import wait_for


class Scene:
    """One dataset whose root holds the file ``hello``, and ``sub/deep``."""

    def __init__(self, cluster: Cluster, fluid: Fluid, spec: Spec) -> None:
        self.cluster = cluster
        self.fluid = fluid
        self.spec = spec

    # ---- Applications

    def start(self, name: str = "app", **options: Any) -> None:
        """Start an application and return when it reads; options as for ``create``."""
        self.create(name, **options)
        self.cluster.wait_ready(name, self.spec.namespace)
        assert self.reads(name)

    def create(self, name: str, **options: Any) -> None:
        """Start an application and do not wait for it.

        options: see fluid.application.
        """
        self.cluster.apply(
            application(name, self.spec.name, **options), namespace=self.spec.namespace
        )

    def delete(self, name: str) -> None:
        """Ask for the end of an application; ``gone`` tells when that has come."""
        self.cluster.kubectl("delete", "pod", name, "-n", self.spec.namespace, "--wait=false")

    def gone(self, name: str) -> bool:
        """Say whether the API server no longer knows an application."""
        return name not in {p["metadata"]["name"] for p in self.pods()}

    def pods(self) -> list[Object]:
        """Return the pods of the namespace."""
        return self.cluster.list("pods", self.spec.namespace)

    def uid(self, name: str) -> str:
        """Return the uid of a pod."""
        return str(self.cluster.get("pod", name, self.spec.namespace)["metadata"]["uid"])

    def restarts(self, name: str) -> int:
        """Return how often the container of an application was restarted."""
        status = self.cluster.container_status(name, "main", self.spec.namespace)
        return int(status["restartCount"])

    def reads(self, name: str = "app") -> bool:
        """Say whether an application sees its data: the file of the root, or of its subPath."""
        return "of " in self._in(name, "cat /data/hello /data/deep 2>/dev/null")

    def generation(self, name: str = "app") -> str:
        """Return what tells one life of the daemon from the next, as an application sees it.

        A device number is taken again only when nothing shows the old file system any more. Empty
        when the daemon is dead.
        """
        return self._in(name, "stat -c %d /data 2>/dev/null")

    def layers(self, name: str = "app") -> tuple[int, int]:
        """Return how many mounts lie on top of one another in the container, and at the target.

        What is mounted on a `subPath` bind, a peer of the target, the kernel lays into the target
        too, out of sight below its topmost mount: that is no layer.
        """
        inside = self._in(name, "grep -c ' /data ' /proc/self/mountinfo")
        target = self.target(name)
        return int(inside), sum(line.split()[4] == target for line in self.cluster.mounts(target))

    def is_flat(self, *names: str) -> bool:
        """Say whether no more than a dead mount and the live one stand anywhere."""
        return all(count in {1, 2} for name in names for count in self.layers(name))

    def target(self, name: str = "app") -> str:
        """Return where kubelet had the volume published for an application."""
        volumes = f"{self.folder(self.uid(name))}/volumes/kubernetes.io~csi"
        return f"{volumes}/{self.spec.identity}/mount"

    def folder(self, uid: str) -> str:
        """Return kubelet's directory of a pod."""
        return f"/var/lib/kubelet/pods/{uid}"

    def _in(self, name: str, script: str) -> str:
        command = (name, "sh", "-c", script)
        return str(
            self.cluster.execute(*command, namespace=self.spec.namespace, check=False, timeout_s=20)
        ).strip()

    # ---- The daemon

    @property
    def daemon_pod(self) -> str:
        """Return the name of the FUSE pod that is not about to end."""
        return self.fluid.fuse_pod(self.spec)

    def crash(self) -> None:
        """Kill the daemon with its container; kubelet will start it again."""
        pod, container = self.daemon_pod, self.fluid.fuse_container(self.spec)
        self.cluster.kill_container(pod, container, namespace=self.spec.namespace)

    def crash_and_heal(self, *names: str, timeout_s: float = 60) -> None:
        """Kill the daemon and return when the applications read from the next one."""
        before = {name: self.generation(name) for name in names}
        assert all(before.values())
        self.crash()
        for name in names:
            self.await_heal(name, before[name], timeout_s)

    def await_heal(self, name: str = "app", before: str = "", timeout_s: float = 60) -> None:
        """Return when an application reads from another generation than the given one."""
        wait_for(
            lambda: self.generation(name) not in ("", before) and self.reads(name),
            f"the heal of {name}",
            timeout_s,
        )

    def daemon_restarts(self) -> int:
        """Return how often the daemon's container was restarted and runs again."""
        container = self.fluid.fuse_container(self.spec)
        status = self.cluster.container_status(self.daemon_pod, container, self.spec.namespace)
        return int(status["restartCount"]) if "running" in status["state"] else 0

    def take_down(self) -> None:
        """End the daemon's pod for now, as when its node label goes; return when it is dead.

        Its mount stays, dead.
        """
        self._label("-")
        pods = (self.spec.namespace, f"release={self.spec.name}")
        wait_for(lambda: not self.cluster.list("pods", *pods), "the end of the FUSE pod", 60)

    def bring_back(self) -> None:
        """Let the daemon run again; return when its pod is there."""
        self._label("=true")
        self.cluster.wait_ready(self.daemon_pod, self.spec.namespace)

    def _label(self, end: str) -> None:
        self.cluster.kubectl(
            "label", "node", NODE_NAME, "--overwrite", f"{self.spec.fuse_label}{end}"
        )

    @contextlib.contextmanager
    def hung(self) -> Iterator[None]:
        """Stop the daemon: it is there and answers nothing."""
        pid = self._daemon_pid()
        self.cluster.enter("kill", f"-{signal.SIGSTOP.value}", pid)
        try:
            yield
        finally:
            self.cluster.enter("kill", f"-{signal.SIGCONT.value}", pid, check=False)

    def _daemon_pid(self) -> str:
        """Return the process id on the node of the daemon, a child of its container's first."""
        pod, container = self.daemon_pod, self.fluid.fuse_container(self.spec)
        first = self.cluster.kill_container(
            pod, container, signal.SIGCONT, namespace=self.spec.namespace
        )
        found = self.cluster.enter("ps", "-o", "pid=,comm=", "--ppid", str(first)).split()
        return found[found.index("bindfs") - 1]

    # ---- What was told

    def told(self, reason: str, kind: str = "Dataset") -> list[str]:
        """Return the messages of the plugin's events of a reason about a kind of object."""
        return [
            str(event["message"])
            for event in self.cluster.list("events", self.spec.namespace)
            if event["reason"] == reason and event["involvedObject"]["kind"] == kind
        ]
