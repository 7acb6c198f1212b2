"""A serverless pod without Kubernetes: FUSE sidecar, agent and application as containers.

Each has mount, PID and UTS namespaces and a root of its own; they share the directory of the mount
point on the host, as the pod that Fluid's webhook makes does: the sidecar and the agent have it
Bidirectional, the application has the mount point itself with HostToContainer.
"""

import contextlib
import enum
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import csi_fluid
from csi_fluid.testbed.errors import BedError
from csi_fluid.testbed.pods import PYTHON, Container, Image, Propagation, VolumeMount
from csi_fluid.testbed.waiting import PACE, until
from recover.errors import Covered
from recover.linux import mountinfo, mounts
from recover.linux.probe import Prober

PARENT = "/jfs"
LEAF = "jindofs-fuse"
MOUNT_POINT = f"{PARENT}/{LEAF}"
_PACKAGE = Path(csi_fluid.__file__).parents[1]

# $1 is the mount point, the rest bindfs's options; mkdir fails where a dead mount stands.
_DEVICE = "[ -e /dev/fuse ] || mknod /dev/fuse c 10 229\n"
_CLIENT = _DEVICE + 'mkdir -p "$1" 2>/dev/null; {} exec bindfs -f "$2" /source "$1"'
_STACKING = (
    _DEVICE
    + """\
aside=$(mktemp -d)
bindfs -f "$2" /source "$aside" &
until mountpoint -q "$aside"; do :; done
mkdir -p "$1" 2>/dev/null
mount --bind "$aside" "$1"
umount -l "$aside"
wait
"""
)


class Client(enum.Enum):
    """What the restarted FUSE client does about a dead mount at its mount point; all real bindfs.

    libfuse refuses it; most images unmount it first; clients that do not look mount on top of it.
    """

    REFUSES = _CLIENT.format("")
    UNMOUNTS = _CLIENT.format('umount -l "$1" 2>/dev/null;')
    STACKS = _STACKING


class Sidecar:
    """The FUSE daemon as the first process of a container; `start` again is kubelet's restart.

    parent is the host's directory of the mount point, source the folder that is shown.
    """

    def __init__(
        self,
        image: Image,
        parent: Path,
        source: Path,
        client: Client = Client.REFUSES,
        *,
        read_only: bool = True,
    ) -> None:
        self.parent = parent
        self.source = source
        self.client = client
        self._image = image
        self._option = "-r" if read_only else "-ofsname=demo"
        self._prober = Prober(timeout_s=PACE * 2.0)
        self._container: Container | None = None

    @property
    def host_path(self) -> Path:
        """Return the mount point as the host sees it."""
        return self.parent / LEAF

    @property
    def container(self) -> Container:
        """Return the running container, or the last one."""
        assert self._container is not None, "never started"
        return self._container

    def start(self, timeout_s: float = 20.0) -> float:
        """Start the container, again where it ends as kubelet would, until its mount answers.

        It may be beneath another pod's, who share the path.  Returns the monotonic time in s of
        that answer.
        """
        self.parent.mkdir(parents=True, exist_ok=True)
        path = str(self.host_path)

        def answers(before: list[str]) -> bool:
            if self._container is None or not self._container.alive:
                self._run()
            reply = self._prober.ask(path)
            stack = [mount.dev for mount in mountinfo.read().stack(path)]
            # The number of a lower one that has gone may be the next one's.
            before[:-1] = [dev for dev in before[:-1] if dev in stack]
            return reply.alive and stack[-1:] == [reply.dev] and not {*stack} <= {*before}

        with _superblocks(path) as before:
            until(
                lambda: answers(before),
                f"the FUSE sidecar to mount at {path}",
                timeout_s=timeout_s,
                every_s=0.001,
            )
        return time.monotonic()

    def _run(self) -> None:
        if self._container is not None:
            self._container.close()
        volumes = [
            VolumeMount(self.parent, PARENT, Propagation.BIDIRECTIONAL),
            VolumeMount(self.source, "/source", Propagation.NONE),
        ]
        command = ["sh", "-c", self.client.value, "sh", MOUNT_POINT, self._option]
        self._container = Container(self._image, "fluid-fuse-0", volumes, command).ready()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send the first process a signal; after one that ends it, wait until it is gone."""
        os.kill(self.container.pid, number)
        if number in {signal.SIGSTOP, signal.SIGCONT}:
            return
        self.await_end()

    def await_end(self) -> None:
        """Wait until the container has ended."""
        until(lambda: not self.container.alive, "the FUSE sidecar to end")
        self.container.close()

    def close(self) -> None:
        """End the container; a dead mount may stay on the host, as in a real pod."""
        if self._container is not None:
            self._container.close()


@contextlib.contextmanager
def _superblocks(path: str) -> Iterator[list[str]]:
    """Yield which superblocks are mounted at a path; the last, topmost, keeps its number meanwhile.

    That of a dead one which is unmounted would else be given to the next one at once.
    """
    while stack := mountinfo.read().stack(path):
        try:
            pin = mounts.pin(path, stack[-1])
        except (Covered, OSError):  # an agent took it away just now
            continue
        with pin:
            yield [mount.dev for mount in stack]
        return
    yield []


class Agent:
    """`csi-fluid agent` in a container beside the sidecars of one pod; `start` again restarts it.

    parents are the hosts' directories of the mount points, the first at /jfs, others at /jfs1, ...
    pod is the host name; without a uid the agent is one of a pod that an old webhook made.
    """

    def __init__(
        self,
        image: Image,
        parents: Sequence[Path],
        *,
        pod: str = "demo-app",
        uid: str = "",
        options: Sequence[str] = (),
        suffix: str = "",
    ) -> None:
        self.said: list[str] = []
        self.propagation = Propagation.BIDIRECTIONAL
        self._image = image
        self._pod = pod
        self._uid = uid
        self._options = options
        self._places = {parent: f"{PARENT}{n or ''}" for n, parent in enumerate(parents)}
        self._suffix = suffix
        self._container: Container | None = None
        self._follower = threading.Thread(target=self._follow)

    @property
    def container(self) -> Container:
        """Return the running container, or the last one."""
        assert self._container is not None, "never started"
        return self._container

    def command(self, *more: str) -> list[str]:
        """Return the command line in the container."""
        mounts = [
            f"--mount={inside}/{LEAF}={parent}/{LEAF}{self._suffix}"
            for parent, inside in self._places.items()
        ]
        environment = ["PYTHONPATH=/app", "PYTHONDONTWRITEBYTECODE=1", f"POD_UID={self._uid}"]
        return [
            "env",
            *environment,
            PYTHON,
            "-m",
            "csi_fluid",
            "agent",
            *mounts,
            *self._options,
            *more,
        ]

    def start(self) -> None:
        """Start the container and return when the agent guards; raises BedError if it ends."""
        for parent in self._places:
            parent.mkdir(parents=True, exist_ok=True)
        volumes = [
            VolumeMount(parent, inside, self.propagation) for parent, inside in self._places.items()
        ]
        volumes.append(VolumeMount(_PACKAGE, "/app", Propagation.NONE))
        told = len(self.said)
        container = Container(self._image, self._pod, volumes, self.command()).ready()
        self._container = container
        self._follower = threading.Thread(target=self._follow, args=[container], daemon=True)
        self._follower.start()
        until(
            lambda: self._guards_since(told) or not container.alive,
            f"the agent to begin: {self.said}",
        )
        if not self._guards_since(told):
            raise BedError(f"the agent has ended: {self.said}")

    def _guards_since(self, told: int) -> bool:
        return any("guarding" in line for line in self.said[told:])

    def _follow(self, container: Container) -> None:
        for line in container.lines():
            self.said.append(line)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send the agent a signal and wait for the end of its container."""
        os.kill(self.container.pid, number)
        until(lambda: not self.container.alive, f"the agent to end: {self.said[-5:]}", timeout_s=30)
        self._follower.join(5)
        self.container.close()

    def close(self) -> None:
        """Kill the agent; its anchors stay on the host."""
        if self._container is None:
            return
        if self._container.alive:
            self.end(signal.SIGKILL)
        self._container.close()
