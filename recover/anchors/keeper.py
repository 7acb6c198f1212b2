"""Makes the anchor that a publish clones, and removes those that nobody needs any more.

Whoever changes a source's anchors takes its turn, so that a publish clones no anchor that a heal is
just about to mount on: it would miss that mount.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from recover.anchors import anchor as anchors, execute
from recover.anchors.plan import Make
from recover.anchors.retention import unneeded
from recover.anchors.shelf import Shelf, Variant
from recover.linux import mountinfo, mounts, namespaces, syscalls
from recover.linux.mountinfo import Mount
from recover.locks import Locks
from recover.rows import Generation
from recover.store import Store

_TURN_S = 5.0  # a heal of a source takes milliseconds


class Keeper:
    """Keeps the anchors of all sources in a folder of the plugin; one for the whole process."""

    def __init__(self, store: Store, root: Path, boot_id: str, turns: Locks) -> None:
        """Take the store that numbers the generations, the folder, and locks by source."""
        self._store = store
        self.root = root
        self.boot_id = boot_id
        self._turns = turns

    def shelf(self, source: str) -> Shelf:
        """Return where the anchors of a source are."""
        return Shelf(self.root, source)

    @contextlib.contextmanager
    def turn(self, source: str) -> Iterator[None]:
        """Be the only one to change a source's anchors for a block; raises Busy."""
        with self._turns.hold(source, wait_s=_TURN_S):
            yield

    def anchor(self, source: Mount, variant: Variant) -> tuple[str, int]:
        """Return path and number of the anchor of a live source, which is made if it is missing.

        To be called in one's turn.  A variant with a part of the source asks its daemon: call it
        through a Prober.  Raises Covered or OSError.
        """
        shelf = self.shelf(source.mount_point)
        number = self._number(source, shelf)
        path = shelf.path(number, variant)
        shown = mounts.shown(path)
        if shown is None or not shown.is_mount:
            step = Make(namespaces.home(), path, source.mount_point, variant)
            execute.make(step, source.dev, syscalls.AT_FDCWD)
        return path, number

    def _number(self, source: Mount, shelf: Shelf) -> int:
        """Return the number of the live generation; a new one is recorded."""
        rows = self._store.generations(source.mount_point)
        for row in rows:
            if row.dev == source.dev and row.dead_at is None and row.number:
                return row.number
        places = shelf.places()
        there = anchors.find(mountinfo.read(), shelf.folder) if places else ()
        number = next((a.number for a in there if a.base.dev == source.dev), 0)
        if not number:
            number = 1 + max({n for n, _ in places} | {row.number for row in rows}, default=0)
        self._store.put_generation(
            Generation(
                source=source.mount_point,
                dev=source.dev,
                root=source.root,
                fs_type=source.fs_type,
                mount_source=source.source,
                boot_id=self.boot_id,
                seen_at=time.time(),
                number=number,
            )
        )
        return number

    def tidy(self) -> None:
        """Remove what an earlier life of this process left that nobody needs; raises OSError."""
        sources = {self.shelf(source).folder: source for source in self._store.sources()}
        folder = self.root / anchors.FOLDER
        for path in folder.iterdir() if folder.is_dir() else ():
            if path in sources:
                self.drop(sources[path])
            else:
                for left in path.iterdir():
                    anchors.clear(str(left))
                path.rmdir()
        with contextlib.suppress(OSError):
            folder.rmdir()  # unless something is in it
        used = set(sources.values())
        for row in self._store.generations():
            if row.number and row.source not in used:  # sidecars' have no number
                self._store.remove_generation(row.source, row.dev)

    def drop(self, source: str) -> None:
        """Remove the anchors of a source that nobody needs, and with the last user all of it.

        Raises Busy or OSError.
        """
        publications = self._store.publications(source)
        shelf = self.shelf(source)
        with self.turn(source):
            there = shelf.places()
            gone, _ = unneeded(there, publications)
            for key in gone:
                anchors.clear(there[key])
            if not publications:
                for row in self._store.generations(source):
                    self._store.remove_generation(source, row.dev)
                shelf.remove()
