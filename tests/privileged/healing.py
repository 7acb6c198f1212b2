"""The plugin's inside in the test's own process: real publish and unpublish, real recovery.

What the tests of healing share.  No gRPC and no second process, so that a test sees every event,
may inject faults, and costs little.
"""

import contextlib
import dataclasses
import errno
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from csi_fluid.kubelet import Kubelet
from csi_fluid.mountroot import MountRoot
from csi_fluid.volumes import publish, readiness, targets, unpublish
from recover import events, loop
from recover.layout import Layout
from recover.linux import facilities
from recover.linux.mountinfo import Mount
from recover.linux.probe import Prober
from recover.linux.wakeups import WakeUps
from recover.locks import Locks
from recover.parts import Parts
from recover.policy import HoldSettings
from recover.rows import Publication
from recover.store import Store
from tests.harness import Dataset, Node, Pod, View, until

E = TypeVar("E")

# The tick is out of reach: a test that passes was woken up by an event.
NEVER_S = 600.0

# Nothing but a tick tells that a daemon ended on a kernel without pidfd_open.
PERIOD_S = NEVER_S if facilities.has("pidfd_open") else 0.1


class Ear:
    """Keeps what recovery tells."""

    def __init__(self) -> None:
        self.events: list[events.Event] = []

    def tell(self, event: events.Event) -> None:
        """Keep an event."""
        self.events.append(event)

    def of(self, kind: type[E]) -> list[E]:
        """Return the events of a kind, oldest first."""
        return [event for event in list(self.events) if isinstance(event, kind)]


class Trap(Locks):
    """Locks that let a test act just before a heal takes the lock of a target."""

    def __init__(self) -> None:
        super().__init__()
        self.spring: Callable[[], object] | None = None
        self.key = ""  # of the lock alone before which it springs

    @contextlib.contextmanager
    def hold(self, key: str, *, wait_s: float = 0.0) -> Iterator[None]:
        """Hold a lock, once something was done before."""
        if self.spring is not None and self.key in {"", key}:
            spring, self.spring = self.spring, None
            spring()
        with super().hold(key, wait_s=wait_s):
            yield


class Healing:
    """Publishes volumes and heals them; the state file is the node's."""

    def __init__(
        self,
        node: Node,
        *,
        strategy: str = "namespace",
        probe_timeout_s: float = 3.0,
        prober: Prober | None = None,
        period_s: float = PERIOD_S,
        recover_writable: bool = False,
        warning_threshold: int = 50,
        hung_abort_after_s: float | None = None,
        hold_s: float | None = None,
        locks: Locks | None = None,
        wake_ups: Callable[[], WakeUps] = WakeUps,
    ) -> None:
        self.ear = Ear()
        self.strategy = strategy
        self.prober = prober or Prober(timeout_s=probe_timeout_s)
        self.store = Store.open(node.machine.state)
        self.parts = Parts.of(self.store, self.prober, node.machine.kubelet / "plugin", locks)
        self._settings = loop.Settings(
            layout=Layout(
                Kubelet(str(node.machine.kubelet)), MountRoot(str(node.machine.mount_root))
            ),
            period_s=period_s,
            strategy=strategy,
            recover_writable=recover_writable,
            warning_threshold=warning_threshold,
            hung_abort_after_s=hung_abort_after_s,
            holds=None
            if hold_s is None
            else HoldSettings(node.machine.folder("hold") / "s", hold_s),
        )
        self._node = node
        self._claims = targets.Claims()
        self._sources = readiness.Sources(self.prober)
        self._wake_ups = wake_ups
        self.recovery: loop.Recovery | None = None

    def start(self) -> "Healing":
        """Begin to heal, and return when the state is reconciled."""
        self.recovery = loop.Recovery(self.parts, self.ear, self._settings, wake_ups=self._wake_ups)
        self.recovery.start()
        assert self.recovery.reconciled.wait(10)
        return self

    def stop(self) -> float:
        """Stop healing and return how many seconds that took."""
        assert self.recovery is not None
        began = time.monotonic()
        assert self.recovery.stop(4.0), "recovery did not stop in time"
        self.recovery = None
        return time.monotonic() - began

    def close(self) -> None:
        """Stop, and close the state file."""
        if self.recovery is not None:
            self.stop()
        self.store.close()

    def publication(self, pod: Pod, data: Dataset, **changes: object) -> Publication:
        """Return the publication of a dataset for a pod; changes are its fields."""
        volume = data.volume
        row = Publication(
            target="",
            volume_id=volume.volume_id,
            source=str(volume.source),
            mount_type=volume.mount_type,
            read_only=volume.read_only,
            runtime_name=volume.source.parts[-2],
            runtime_namespace=volume.source.parts[-3],
        )
        row = dataclasses.replace(row, **changes)  # type: ignore[arg-type]
        target = row.target or str(pod.target(row.volume_id))
        return dataclasses.replace(row, target=target)

    def publish(self, pod: Pod, data: Dataset, **changes: object) -> Path:
        """Publish a dataset for a pod as NodePublishVolume does and return the target."""
        row = self.publication(pod, data, **changes)
        self.put(row)
        pod._ends.callback(self.unpublish, row.target)
        return Path(row.target)

    def put(self, row: Publication, timeout_s: float = 20.0) -> None:
        """Make a publication true."""
        pods = targets.Pods(str(self._node.machine.kubelet))
        publisher = publish.Publisher(self.parts, self._sources, self._claims, self._changed, pods)
        publisher.publish(row, readiness.Patience(time.monotonic() + timeout_s))

    def unpublish(self, target: Path | str) -> None:
        """Unpublish a target as NodeUnpublishVolume does."""
        unpublish.Unpublisher(self.parts, self._claims, self._changed).unpublish(str(target))

    def _changed(self, source: str) -> None:
        if self.recovery is not None:
            self.recovery.changed(source)

    def crash(self, data: Dataset, *, stack: bool = False, noticed: bool = False) -> events.Healed:
        """Kill a dataset's daemon, start it again, and return what was told of the heal.

        Noticed is a crash when recovery has prepared for the next daemon before that comes, as it
        has where a restart takes time.
        """
        before = len(self.heals(data))
        data.daemon.kill()
        if noticed:
            until(lambda: self._awaits(data), f"recovery to wait for {data.volume.source}")
        data.daemon.restart(stack=stack)
        return self.healed(data, before)

    def _awaits(self, data: Dataset) -> bool:
        assert self.recovery is not None
        worker = self.recovery._workers[str(data.volume.source)]
        return worker.healer.is_waiting and not worker.is_busy

    def heals(self, data: Dataset) -> list[events.Healed]:
        """Return what was told of the heals of a dataset."""
        return [e for e in self.ear.of(events.Healed) if e.source == str(data.volume.source)]

    def healed(self, data: Dataset, before: int = 0) -> events.Healed:
        """Wait until more than `before` heals of a dataset were told; return the newest."""
        until(lambda: len(self.heals(data)) > before, f"a heal, not only {self.ear.events}")
        return self.heals(data)[-1]

    def await_whole(self, data: Dataset, view: View, path: str | Path) -> None:
        """Wait until a path shows a dataset's present mount."""
        until(lambda: whole(self._node, view, path, data), f"{path} healed: {self.ear.events}")

    def await_looked(self, data: Dataset) -> None:
        """Wait until the present generation of a dataset is recorded."""
        self.await_known(str(data.volume.source))

    def await_known(self, source: str) -> None:
        """Wait until what is mounted at a source now is recorded as its present generation."""
        live = self._node.sees.layers(source)[-1].dev
        known = self.store.generations
        until(lambda: any(g.dev == live and not g.dead_at for g in known(source)), "a look")

    def await_ticks(self, number: int) -> None:
        """Wait for so many ticks to begin."""
        seen = self.ear.of(events.Woken).count(events.Woken("tick"))
        until(
            lambda: self.ear.of(events.Woken).count(events.Woken("tick")) >= seen + number, "ticks"
        )


@contextlib.contextmanager
def healing(node: Node, **options: object) -> Iterator[Healing]:
    """Publish and heal for a block."""
    made = Healing(node, **options)  # type: ignore[arg-type]
    try:
        yield made.start()
    finally:
        made.close()


def shown(view: View, path: str | Path) -> Mount:
    """Return what a path shows; fail unless it answers, and covers one dead mount at the most."""
    layers = view.layers(path)
    assert 1 <= len(layers) <= 2, layers
    assert view.error(path) in {0, errno.ENOTDIR}
    return layers[-1]


def only_layer(view: View, path: str | Path) -> Mount:
    """Return the mount at a path; fail unless it is the only layer there, and it answers."""
    assert len(view.layers(path)) == 1, view.layers(path)
    return shown(view, path)


def whole(node: Node, view: View, path: str | Path, data: Dataset) -> bool:
    """Tell whether a path shows a dataset's present mount, over one dead mount at the most."""
    layers, source = view.layers(path), node.sees.layers(data.volume.source)
    return 1 <= len(layers) <= 2 and layers[-1].dev == source[-1].dev
