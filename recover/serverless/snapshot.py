"""See one mount point and its anchors: who answers, who is dead, which anchors are behind."""

import functools
import time
from collections.abc import Iterable
from dataclasses import dataclass

from recover.anchors import anchor as anchors
from recover.anchors.anchor import Anchor
from recover.errors import Error
from recover.linux import mounts, probe
from recover.linux.mountinfo import Mount
from recover.linux.owntable import OwnTable
from recover.linux.probe import Answer, Prober, Reply
from recover.serverless.place import Place


@dataclass(frozen=True, slots=True)
class Snapshot:
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
        return self._top_that(Answer.ALIVE)

    @property
    def dead(self) -> Mount | None:
        """Return the topmost mount if its daemon is dead."""
        return self._top_that(Answer.DEAD)

    def _top_that(self, answer: Answer) -> Mount | None:
        """Return the topmost mount if the answer is its own: it may have come after the asking."""
        if self.top is None or (self.reply.answer, self.reply.dev) != (answer, self.top.dev):
            return None
        return self.top

    def holds(self, now: "Snapshot") -> bool:
        """Return whether all of this is so in a later one too; an anchor may have been added."""
        was, found = ((s.reply, s.top, s.lower) for s in (self, now))
        return was == found and set(self.anchors) <= set(now.anchors)

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


class Looker:
    """Looks at one mount point; used by one thread at a time.  Close it when done."""

    def __init__(self, place: Place, prober: Prober) -> None:
        self._place = place
        self._prober = prober
        self._own = OwnTable()
        self._pins: dict[str, mounts.Clone] = {}  # by which covered superblocks can be asked
        self._gone: set[str] = set()  # superblocks of anchors whose daemons are dead, for good

    @property
    def version(self) -> int:
        """Return a number that grows whenever something is mounted or unmounted in this container.

        Where it has not grown, one question to the daemon tells that all is as it was.
        """
        return self._own.version

    def answers(self, dev: str) -> bool:
        """Return whether a superblock still answers at the mount point."""
        reply = self._prober.ask(self._place.mount_point)
        return reply.alive and reply.dev == dev

    def living(self, snapshot: Snapshot) -> Anchor | None:
        """Return the newest anchor that shows nothing but its own generation, if that answers."""
        self._gone &= {anchor.base.dev for anchor in snapshot.anchors}
        for anchor in reversed(snapshot.anchors):
            if anchor.base.dev in self._gone:
                continue
            reply = self._prober.ask(anchor.path)
            if reply.answer is Answer.DEAD:
                self._gone.add(reply.dev)
            if reply.alive and reply.dev == anchor.base.dev and anchor.top is anchor.base:
                return anchor
        return None

    def look(self) -> Snapshot:
        """Return what is true now."""
        reply = self._prober.ask(self._place.mount_point)
        answered_at = time.monotonic()
        table = self._own.current()
        stack = table.stack(self._place.mount_point)
        top = stack[-1] if stack and stack[-1].is_fuse else None
        found = anchors.find(table, self._place.folder)
        return Snapshot(reply, top, stack[:-1], found, answered_at)

    def remember(self, mount: Mount) -> None:
        """Be able to ask the daemon of the topmost mount also when another one covers it."""
        if mount.dev not in self._pins:
            pin = functools.partial(mounts.pin, mount.mount_point, mount)
            key = "pin", mount.mount_point
            self._pins[mount.dev] = self._prober.run(key, pin, discard=mounts.Clone.close)

    def forget(self, keep: Iterable[Mount]) -> None:
        """Forget the daemons of all mounts but these."""
        for dev in self._pins.keys() - {mount.dev for mount in keep}:
            self._pins.pop(dev).close()

    def uncover(self, snapshot: Snapshot) -> None:
        """Be able to ask the daemons of the covered mounts also when they were never seen on top.

        So it is when a client mounted on its dead mount while no agent was there to clear that.
        """
        if snapshot.top is None or all(mount.dev in self._pins for mount in snapshot.lower):
            return
        pin_all = functools.partial(mounts.pin_all, (*snapshot.lower, snapshot.top))
        key = "uncover", snapshot.top.mount_point
        for dev, pin in self._prober.run(key, pin_all, discard=mounts.close_all).items():
            if dev in self._pins:
                pin.close()
            else:
                self._pins[dev] = pin

    def is_dead(self, mount: Mount) -> bool:
        """Ask the daemon of a mount that is remembered or was uncovered; False too if it hangs."""
        fd = self._pins[mount.dev].fd
        try:
            reply = self._prober.run(("pin", mount.dev), lambda: probe.ask(fd))
        except Error:
            return False
        return reply.answer is Answer.DEAD

    def close(self) -> None:
        """Release what is held."""
        self.forget(())
        self._own.close()
