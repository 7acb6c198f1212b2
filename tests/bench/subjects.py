"""What is measured: a plugin that takes Fluid's flags, or the bare system calls."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from csi_fluid._pb import csi_pb2
from csi_fluid.rpc.client import Client, Volume
from csi_fluid.testbed import programs
from csi_fluid.testbed.waiting import pause
from tests.bench import processes, wire
from tests.bench.machine import Machine, make_room

# The box has a PID namespace of its own, in which it sees all processes that there are; "auto"
# cannot know that they are all.
OURS = shlex.join([sys.executable, "-m", "csi_fluid", "start", "--strategy=namespace"])
OURS_ALONE = f"{OURS} --strategy=auto"  # the last one counts
_ALONE = ("unshare", "--mount", "--propagation", "unchanged", "--pid", "--fork", "--mount-proc")
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Spec:
    """A subject's name in the report and how it is started; "" for the bare system calls.

    alone is the command where it does not see the host's processes, "" for the same one.
    """

    name: str
    command: str
    alone: str = ""


class Subject(Protocol):
    """Publishes and heals."""

    pid: int

    def start(self) -> dict[str, float]:
        """Begin; return how long what took, in ms."""

    def publish(self, volume: Volume, target: Path) -> float:
        """Publish; return the ms that it took."""

    def unpublish(self, volume: Volume, target: Path) -> float:
        """Unpublish; return the ms that it took."""

    def heal(self, source: Path, containers: list[int]) -> None:
        """Heal once the source is back, these by a visit; a plugin does so unasked."""

    def healed(self) -> dict[str, list[float]]:
        """Return what the subject itself says about the last heal, as samples."""


class Plugin:
    """A plugin in the room that a DaemonSet's container has."""

    def __init__(self, spec: Spec, machine: Machine, *, host_pid: bool) -> None:
        self.pid = 0
        self.holds = False  # with SeamlessRecovery
        self._machine = machine
        self._name = spec.name
        self._room: list[str] = []
        self._host_pid = host_pid
        self._command = [
            *(() if host_pid else _ALONE),
            *shlex.split(spec.command if host_pid else spec.alone or spec.command),
            "--nodeid=node1",
            f"--endpoint=unix://{machine.socket}",
            "--metrics-addr=0",
        ]
        self._environ = {
            **os.environ,
            "MOUNT_ROOT": str(machine.mount_root),
            "KUBELET_ROOTDIR": str(machine.kubelet),
            "NODE_ID": "node1",
        }
        self._log = machine.folder("plugin") / "log"
        self._client: Client | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> dict[str, float]:
        self._room = self._room or make_room(self._machine)
        self._machine.socket.unlink(missing_ok=True)
        gates = "FuseRecovery=true" + (",SeamlessRecovery=true" if self.holds else "")
        began = time.monotonic()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._room, *self._command, f"--feature-gates={gates}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
            )
        self._await_socket(began + _START_TIMEOUT_S)
        self.pid = self._process.pid if self._host_pid else processes.children(self._process.pid)[0]
        self._client = Client(self._machine.socket)
        reply = self._client.identity.Probe(csi_pb2.ProbeRequest(), timeout=_START_TIMEOUT_S)
        answered = time.monotonic()
        while reply.HasField("ready") and not reply.ready.value:
            pause(0.001)
            reply = self._client.identity.Probe(csi_pb2.ProbeRequest(), timeout=_START_TIMEOUT_S)
        ready = time.monotonic()
        return {"answered": (answered - began) * 1e3, "ready": (ready - began) * 1e3}

    def _await_socket(self, end: float) -> None:
        # Not by gRPC: a channel that was refused once waits a second before it tries again.
        while time.monotonic() < end:
            if self._process is not None and self._process.poll() is not None:
                break
            with socket.socket(socket.AF_UNIX) as attempt:
                try:
                    attempt.connect(str(self._machine.socket))
                except OSError:
                    pause(0.001)
                else:
                    return
        raise RuntimeError(f"{self._name} did not start: {programs.last_words(self._log)}")

    @property
    def client(self) -> Client:
        assert self._client is not None, "not started"
        return self._client

    def publish(self, volume: Volume, target: Path) -> float:
        began = time.monotonic()
        self.client.publish(volume, target)
        return (time.monotonic() - began) * 1e3

    def unpublish(self, volume: Volume, target: Path) -> float:
        began = time.monotonic()
        self.client.unpublish(volume, target)
        return (time.monotonic() - began) * 1e3

    def probe(self) -> float:
        """Return the ms of a call that does nothing: what gRPC and this client cost."""
        began = time.monotonic()
        self.client.identity.Probe(csi_pb2.ProbeRequest(), timeout=5)
        return (time.monotonic() - began) * 1e3

    def heal(self, source: Path, containers: list[int]) -> None:
        """Nothing: a plugin heals unasked."""

    def healed(self) -> dict[str, list[float]]:
        return {}

    def stop(self) -> float:
        assert self._process is not None, "not started"
        began = time.monotonic()
        self.client.close()
        os.kill(self.pid, signal.SIGTERM)
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        return (time.monotonic() - began) * 1e3


class Bare:
    """The system calls of a publish, an unpublish and a heal, and nothing else (bare.py)."""

    def __init__(self) -> None:
        self.pid = 0
        self._servant: wire.Servant | None = None

    def start(self) -> dict[str, float]:
        self._servant = wire.Servant("tests.bench.bare")
        self.pid = self._servant.pid
        return {}

    @property
    def _calls(self) -> wire.Servant:
        assert self._servant is not None, "not started"
        return self._servant

    def _ms(self) -> float:
        return float(self._calls.hear()["ms"])

    def publish(self, volume: Volume, target: Path) -> float:
        self._calls.tell(do="publish", source=str(volume.source), target=str(target))
        return self._ms()

    def unpublish(self, volume: Volume, target: Path) -> float:
        self._calls.tell(do="unpublish", target=str(target))
        return self._ms()

    def heal(self, source: Path, containers: list[int]) -> None:
        self._calls.tell(do="heal", source=str(source), containers=containers)

    def healed(self) -> dict[str, list[float]]:
        return {"calls": [self._ms()]}


def make(spec: Spec, machine: Machine, *, host_pid: bool) -> Plugin | Bare:
    """Return the subject that a spec describes; host_pid: it sees the processes of the machine."""
    return Plugin(spec, machine, host_pid=host_pid) if spec.command else Bare()
