"""The story with seamless recovery: the same pod reads through three crashes and sees no error."""

import signal
import threading
from collections import Counter
from pathlib import Path

from csi_fluid.demo import steadfast, watchers
from csi_fluid.demo.options import WORKSPACE, Options
from csi_fluid.demo.screen import Screen, duration, show
from csi_fluid.demo.watchers import Listing
from csi_fluid.rpc.client import Volume
from csi_fluid.testbed.daemons import Daemon
from csi_fluid.testbed.errors import BedError
from csi_fluid.testbed.filesystems import FILESYSTEMS
from csi_fluid.testbed.node import Node
from csi_fluid.testbed.plugin import Plugin
from csi_fluid.testbed.pods import PYTHON, Container, VolumeMount
from csi_fluid.testbed.waiting import pause, until
from recover.seamless.client import Client, Held

_GATES = "--feature-gates=FuseRecovery=true,SeamlessRecovery=true"
_FILE = "model.safetensors"
_SIZE = 8 << 20
_ABSENT_S = (1.0, 2.5, 4.0)
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL)
_PATIENCE_S = 20.0


class Steadfast:
    """Follows the reader that keeps a descriptor and a mapping: passes, errors, longest waits."""

    def __init__(self, container: Container) -> None:
        self.passes: Counter[str] = Counter()
        self.bad: list[str] = []
        self.longest_s: dict[str, float] = {}
        self.ended = False
        self._container = container
        threading.Thread(target=self._follow, name="steadfast", daemon=True).start()

    def _follow(self) -> None:
        for line in self._container.lines():
            _, way, took_ns, how = line.split()
            self.passes[way] += 1
            self.longest_s[way] = max(self.longest_s.get(way, 0.0), int(took_ns) / 1e9)
            if how != "ok":
                self.bad.append(f"{way}: {how}")
        self.ended = True

    def await_passes(self) -> None:
        """Wait until each way was tried again, whole; raises TimeoutError."""
        before = self.passes.copy()

        def is_done() -> bool:
            return self.ended or all(self.passes[way] > before[way] + 1 for way in _WAYS)

        until(is_done, "the pod to read on", timeout_s=_PATIENCE_S)


_WAYS = {
    "name": "opened and read, over and over",
    "descriptor": "one descriptor from before the first crash",
    "mapping": "one mapping from before the first crash",
}


def tell(options: Options) -> int:
    """Tell the story and return the exit code: 0 only if no reader saw an error."""

    def story(screen: Screen) -> bool:
        node = Node(WORKSPACE)
        return _Story(options.daemon, screen, node, Plugin(node, options=(_GATES,))).run()

    return show(options.svg, story, f"{options.daemon}: ")


class _Story:
    def __init__(self, daemon: str, screen: Screen, node: Node, plugin: Plugin) -> None:
        self._name = daemon
        self._screen = screen
        self._node = node
        self._plugin = plugin
        self._client = Client(node.state.with_name("holder") / "socket", starts=False)

    def run(self) -> bool:
        self._screen.title(f"csi-fluid demo: {self._name} dies three times, and the pod reads on")
        daemon = self._serve()
        main, side = self._pod(self._publish(daemon))
        until(lambda: main.listed >= 2 and side.passes["mapping"], "the pod's first reads")
        until(lambda: self._held(daemon).has_root, "the plugin to keep the connection")
        try:
            for absent_s, number in zip(_ABSENT_S, _SIGNALS, strict=True):
                self._crash(daemon, absent_s, number)
                side.await_passes()
        except TimeoutError as error:
            raise BedError(f"{error}\nthe plugin's last words:\n{self._plugin.words}") from error
        return self._add_up(daemon, main, side)

    def _serve(self) -> Daemon:
        with self._screen.step(f"the FUSE daemon {self._name} mounts the data, read-only"):
            filesystem = FILESYSTEMS[self._name](self._node.folder("data"))
            filesystem.put(_FILE, bytes(range(256)) * (_SIZE // 256))
            daemon = Daemon(filesystem, self._node.source("demo"), self._node.folder("daemon"))
            daemon.start()
        return daemon

    def _publish(self, daemon: Daemon) -> Path:
        with self._screen.step(f"csi-fluid start {_GATES} is ready"):
            self._plugin.start()
        volume = Volume("default-demo", daemon.mount_point, daemon.filesystem.fs_type)
        target = self._node.target("demo-app", volume.volume_id)
        with self._screen.step("NodePublishVolume over gRPC, ReadOnlyMany"):
            self._plugin.client.publish(volume, target)
        return target

    def _pod(self, target: Path) -> tuple[Listing, Steadfast]:
        mounts = [VolumeMount(target, "/data")]
        text = Path(steadfast.__file__).read_text(encoding="utf-8")
        command = (PYTHON, "-SEc", text, f"/data/{_FILE}")
        with self._screen.step("a pod with two containers has the volume at /data"):
            image = self._node.image
            main = Container(image, "main", mounts, watchers.LISTING).ready()
            side = Container(image, "side", mounts, command).ready()
        self._screen.event(f"the pod runs: {watchers.LISTING[-1]}", style="bold cyan")
        return Listing(main, self._screen.pod), Steadfast(side)

    def _crash(self, daemon: Daemon, absent_s: float, number: signal.Signals) -> None:
        text = f"kill -{number} {daemon.pid}: {self._name} is dead, and who reads waits"
        self._screen.event(text, style="bold red")
        daemon.kill(number)
        pause(absent_s)
        daemon.restart()
        until(lambda: self._is_served(daemon), "the old mounts to be served")
        text = f"{self._name} was restarted after {duration(absent_s)}: the pod reads on"
        self._screen.event(text, style="bold green")

    def _held(self, daemon: Daemon) -> Held:
        return self._client.status().of(str(daemon.mount_point))

    def _is_served(self, daemon: Daemon) -> bool:
        held = self._held(daemon)
        return held.serving and held.waits_s is None

    def _add_up(self, daemon: Daemon, main: Listing, side: Steadfast) -> bool:
        held = self._held(daemon)
        rows = {
            f"by {way}": (f"{side.passes[way]} x", f"{what}; checksum right each time")
            for way, what in _WAYS.items()
        }
        longest_s = max(side.longest_s.values())
        errors = [*side.bad, *(["SIGBUS"] if side.ended else [])]
        rows |= {
            "longest wait": (duration(longest_s), f"the daemon was away {duration(_ABSENT_S[-1])}"),
            "served": (f"{held.counts['served']:.0f}", "requests to dead daemons, answered"),
            "errors in the pod": (str(main.failed + len(errors)), "in all three crashes together"),
        }
        self._screen.table("Three crashes", rows)
        self._client.close()
        if main.failed or errors:
            self._screen.end(f"the pod saw errors: {errors[:5]}", good=False)
            return False
        self._screen.end("the pod waited, and saw no error", good=True)
        return True
