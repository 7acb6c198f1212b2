"""Make the state file agree with the kernel: at every start, before the plugin says it is ready.

Touches no FUSE path.
"""

import contextlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from recover import adopt, observer as told
from recover.errors import Busy
from recover.layout import Layout
from recover.linux import mounts
from recover.linux.mountinfo import MountTable
from recover.locks import Locks
from recover.observer import Observer
from recover.store import Publication, Store

_log = logging.getLogger(__name__)


def boot_id() -> str:
    """Return what names this boot of the machine: proc_sys_kernel(5)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Brings rows and mounts together."""

    store: Store
    locks: Locks
    observer: Observer
    layout: Layout

    def run(self, table: MountTable) -> bool:
        """Drop what is gone, adopt what is unknown; return whether some mount is still a riddle."""
        self._drop_gone()
        return self.adopt(table)

    def _drop_gone(self) -> None:
        """Drop rows of pods that are gone, and generations of an earlier boot."""
        gone = adopt.gone(self.store.publications(), self.layout, os.path.isdir)
        for publication in gone:
            self.store.remove_publication(publication.target)
        if gone:
            self.observer.tell(told.Dropped(gone))
        this_boot = boot_id()
        for generation in self.store.generations():
            if generation.boot_id != this_boot:
                self.store.remove_generation(generation.source, generation.dev)

    def adopt(self, table: MountTable) -> bool:
        """Record mounts that an earlier plugin made; return whether a source is still unknown."""
        found = adopt.find(table, self.store, self.layout)
        for riddle in found.unknown:
            _log.debug("not adopted: %s: %s", riddle.target, riddle.reason)
        adopted = tuple(p for p in found.publications if self._record(p))
        if adopted:
            self.observer.tell(told.Adopted(adopted))
        return bool(found.unknown)

    def _record(self, publication: Publication) -> bool:
        """Record an adopted mount unless a publish or unpublish of it came first."""
        with contextlib.suppress(Busy), self.locks.hold(publication.target):
            shown = mounts.shown(publication.target)
            known = self.store.publication(publication.target)
            if known is None and shown is not None and shown.is_mount:
                self.store.put_publication(publication)
                return True
        return False
