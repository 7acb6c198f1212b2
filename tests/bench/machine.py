"""The machine inside a box: folders of a node, a FUSE daemon, pods, and a room for the plugin."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from csi_fluid.kubelet import Kubelet
from csi_fluid.rpc.client import Volume
from csi_fluid.testbed import node, pods, programs
from csi_fluid.testbed.filesystems import Bindfs
from csi_fluid.testbed.pods import Container, Image, Propagation, VolumeMount
from csi_fluid.testbed.waiting import until
from recover.linux import syscalls

_ROOM = Path(__file__).parent / "room.sh"
_AT_ONCE = 4
PLACE = "/data"  # where containers see their volume


class Machine(node.Node):
    """A node with Fluid's usual paths; disk is a folder on a real disk, for the state file."""

    def __init__(self, disk: Path) -> None:
        self.root = Path("/bench")
        self.kubelet = Path("/kubelet")
        self.mount_root = Path("/runtime-mnt")
        kubelet = Kubelet(str(self.kubelet))
        self.socket, plugin = kubelet.socket, kubelet.own
        for folder in (self.socket.parent, plugin, Path(kubelet.pods)):
            folder.mkdir(parents=True)
        programs.run("mount", "--bind", disk, plugin)  # where our plugin's state is by default
        self.image = Image(self.root / "image")

    def crowd(self, mounts: int) -> None:
        """Mount other things, each at a place of its own: what else a busy node has mounted."""
        crowd = self.root / "crowd"
        crowd.mkdir()
        programs.run("mount", "-t", "tmpfs", "--make-private", "crowd", crowd)
        for number in range(mounts):
            place = crowd / str(number)
            place.mkdir()
            flags = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC
            fd = syscalls.open_tree(syscalls.AT_FDCWD, str(place), flags)
            empty = syscalls.MOVE_MOUNT_F_EMPTY_PATH
            syscalls.move_mount(fd, "", syscalls.AT_FDCWD, str(place), empty)
            os.close(fd)


class Fuse:
    """A dataset served by bindfs, whose daemon dies and comes back as kubelet would have it."""

    def __init__(self, machine: Machine, name: str = "demo") -> None:
        self._files = Bindfs(machine.folder(f"data-{name}"))
        self._files.put("a.txt", b"one\n")
        self.source = machine.source(name)
        self.source.mkdir(parents=True)
        self.plain_dev = _dev(self.source)
        self.volume = Volume(f"default-{name}", self.source, self._files.fs_type)
        self._log = machine.folder("daemon") / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def put(self, name: str, data: bytes) -> None:
        """Put a file behind the mount."""
        self._files.put(name, data)

    def serve(self) -> Volume:
        """Start the daemon and return its volume when it answers."""
        self.start()
        self.wait()
        return self.volume

    def start(self) -> None:
        """Start the daemon and return at once."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._files.command(self.source),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait(self) -> None:
        """Return when the daemon answers."""
        until(lambda: _dev(self.source) != self.plain_dev, f"bindfs at {self.source}")

    def kill(self) -> None:
        """Kill the daemon; what it mounted is dead then, and stays."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Stop the daemon: it neither answers nor ends."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def unmount(self) -> None:
        """Unmount the dead mount, as libfuse daemons must before they can mount again."""
        syscalls.umount2(str(self.source), syscalls.MNT_DETACH)


def _dev(path: Path) -> str:
    found = path.stat().st_dev
    return f"{os.major(found)}:{os.minor(found)}"


def start_containers(
    machine: Machine, targets: list[Path], propagation: Propagation
) -> Iterator[Container]:
    """Start a container for each target, several at once, and yield them in order."""
    waiting: list[Container] = []
    for number, target in enumerate(targets):
        volumes = [VolumeMount(target, PLACE, propagation)]
        waiting.append(Container(machine.image, f"pod{number}", volumes, pods.PAUSE))
        if len(waiting) == _AT_ONCE:
            yield from (container.ready() for container in waiting)
            waiting.clear()
    yield from (container.ready() for container in waiting)


def make_room(machine: Machine) -> list[str]:
    """Make the mount namespace of the plugin's container; return the words that enter it."""
    room = Path("/room")
    programs.run("mount", "-t", "tmpfs", "-o", "mode=0755", "--make-private", "room", room)
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "unchanged", "sh", str(_ROOM), str(room)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = programs.first_line(holder, 10)
    assert said == b"ready\n", f"no room for the plugin: {said.decode()}"
    return ["nsenter", f"--mount=/proc/{holder.pid}/ns/mnt", f"--root=/proc/{holder.pid}/root"]
