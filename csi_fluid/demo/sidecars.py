"""The story of a serverless pod: its FUSE sidecar is killed, and the agent beside it heals."""

import re
import subprocess
import uuid

from csi_fluid.demo import watchers
from csi_fluid.demo.options import WORKSPACE, Options
from csi_fluid.demo.screen import Screen, show
from csi_fluid.demo.witness import FILES, LATER, LATER_DATA, Witness
from csi_fluid.testbed.errors import BedError
from csi_fluid.testbed.node import Node
from csi_fluid.testbed.pods import VolumeMount
from csi_fluid.testbed.serverless import MOUNT_POINT, Agent, Sidecar
from csi_fluid.testbed.waiting import pause, until

_BACK_OFF_S = 2.0  # until "kubelet" restarts the sidecar
_LATENCY = re.compile(r" healed .*latency_ms=([\d.]+)")


def tell(options: Options, *, read_only: bool = True) -> int:
    """Tell the story and return the exit code: 0 only if the pod listed again after the crash.

    A mount that is not read-only is left alone by the agent, so the story then ends badly.
    """

    def story(screen: Screen) -> bool:
        _Story(screen, Node(WORKSPACE), read_only=read_only).run()
        return True

    return show(options.svg, story)


class _Story:
    def __init__(self, screen: Screen, node: Node, *, read_only: bool) -> None:
        self._screen = screen
        self._node = node
        parent = node.mount_root / "jindo" / "default" / "demo"
        self._sidecar = Sidecar(node.image, parent, node.folder("data"), read_only=read_only)
        self._agent = Agent(node.image, [parent], uid=str(uuid.uuid4()))

    def run(self) -> None:
        self._screen.title("csi-fluid demo: a serverless pod, whose FUSE sidecar dies")
        self._begin()
        app = self._application()
        app.await_first_listings()
        mounted_at = self._crash()
        self._await_heal(app)
        self._add_up(app, mounted_at)

    def _begin(self) -> None:
        for name, content in FILES.items():
            (self._sidecar.source / name).write_bytes(content)
        with self._screen.step(f"container fluid-fuse-0: bindfs mounts {MOUNT_POINT}, read-only"):
            self._sidecar.start()
        with self._screen.step(f"container agent: csi-fluid agent --mount={MOUNT_POINT}=..."):
            self._agent.start()

    def _application(self) -> Witness:
        volumes = [VolumeMount(self._sidecar.host_path, "/data")]
        with self._screen.step("the application has the mount at /data, HostToContainer"):
            app = Witness(self._node.image, volumes, volumes, self._screen)
        self._screen.event(f"the application runs: {watchers.LISTING[-1]}", style="bold cyan")
        return app

    def _crash(self) -> float:
        """Do what `kubectl exec -c fluid-fuse-0 -- kill 1` does; return when it serves again."""
        self._screen.event("kill 1 in fluid-fuse-0: the FUSE daemon ends", style="bold red")
        enter = ["nsenter", f"--target={self._sidecar.container.pid}", "--all"]
        # Where the daemon ends quickly, the kernel ends this command with its PID namespace.
        subprocess.run([*enter, "kill", "1"], check=False, capture_output=True, timeout=10)
        self._sidecar.await_end()
        (self._sidecar.source / LATER).write_bytes(LATER_DATA)
        pause(_BACK_OFF_S)
        at = self._sidecar.start()
        text = "fluid-fuse-0 was restarted, as kubelet does: its new mount answers"
        self._screen.event(text, style="bold yellow")
        return at

    def _await_heal(self, app: Witness) -> None:
        try:
            app.await_reading()
            until(lambda: self._latency_s is not None, "the agent to tell of the heal")
            app.await_later()
        except TimeoutError as error:
            words = "\n".join(self._agent.said[-5:])
            raise BedError(f"{error}\nthe agent's last words:\n{words}") from error
        self._screen.event(
            f"the agent healed the mount: the application lists again, {LATER} too",
            style="bold green",
        )
        app.await_listing()

    @property
    def _latency_s(self) -> float | None:
        found = [match for line in self._agent.said if (match := _LATENCY.search(line))]
        return float(found[-1][1]) / 1000 if found else None

    def _add_up(self, app: Witness, mounted_at: float) -> None:
        assert self._latency_s is not None
        rows = app.rows("the sidecar", mounted_at, self._latency_s)
        rows |= {
            "layers at /data": (str(app.layers), "at most two, after any number of crashes"),
            "strategy": ("anchor", "the agent sees no process and no mount of the application"),
        }
        self._screen.table("One crash of a sidecar", rows)
        self._screen.end("the mount healed under the running application", good=True)
