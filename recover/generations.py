"""The lives of a source's daemon: their rows, and descriptors that keep their numbers from reuse.

The kernel gives the number of a superblock away again once its last mount is gone.  A generation
that has an anchor keeps its number by that; others, which an earlier plugin left, by a descriptor.
"""

import contextlib
import functools
import time
from dataclasses import replace

from recover.anchors.keeper import Keeper
from recover.errors import Busy, Error
from recover.linux import mounts
from recover.linux.mounts import Clone
from recover.linux.owntable import OwnTable
from recover.linux.probe import Prober
from recover.look import View
from recover.rows import Generation
from recover.store import Store

_LINGER_S = 60.0  # a container may still be starting from a dead mount so long after a heal


class Generations:
    """Keeps the generations of one source; used by one thread at a time."""

    def __init__(
        self, source: str, store: Store, prober: Prober, own: OwnTable, keeper: Keeper
    ) -> None:
        self._source = source
        self._store = store
        self._prober = prober
        self._own = own
        self._keeper = keeper
        self._pins: dict[str, Clone] = {}
        self._healed_at: float | None = None  # monotonic

    def may_come_to_light(self, live: str, *, inside: bool) -> bool:
        """Return whether copies of an older generation may be found without an event here.

        In other namespaces so long as a container may be starting from a mount that was dead; of a
        daemon that still lives at any time.
        """
        older = [g for g in self._store.generations(self._source) if g.dev != live]
        return (inside and bool(older) and self._lingers) or any(g.dead_at is None for g in older)

    @property
    def _lingers(self) -> bool:
        """Return whether the last heal was a moment ago, or before this process began."""
        return self._healed_at is None or time.monotonic() - self._healed_at < _LINGER_S

    def note_dead(self, view: View) -> None:
        """Record who died, before anything is changed: a killed heal must find its copies again."""
        self._pin(view)
        known = {g.dev: g for g in view.generations}
        anchored = {a.base.dev for a in view.anchors}
        for dev in view.dead & (view.seen | anchored):
            generation = known.get(dev) or self._row(view, dev, "/", number=0)
            if generation is not None and generation.dead_at is None:
                self._store.put_generation(replace(generation, dead_at=time.time()))

    def note_live(self, view: View, number: int) -> None:
        """Record who serves now, unless the last user left meanwhile, with whom all rows went."""
        with contextlib.suppress(Busy), self._keeper.turn(self._source):
            if self._store.publications(self._source):
                self._note_live(view, number)

    def _note_live(self, view: View, number: int) -> None:
        generation = self._row(view, view.live, view.root, number=number)
        if generation is None:
            return
        for other in self._store.generations():  # a number in use is nobody else's generation now
            if other.dev == view.live and other.source != self._source:
                self._store.remove_generation(other.source, other.dev)
        current = next((g for g in view.generations if g.dev == view.live), None)
        if current is None or current.dead_at is not None or current.number != number:
            self._store.put_generation(generation)

    def note_heal(self) -> None:
        """Take note that copies were healed just now."""
        self._healed_at = time.monotonic()

    def drop_unseen(self, view: View) -> None:
        """Forget the generations of which nothing is left."""
        anchored = {a.base.dev for a in view.anchors}
        for generation in self._store.generations(self._source):
            dev = generation.dev
            lingers = dev in self._pins and self._lingers
            if dev != view.live and dev not in view.seen | anchored and not lingers:
                self._store.remove_generation(self._source, dev)
                if dev in self._pins:
                    self._pins.pop(dev).close()

    def close(self) -> None:
        """Release what is held."""
        for pin in self._pins.values():
            pin.close()
        self._pins.clear()

    def _row(self, view: View, dev: str, root: str, *, number: int) -> Generation | None:
        """Return a new row; None if no path of ours shows that superblock any more.

        Then the kernel may have given its number to another source already, whose copies the row
        would make ours.
        """
        table = self._own.current()
        targets = (p.target for p in view.publications)
        paths = (self._source, *(a.path for a in view.anchors), *targets)
        mount = next((m for path in paths for m in table.stack(path) if m.dev == dev), None)
        if mount is None:
            return None
        now = time.time()
        named = mount.fs_type, mount.source
        return Generation(self._source, dev, root, *named, self._keeper.boot_id, now, number=number)

    def _pin(self, view: View) -> None:
        anchored = {a.base.dev for a in view.anchors}
        for copy in view.strays:
            top = copy.stack[-1]
            if top.dev not in anchored and top.dev not in self._pins:
                pin = functools.partial(mounts.pin, copy.path, top)
                with contextlib.suppress(Error, OSError):
                    # one at a time, for very many paths may lead over a daemon that hangs
                    key = "pin", self._source, top.dev
                    self._pins[top.dev] = self._prober.run(key, pin, discard=Clone.close)
