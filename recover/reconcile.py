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
from recover.rows import Method, Publication

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
        """Drop rows of pods that are gone, and all of an earlier boot, or of another machine."""
        publications = self.parts.store.publications()
        self._drop(adopt.gone(publications, self.layout, os.path.isdir), "its pod is gone")
        this_boot = boot.boot_id()
        earlier = [g for g in self.parts.store.generations() if g.boot_id != this_boot]
        if earlier:
            # No mount outlives a boot.  What its pods still want kubelet publishes again; until it
            # does nobody knows if they are wanted here, or on this node.
            left = tuple(filter(_is_of_a_mount_gone, self.parts.store.publications()))
            self._drop(left, "the node was started anew, or its state file is another node's")
        for generation in earlier:  # last: they tell a next start, if this one is killed
            self.parts.store.remove_generation(generation.source, generation.dev)

    def _drop(self, publications: tuple[Publication, ...], why: str) -> None:
        for publication in publications:
            self.parts.store.remove_publication(publication.target)
        if publications:
            self.observer.tell(events.Dropped(publications, why))

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


def _is_of_a_mount_gone(publication: Publication) -> bool:
    if publication.method is not Method.BIND:  # a symbolic link stays on the disk
        return False
    shown = mounts.shown(publication.target)
    return shown is None or not shown.is_mount
