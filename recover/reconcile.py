"""Make the state file agree with the kernel: at every start, before the plugin says it is ready.

Touches no FUSE path.
"""

import contextlib
import logging
import os
from dataclasses import dataclass

from recover import adopt, events
from recover.errors import Busy, Error
from recover.events import Observer
from recover.layout import Layout
from recover.linux import boot, mounts
from recover.linux.mountinfo import MountTable
from recover.parts import Parts
from recover.rows import Publication

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Brings rows and mounts together."""

    parts: Parts
    observer: Observer
    layout: Layout

    def run(self, table: MountTable) -> bool:
        """Drop what is gone, adopt what is unknown; return whether some mount is unresolved."""
        self._drop_gone()
        is_unresolved = self.adopt(table)
        if not is_unresolved:  # else anchors may be needed by a volume that is not known yet
            with contextlib.suppress(Error, OSError):
                self.parts.keeper.tidy()
        return is_unresolved

    def _drop_gone(self) -> None:
        """Drop rows of pods that are gone, and generations of an earlier boot."""
        gone = adopt.gone(self.parts.store.publications(), self.layout, os.path.isdir)
        for publication in gone:
            self.parts.store.remove_publication(publication.target)
        if gone:
            self.observer.tell(events.Dropped(gone))
        this_boot = boot.boot_id()
        for generation in self.parts.store.generations():
            if generation.boot_id != this_boot:
                self.parts.store.remove_generation(generation.source, generation.dev)

    def adopt(self, table: MountTable) -> bool:
        """Record mounts that an earlier plugin made; return whether a source is still unknown."""
        found = adopt.find(table, self.parts.store, self.layout)
        for unresolved in found.unknown:
            _log.debug("not adopted: %s: %s", unresolved.target, unresolved.reason)
        adopted = tuple(p for p in found.publications if self._record(p))
        if adopted:
            self.observer.tell(events.Adopted(adopted))
        return bool(found.unknown)

    def _record(self, publication: Publication) -> bool:
        """Record an adopted mount unless a publish or unpublish of it came first."""
        with contextlib.suppress(Busy), self.parts.locks.hold(publication.target):
            shown = mounts.shown(publication.target)
            known = self.parts.store.publication(publication.target)
            if known is None and shown is not None and shown.is_mount:
                self.parts.store.put_publication(publication)
                return True
        return False
