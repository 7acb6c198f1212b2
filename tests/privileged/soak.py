"""A node on which everything happens at random, from a seed: pods, crashes, ends of the plugin."""

import contextlib
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import grpc

from csi_fluid.testbed.pods import PAUSE
from recover.linux import mountinfo
from tests.harness import Dataset, Node, Pod, Propagation, pause, until
from tests.harness.node import Container
from tests.privileged.watching import GONE, Watch

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
    container: Container
    data: Dataset
    target: Path

    def is_whole(self) -> bool:
        sees = self.container.sees
        return sees.names("/data") == NAMES and sees.names("/part") == PART


class Soak:
    """The node and who lives on it; each step is drawn from the seed."""

    def __init__(self, node: Node, seed: int, pods: int) -> None:
        self.chance = random.Random(seed)
        self.node = node
        self.datasets = [node.dataset(f"data-{n}", files=FILES, read_only=False) for n in range(4)]
        self.plugin = node.plugin(options=["--probe-timeout=1s"])
        self.residents: list[Resident] = []
        self.steps = self.crashes = 0
        self._most = pods
        while len(self.residents) < pods:
            self.arrive()

    def step(self, *, restarts: bool) -> None:
        """Let one thing happen, and see that everybody has his data after it."""
        self.steps += 1
        acts: list[Callable[[], None]] = [self.crash] * 6 + [self.crash_together, self.hang]
        acts += [self.arrive] * 4 + [self.publish_again]
        acts += [self.restart] if restarts else []
        self.chance.choice(acts)()
        until(self._is_whole, f"all whole after step {self.steps}", timeout_s=_HEAL_S)

    def _is_whole(self) -> bool:
        return all(resident.is_whole() for resident in self.residents)

    def crash(self) -> None:
        self._crash(self.chance.choice(self.datasets))

    def crash_together(self) -> None:
        for data in self.datasets:
            data.daemon.kill(self.chance.choice(WAYS_TO_DIE))
        for data in self.datasets:
            data.daemon.restart(stack=self.chance.random() < 0.3)
        self.crashes += len(self.datasets)

    def _crash(self, data: Dataset) -> None:
        data.daemon.kill(self.chance.choice(WAYS_TO_DIE))
        data.daemon.restart(self.chance.uniform(0, 0.1), stack=self.chance.random() < 0.3)
        self.crashes += 1

    def hang(self) -> None:
        data = self.chance.choice(self.datasets)
        data.daemon.kill(signal.SIGSTOP)
        pause(self.chance.uniform(0, 0.3))
        data.daemon.kill(signal.SIGCONT)

    def arrive(self) -> None:
        if len(self.residents) >= self._most:
            self.leave()
        pod, data = self.node.pod(), self.chance.choice(self.datasets)
        target = _published(pod, data)
        volumes = {"/data": target, "/part": pod.subpath(target, "sub")}
        kind = self.chance.choice([Propagation.NONE, Propagation.HOST_TO_CONTAINER])
        is_apart = kind is Propagation.HOST_TO_CONTAINER and self.chance.random() < 0.3
        container = pod.container("main", volumes, kind, OWN_USERS if is_apart else PAUSE)
        self.residents.append(Resident(pod, container, data, target))

    def leave(self) -> None:
        """Let one of the oldest go, for whose sake anchors are kept since he came."""
        oldest = len(self.residents) // 4 + 1
        self.residents.pop(self.chance.randrange(oldest)).pod.close()

    def publish_again(self) -> None:
        some = self.chance.choice(self.residents)
        self.node.client.publish(replace(some.data.volume, read_only=True), some.target)

    def restart(self) -> None:
        """End the plugin while something heals, perhaps; the next one goes on."""
        data = self.chance.choice(self.datasets)
        data.daemon.kill()
        data.daemon.restart()
        pause(self.chance.uniform(0, 0.02))
        self.plugin.kill() if self.chance.random() < 0.7 else self.plugin.stop()
        self.plugin.start()
        self.crashes += 1

    def watch(self, ends: contextlib.ExitStack) -> list[tuple[Watch, set[str]]]:
        """Look at, and write to, some places at full speed; with what may be seen there."""
        data = self.datasets[0]
        pod = self.node.pod()
        ends.callback(pod.close)
        target = pod.publish(data, read_only=True)
        volumes = {"/data": target, "/part": pod.subpath(target, "sub")}
        made = [pod.container(k.name.lower(), volumes, k) for k in Propagation]
        own = pod.container("own", volumes, command=OWN_USERS)
        wanted = [
            (Watch(self.node.sees.pid, "look", target), {" ".join(sorted(NAMES))}),
            (Watch(made[0].pid, "look", "/data"), {" ".join(sorted(NAMES))}),
            (Watch(made[1].pid, "look", "/part"), PART),
            (Watch(made[1].pid, "write", "/data"), {"EROFS"}),
            (Watch(own.pid, "write", "/data"), {"EROFS"}),
        ]
        for watch, _ in wanted:
            ends.enter_context(watch)
        return wanted

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


def _published(pod: Pod, data: Dataset) -> Path:
    """Publish as kubelet does, which tries again: on a busy machine a daemon may be slow."""
    for _ in range(_TRIES):
        try:
            return pod.publish(data, read_only=True)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
    raise AssertionError(f"{data.volume.volume_id} cannot be published")


def surprises(watched: list[tuple[Watch, set[str]]]) -> list[set[str]]:
    """Return what was seen that must never be seen."""
    return [left for watch, may in watched if (left := watch.outcomes() - may - GONE)]
