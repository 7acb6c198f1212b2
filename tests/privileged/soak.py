"""A node on which everything happens at random, from a seed: pods, crashes, ends of the plugin."""

import contextlib
import functools
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc

from csi_fluid.testbed import programs
from csi_fluid.testbed.errors import BedError
from csi_fluid.testbed.pods import PAUSE
from recover.linux import fuse, mountinfo
from tests.harness import Dataset, Node, Pod, Propagation, idmap, pause, until
from tests.harness.node import Container
from tests.harness.wirefuse import WireFuse
from tests.privileged.patrol import CANARY, GONE, Patrol
from tests.privileged.watching import Watch

FILES = {"a.txt": b"1", "sub/b.txt": b"1"}
NAMES, PART = {"a.txt", "sub"}, {"b.txt"}
WAYS_TO_DIE = (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGINT)
OWN_USERS = (
    "unshare",
    "--user",
    "--map-root-user",
    "--mount",
    "--propagation",
    "unchanged",
    *PAUSE,
)
OTHER_ROOT = 100_000  # of id-mapped places
_HEAL_S = 20.0
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Cost:
    """What the plugin has of the machine."""

    descriptors: int
    threads: int
    mib: float

    @classmethod
    def of(cls, pid: int) -> "Cost":
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in status)
        descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        return cls(descriptors, int(fields["Threads"]), int(fields["VmRSS"].split()[0]) / 1024)


@dataclass(slots=True)
class Resident:
    """A pod with one container that has a volume and a part of it."""

    pod: Pod
    data: Dataset
    target: Path
    start: Callable[[], Container]
    container: Container

    def is_whole(self) -> bool:
        sees = self.container.sees
        return sees.names("/data") == NAMES and sees.names("/part") == PART


class Soak:
    """The node and who lives on it; each step is drawn from the seed."""

    def __init__(self, node: Node, seed: int, pods: int) -> None:
        self.chance = random.Random(seed)
        self.node = node
        self.datasets = [node.dataset(f"data-{n}", files=FILES, read_only=False) for n in range(4)]
        self.mapped = node.dataset("mapped", WireFuse)
        self.plugin = node.plugin(options=["--probe-timeout=1s"])
        self.residents: list[Resident] = []
        self.steps = self.crashes = 0
        self._most = pods
        self._patrol: Patrol | None = None
        self._newest: Resident | None = None  # whose container started last, under patrol
        self.rounds = 0  # of all patrols
        self._ways: list[Callable[[Dataset], None]] = [self._abort, self._unmount, self._stop]
        self._ways += [functools.partial(self._signal, each) for each in WAYS_TO_DIE]
        while len(self.residents) < pods:
            self.arrive()

    def step(self, *, restarts: bool) -> None:
        """Let one thing happen, and see that everybody has his data after it."""
        self.steps += 1
        acts: list[Callable[[], None]] = [self.crash] * 6 + [self.crash_together, self.hang]
        acts += [self.arrive] * 3 + [self.start_again] * 2 + [self.publish_again, self.flicker]
        acts += [self.restart] if restarts else []
        self.chance.choice(acts)()
        until(self._is_whole, f"all whole after step {self.steps}", timeout_s=_HEAL_S)

    def _is_whole(self) -> bool:
        return all(resident.is_whole() for resident in self.residents)

    # -- crashes -----------------------------------------------------------------------------------

    def crash(self) -> None:
        watched = [self.datasets[0]] * 3
        data = self.chance.choice([*watched, *self.datasets, self.mapped])
        self._end(data)
        self._begin(data)

    def crash_together(self) -> None:
        for data in self.datasets:
            self._end(data)
        for data in self.datasets:
            self._begin(data)

    def _end(self, data: Dataset) -> None:
        """Let a daemon die in some way."""
        self.chance.choice(self._ways)(data)
        self.crashes += 1

    def _begin(self, data: Dataset) -> None:
        data.daemon.restart(self.chance.uniform(0, 0.1), stack=self.chance.random() < 0.3)

    def _signal(self, number: signal.Signals, data: Dataset) -> None:
        data.daemon.kill(number)

    def _abort(self, data: Dataset) -> None:
        """End the connection; the daemon, which is told, may end before it is killed."""
        fuse.abort(self.node.sees.layers(data.volume.source)[-1].dev)
        self._kill_soon(data)

    def _unmount(self, data: Dataset) -> None:
        """Take the source away while all copies live, then their daemon."""
        programs.run("umount", "-l", data.volume.source)
        self._kill_soon(data)

    def _stop(self, data: Dataset) -> None:
        data.daemon.kill(signal.SIGSTOP)
        self._kill_soon(data)

    def _kill_soon(self, data: Dataset) -> None:
        pause(self.chance.uniform(0, 0.05))
        data.daemon.kill()

    def hang(self) -> None:
        data = self.chance.choice(self.datasets)
        data.daemon.kill(signal.SIGSTOP)
        pause(self.chance.uniform(0, 0.3))
        data.daemon.kill(signal.SIGCONT)

    def restart(self) -> None:
        """End the plugin while something heals, perhaps; the next one goes on."""
        data = self.chance.choice(self.datasets)
        self._end(data)
        self._begin(data)
        pause(self.chance.uniform(0, 0.02))
        self.plugin.kill() if self.chance.random() < 0.7 else self.plugin.stop()
        self.plugin.start()

    # -- pods --------------------------------------------------------------------------------------

    def arrive(self) -> None:
        if len(self.residents) >= self._most:
            self.leave()
        pod, data = self.node.pod(), self.chance.choice(self.datasets)
        target = _published(pod, data)
        volumes = {"/data": target, "/part": pod.subpath(target, "sub")}
        kind = self.chance.choice([Propagation.NONE, Propagation.HOST_TO_CONTAINER])
        is_apart = kind is Propagation.HOST_TO_CONTAINER and self.chance.random() < 0.3
        command = OWN_USERS if is_apart else PAUSE
        start = functools.partial(pod.container, "main", volumes, kind, command)
        self.residents.append(Resident(pod, data, target, start, _started(start)))
        self._patrol_newest(self.residents[-1])

    def leave(self) -> None:
        """Let one of the oldest go, for whose sake anchors are kept since he came."""
        oldest = len(self.residents) // 4 + 1
        gone = self.residents.pop(self.chance.randrange(oldest))
        self._leave_alone(gone)
        gone.pod.close()

    def start_again(self) -> None:
        """Start a container anew, perhaps from a mount that is dead just then."""
        some, is_away = self.chance.choice(self.residents), self.chance.random() < 0.5
        if is_away:
            self._end(some.data)
        self._leave_alone(some)
        some.container.close()
        some.container = _started(some.start)
        if is_away:
            self._begin(some.data)
        until(some.is_whole, "the container that was started anew is whole", timeout_s=_HEAL_S)
        self._patrol_newest(some)

    def publish_again(self) -> None:
        some = self.chance.choice(self.residents)
        self.node.client.publish(replace(some.data.volume, read_only=True), some.target)

    def flicker(self) -> None:
        """Publish, unpublish and publish again, perhaps while the daemon is away."""
        pod, data = self.node.pod(), self.chance.choice(self.datasets)
        is_away = self.chance.random() < 0.5
        target = _published(pod, data)
        if is_away:
            self._end(data)
        self.node.client.unpublish(data.volume, target)
        if is_away:
            self._begin(data)
        _published(pod, data)
        pod.close()

    # -- watching ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def watched(self) -> Iterator[Callable[[], list[object]]]:
        """Look at some places at full speed; give what tells what was seen that must not be.

        They are whole when it begins, and are to stay as they are but for errors of the dead.
        """
        with contextlib.ExitStack() as ends:
            pod, data = self.node.pod(), self.datasets[0]
            ends.callback(pod.close)
            target = _published(pod, data)
            ends.enter_context(self._canary(target))
            volumes = {"/data": target, "/part": pod.subpath(target, "sub")}
            made = {k.name.lower(): pod.container(k.name.lower(), volumes, k) for k in Propagation}
            made["own users"] = own = pod.container("own", volumes, command=OWN_USERS)
            until(lambda: _runs(own, PAUSE[0]), "its user namespace")
            self._patrol = patrol = ends.enter_context(Patrol())
            ends.callback(self._end_patrol)
            seen = [patrol.add("host", self.node.sees.pid, target, self.node.machine.kubelet)]
            seen += [self._patrolled(name, made[name], path) for name in made for path in volumes]
            assert all("EROFS" in outcomes for outcomes in seen), seen
            self._patrol_mapped(pod)
            wanted = [  # nothing else is done there, so that moments are met
                (Watch(made["none"].pid, "look", "/part"), PART | GONE),
                (Watch(made["none"].pid, "look", "/data"), {" ".join(sorted(NAMES))} | GONE),
                (Watch(own.pid, "remount", "/data", users=True), {"EPERM"}),
            ]
            for watch, _ in wanted:
                ends.enter_context(watch)
            yield lambda: [
                *patrol.surprises().items(),
                *(left for watch, may in wanted if (left := watch.outcomes() - may)),
            ]

    def _end_patrol(self) -> None:
        assert self._patrol is not None
        self.rounds += self._patrol.rounds
        self._patrol = self._newest = None

    def _patrolled(self, name: str, container: Container, path: str) -> set[str]:
        assert self._patrol is not None
        image = self.node.machine.image.folder
        (image / path[1:] / CANARY).touch()
        return self._patrol.add(f"{name} {path}", container.pid, path, image)

    def _patrol_mapped(self, pod: Pod) -> None:
        """Show a volume with other owners: what heals must show no others."""
        if not idmap.is_there_for_fuse():
            return
        place = self.node.machine.folder("runtime")
        idmap.bind(_published(pod, self.mapped), place, OTHER_ROOT)
        mapped = pod.container("mapped", {"/mapped": place})
        programs.run("umount", "-l", place)
        seen = self._patrolled("mapped", mapped, "/mapped")
        assert any(f" of {OTHER_ROOT}:" in outcome for outcome in seen), seen
        # what a mount from outside would harm is made private when it is dead
        seen |= {outcome.removesuffix(" master") for outcome in seen}

    def _patrol_newest(self, resident: Resident) -> None:
        """Look at what started last, in the place of what did before."""
        if self._newest is not None:
            self._leave_alone(self._newest)
        if self._patrol is not None:
            self._patrolled(f"started in step {self.steps}", resident.container, "/data")
            self._newest = resident

    def _leave_alone(self, resident: Resident) -> None:
        """Look no more at a container that ends."""
        if self._patrol is not None and resident is self._newest:
            self._patrol.remove_last()
            self._newest = None

    @contextlib.contextmanager
    def _canary(self, target: Path) -> Iterator[None]:
        """Have a file beneath a mount for a block."""
        kubelet, place = self.node.machine.kubelet, self.node.machine.folder("beneath")
        programs.run("mount", "--bind", "--make-private", kubelet, place)
        canary = place / target.relative_to(kubelet) / CANARY
        canary.touch()
        try:
            yield
        finally:
            canary.unlink()
            programs.run("umount", place)

    def layers(self) -> int:
        """Return the most mounts that stand at one place of anybody."""
        return max(
            len(resident.container.sees.layers(path))
            for resident in self.residents
            for path in ("/data", "/part")
        )

    def anchors(self) -> list[str]:
        return [m.mount_point for m in mountinfo.read() if "/.csi-fluid/" in m.mount_point]

    def end(self) -> None:
        """Let all leave."""
        while self.residents:
            self.residents.pop().pod.close()


def _started(start: Callable[[], Container], tries: int = 3) -> Container:
    """Start a container; again, as kubelet does, if its mount was replaced while it was bound."""
    for _ in range(tries - 1):
        with contextlib.suppress(BedError):
            return start()
    return start()


def _published(pod: Pod, data: Dataset) -> Path:
    """Publish as kubelet does, which tries again: on a busy machine a daemon may be slow."""
    for _ in range(_TRIES):
        try:
            return pod.publish(data, read_only=True)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
    raise AssertionError(f"{data.volume.volume_id} cannot be published")


def _runs(container: Container, name: str) -> bool:
    return Path(f"/proc/{container.pid}/comm").read_text() == f"{name}\n"
