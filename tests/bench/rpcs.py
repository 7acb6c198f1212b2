"""How long publish, the same publish again, and unpublish take, as kubelet sees it."""

from collections.abc import Callable

from tests.bench.machine import Fuse, Machine
from tests.bench.subjects import Plugin, Subject


class Rpcs:
    """Calls one after another, beside so many publications and so many other mounts."""

    def __init__(
        self,
        machine: Machine,
        subject: Subject,
        say: Callable[[str], None],
        *,
        publications: int,
        mounts: int = 0,
    ) -> None:
        self._machine = machine
        self._subject = subject
        self._next = 0
        say(f"{mounts} other mounts")
        machine.crowd(mounts)
        self._volume = Fuse(machine).serve()
        subject.start()
        for number in range(1, publications + 1):
            subject.publish(self._volume, machine.target(f"standing-{number:06}", "default-demo"))
            say(f"{number} of {publications} published")

    def round(self, *, calls: int) -> dict[str, list[float]]:
        """Return the ms of so many calls of each kind."""
        subject, volume = self._subject, self._volume
        found: dict[str, list[float]] = {"publish": [], "republish": [], "unpublish": []}
        for _ in range(calls):
            self._next += 1
            target = self._machine.target(f"pod-{self._next:06}", "default-demo")
            found["publish"].append(subject.publish(volume, target))
            if isinstance(subject, Plugin):
                found["republish"].append(subject.publish(volume, target))
            found["unpublish"].append(subject.unpublish(volume, target))
        if isinstance(subject, Plugin):
            found["probe"] = [subject.probe() for _ in range(calls)]
        return found
