"""See one mount point and its anchors: who answers, who is dead, which anchors are behind."""

import functools
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

from recover import anchor as anchors
from recover.anchor import Anchor, Place
from recover.errors import Error
from recover.linux import mounts, probe
from recover.linux.mountinfo import Mount
from recover.linux.owntable import OwnTable
from recover.linux.probe import Answer, Prober, Reply


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look showed; live is the answering FUSE mount at the mount point, if there is one.

    lower are the mounts beneath the topmost, the lowest first.
    """

    reply: Reply
    top: Mount | None
    lower: tuple[Mount, ...]
    anchors: tuple[Anchor, ...]
    answered_at: float

    @property
    def live(self) -> Mount | None:
        """Return the mount that answers at the mount point, if there is one."""
        if self.top is not None and self.reply.alive and self.reply.dev == self.top.dev:
            return self.top
        return None

    def behind(self, live: Mount) -> tuple[Anchor, ...]:
        """Return the anchors whose applications do not see the live mount."""
        beneath = {mount.shared for mount in self.lower} - {0}
        return tuple(
            a
            for a in self.anchors
            if a.top.dev != live.dev
            # to unmount there would unmount the live one, which stands on a peer
            and not any(mount.shared in beneath for mount in a.stack[:-1])
        )


class Eyes:
    """Looks at one mount point; used by one thread at a time.  Close it when done."""

    def __init__(self, place: Place, prober: Prober) -> None:
        self._place = place
        self._prober = prober
        self._own = OwnTable()
        self._pins: dict[str, int] = {}  # a descriptor by which a covered superblock can be asked

    @property
    def version(self) -> int:
        """Return a number that grows whenever something is mounted or unmounted in this container.

        Where it has not grown, one question to the daemon tells that all is as it was.
        """
        return self._own.version

    def answers(self, dev: str) -> bool:
        """Tell whether a superblock still answers at the mount point."""
        reply = self._prober.ask(self._place.mount_point)
        return reply.alive and reply.dev == dev

    def look(self) -> Sight:
        """Return what is true now."""
        reply = self._prober.ask(self._place.mount_point)
        answered_at = time.monotonic()
        table = self._own.current()
        stack = table.stack(self._place.mount_point)
        top = stack[-1] if stack and stack[-1].is_fuse else None
        found = anchors.find(table, self._place)
        return Sight(reply, top, stack[:-1], found, answered_at)

    def remember(self, mount: Mount) -> None:
        """Be able to ask the daemon of the topmost mount also when another one covers it."""
        if mount.dev not in self._pins:
            pin = functools.partial(mounts.pin, mount.mount_point, mount)
            key = "pin", mount.mount_point
            self._pins[mount.dev] = self._prober.run(key, pin, discard=os.close)

    def forget(self, keep: Iterable[Mount]) -> None:
        """Forget the daemons of all mounts but these."""
        for dev in self._pins.keys() - {mount.dev for mount in keep}:
            os.close(self._pins.pop(dev))

    def is_dead(self, mount: Mount) -> bool:
        """Ask the daemon of a covered mount; False too if it was never seen on top, or hangs."""
        fd = self._pins.get(mount.dev)
        if fd is None:
            return False
        try:
            reply = self._prober.run(("pin", mount.dev), lambda: probe.ask(fd))
        except Error:
            return False
        return reply.answer is Answer.DEAD

    def close(self) -> None:
        """Release what is held."""
        self.forget(())
        self._own.close()
