"""The story in order: set up, publish, list, kill, restart, list again, add up."""

from pathlib import Path

from csi_fluid.demo import watchers
from csi_fluid.demo.options import WORKSPACE, Options
from csi_fluid.demo.screen import Screen, show
from csi_fluid.demo.witness import FILES, LATER, LATER_DATA, Witness
from csi_fluid.rpc.client import Volume
from csi_fluid.testbed.daemons import Daemon
from csi_fluid.testbed.errors import BedError
from csi_fluid.testbed.filesystems import FILESYSTEMS, Bindfs
from csi_fluid.testbed.node import Node
from csi_fluid.testbed.plugin import Plugin
from csi_fluid.testbed.pods import Propagation, VolumeMount
from csi_fluid.testbed.waiting import pause, until
from recover.rows import Heal
from recover.store import Store

_BUCKET = "a bucket on a local S3 server (moto)"
_BACK_OFF_S = 2.5  # until "kubelet" restarts the daemon


def tell(options: Options, *plugin_options: str) -> int:
    """Tell the story and return the exit code: 0 only if the pod listed again after the crash."""

    def story(screen: Screen) -> bool:
        node = Node(WORKSPACE)
        _Story(options.daemon, screen, node, Plugin(node, options=plugin_options)).run()
        return True

    return show(options.svg, story, f"{options.daemon}: ")


class _Story:
    def __init__(self, daemon: str, screen: Screen, node: Node, plugin: Plugin) -> None:
        self._name = daemon
        self._screen = screen
        self._node = node
        self._plugin = plugin

    def run(self) -> None:
        self._screen.title(f"csi-fluid demo: {self._name} serves a volume to a pod, and dies")
        daemon = self._serve()
        pod = self._witness(self._publish(daemon))
        pod.await_first_listings()
        self._crash(daemon)
        heal = self._await_heal(daemon, pod)
        self._add_up(daemon, pod, heal)

    def _serve(self) -> Daemon:
        make = FILESYSTEMS[self._name]
        data = "a folder" if make is Bindfs else _BUCKET
        with self._screen.step(f"{data} holds the data of the dataset"):
            filesystem = make(self._node.folder("data"))
            for name, content in FILES.items():
                filesystem.put(name, content)
        daemon = Daemon(filesystem, self._node.source("demo"), self._node.folder("daemon"))
        with self._screen.step(f"the FUSE daemon {self._name} mounts it, read-only"):
            daemon.start()
        return daemon

    def _publish(self, daemon: Daemon) -> Path:
        with self._screen.step("csi-fluid start --feature-gates=FuseRecovery=true is ready"):
            self._plugin.start()
        volume = Volume("default-demo", daemon.mount_point, daemon.filesystem.fs_type)
        target = self._node.target("demo-app", volume.volume_id)
        with self._screen.step("NodePublishVolume over gRPC, ReadOnlyMany"):
            self._plugin.client.publish(volume, target)
        return target

    def _witness(self, target: Path) -> Witness:
        slave = [VolumeMount(target, "/data")]
        private = [VolumeMount(target, "/data", Propagation.NONE)]
        with self._screen.step("a pod with two containers has the volume at /data"):
            pod = Witness(self._node.image, slave, private, self._screen)
        self._screen.event(f"the pod runs: {watchers.LISTING[-1]}", style="bold cyan")
        return pod

    def _crash(self, daemon: Daemon) -> None:
        self._screen.event(f"kill -9 {daemon.pid}: {self._name} is dead", style="bold red")
        daemon.kill()
        daemon.filesystem.put(LATER, LATER_DATA)
        pause(_BACK_OFF_S)
        daemon.restart()
        text = f"{self._name} was restarted, as kubelet does: its new mount answers"
        self._screen.event(text, style="bold yellow")

    def _await_heal(self, daemon: Daemon, pod: Witness) -> Heal:
        try:
            pod.await_reading()
            heal = until(lambda: self._recorded(daemon), "the plugin's record", every_s=0.05)
            pod.await_later()
        except TimeoutError as error:
            raise BedError(f"{error}\nthe plugin's last words:\n{self._plugin.words}") from error
        self._screen.event(
            f"csi-fluid healed the volume: the pod lists again, {LATER} too", style="bold green"
        )
        pod.await_listing()
        return heal

    def _recorded(self, daemon: Daemon) -> Heal | None:
        heals = Store.read(self._node.state).heals(str(daemon.mount_point), limit=1)
        return heals[0] if heals and heals[0].ok else None

    def _add_up(self, daemon: Daemon, pod: Witness, heal: Heal) -> None:
        rows = pod.rows(self._name, daemon.answered_at, heal.latency_s)
        rows |= {
            "mounts healed": (
                f"{heal.healed} of {heal.copies}",
                "kubelet's target and both containers",
            ),
            "layers at /data": (str(pod.layers), "at most two, after any number of crashes"),
            "strategy": (heal.strategy, "each container's mount namespace is entered"),
        }
        self._screen.table("One crash", rows)
        self._screen.end("the volume healed under the running pod", good=True)
