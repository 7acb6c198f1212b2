"""The plugin as a process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from csi_fluid.rpc.client import Client
from csi_fluid.testbed import programs
from csi_fluid.testbed.errors import BedError
from csi_fluid.testbed.node import Node
from csi_fluid.testbed.waiting import PACE, pause

COMMAND = (sys.executable, "-m", "csi_fluid", "start")
_START_TIMEOUT_S = PACE * 20.0
_STOP_TIMEOUT_S = PACE * 6.0  # the plugin promises to end 5 s after SIGTERM


class Plugin:
    """One life of the plugin on a node; `start` may be called again after `stop` or `kill`."""

    def __init__(
        self,
        node: Node,
        *,
        strategy: str = "namespace",
        options: Sequence[str] = (),
        command: Sequence[str] = COMMAND,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare a plugin; command and options allow another one that takes Fluid's flags."""
        self.client = Client(node.socket)
        self.log = node.folder("plugin") / "log"
        self._command = [
            *command,
            "--nodeid=node1",
            f"--endpoint=unix://{node.socket}",
            "--feature-gates=FuseRecovery=true",
            "--metrics-addr=0",
            *(_own_options(node, strategy) if strategy else ()),
            *options,
        ]
        self._environ = {
            **(programs.environment(node.root) if environ is None else environ),
            "MOUNT_ROOT": str(node.mount_root),
            "KUBELET_ROOTDIR": str(node.kubelet),
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Return the process id of the running plugin, or of the last one."""
        assert self._process is not None, "never started"
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Return whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def words(self) -> str:
        """Return the end of the log."""
        return programs.last_words(self.log)

    def start(self) -> None:
        """Start and return when Probe says ready; raises BedError with the plugin's last words."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
                start_new_session=True,
            )
        end = time.monotonic() + _START_TIMEOUT_S
        while not self.client.ready():
            if not self.alive:
                raise BedError(f"the plugin ended with {self._process.returncode}: {self.words}")
            if time.monotonic() > end:
                raise BedError(f"the plugin was not ready in time: {self.words}")
            pause(0.02)

    def stop(self) -> int:
        """Ask the plugin to end, as kubelet does, and return its exit status."""
        assert self._process is not None, "never started"
        os.killpg(self._process.pid, signal.SIGTERM)  # also through an unshare before it
        return self._process.wait(_STOP_TIMEOUT_S)

    def kill(self) -> None:
        """End the plugin at once, wherever it is."""
        if self._process is not None:
            programs.stop(self._process)

    def close(self) -> None:
        """End the plugin and close the client."""
        self.kill()
        self.client.close()


def _own_options(node: Node, strategy: str) -> tuple[str, ...]:
    """Return what Fluid's plugin would not take; a cluster that is here has no part in it."""
    return f"--strategy={strategy}", f"--state={node.state}", "--kube=none"
