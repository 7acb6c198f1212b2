"""What is remembered: publications, generations, heals and static volumes.

The kernel is the truth, this is the memory.  Every row is held in memory and reads answer from
there.  A change goes to memory first and then through to the state file; one that cannot be written
stays in memory, `problem` says so, and `flush` tries again.  So a bad disk never blocks a pod.

Threads: `_memory` guards the rows and is held for microseconds; `_disk` guards the file and is held
over SQLite alone.  While one thread waits for its fsync, the changes of others gather, and the next
one writes them all in one transaction.
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from recover import statefile
from recover.errors import StateError
from recover.rows import Generation, Heal, Publication, Volume
from recover.statefile import Key, Table

KEPT_HEALS = 1_000

R = TypeVar("R")


PUBLICATIONS = Table("publications", Publication, ("target",))
GENERATIONS = Table("generations", Generation, ("source", "dev"))
HEALS = Table("heals", Heal, ("number",))
VOLUMES = Table("volumes", Volume, ("volume_id",))
TABLES = (PUBLICATIONS, GENERATIONS, HEALS, VOLUMES)


class _Rows(Generic[R]):
    """The rows of a table by key, and again by the field that they are asked for by."""

    def __init__(self, table: Table[R], group: str) -> None:
        self.table = table
        self.by_key: dict[Key, R] = {}
        self._group = group
        self._groups: dict[str, dict[Key, R]] = {}

    def put(self, key: Key, row: R) -> None:
        self.pop(key)
        self.by_key[key] = row
        self._groups.setdefault(getattr(row, self._group), {})[key] = row

    def pop(self, key: Key) -> R | None:
        row = self.by_key.pop(key, None)
        if row is not None:
            name = getattr(row, self._group)
            del self._groups[name][key]
            if not self._groups[name]:
                del self._groups[name]
        return row

    def fill(self, rows: Mapping[Key, R | None]) -> None:
        """Hold these rows and no others; None stands for a row that was removed."""
        self.by_key.clear()
        self._groups.clear()
        for key, row in rows.items():
            if row is not None:
                self.put(key, row)

    def of(self, group: str) -> tuple[R, ...]:
        return tuple(self._groups.get(group, {}).values())

    def groups(self) -> tuple[str, ...]:
        return tuple(self._groups)


def _ignore(_problem: str) -> None:
    """Tell nobody."""


class Store:
    """The rows, and the file they are written to if there is one; safe to use from any thread."""

    def __init__(
        self, path: Path | None = None, on_problem: Callable[[str], None] = _ignore
    ) -> None:
        """Make an empty store; without a path, or before the first flush, it is memory alone."""
        self._path = path
        self._on_problem = on_problem
        self._memory = threading.Lock()
        self._disk = threading.Lock()
        self._file: statefile.StateFile | None = None
        self._was_open = False
        self._unwritten: dict[tuple[Table[Any], Key], object | None] = {}
        self._publications = _Rows(PUBLICATIONS, "source")
        self._generations = _Rows(GENERATIONS, "source")
        self._heals = _Rows(HEALS, "source")
        self._volumes = _Rows(VOLUMES, "volume_id")
        self._notice = ""  # what happened to the file at open; stays true for this life
        self._trouble = ""  # why the last change is not written; ends when it is
        self._told = ""

    @classmethod
    def open(cls, path: Path, on_problem: Callable[[str], None] = _ignore) -> "Store":
        """Open the state file, making it if absent; never raises for what the file is.

        A damaged file is kept under another name and a new one begun; where that is impossible too,
        or the file is of a newer version, the store works from memory.  `problem` says which.
        on_problem is told each new value of `problem`, also that of now, from whichever thread.
        """
        store = cls(path, on_problem)
        store.flush()
        return store

    @classmethod
    def read(cls, path: Path) -> "Store":
        """Read the state file of a plugin that may be running; changes stay in memory.

        Raises FileNotFoundError, or StateError with the next step.
        """
        store = cls()
        rows, store._notice = statefile.read(path, TABLES)
        store._take(rows)
        return store

    @property
    def problem(self) -> str:
        """Return what is wrong with the state file and what to do, or ""."""
        return self._trouble or self._notice

    def publications(self, source: str | None = None) -> tuple[Publication, ...]:
        """Return the publications, of one source or all."""
        with self._memory:
            return _select(self._publications, source)

    def publication(self, target: str) -> Publication | None:
        """Return the publication at a target."""
        with self._memory:
            return self._publications.by_key.get((target,))

    def sources(self) -> tuple[str, ...]:
        """Return every source that has a publication."""
        with self._memory:
            return self._publications.groups()

    def put_publication(self, publication: Publication) -> None:
        """Record a publication in place of that of the same target."""
        self._put(self._publications, (publication.target,), publication)

    def remove_publication(self, target: str) -> bool:
        """Forget a publication; tell whether there was one."""
        return self._remove(self._publications, (target,))

    def generations(self, source: str | None = None) -> tuple[Generation, ...]:
        """Return the known generations, of one source or all."""
        with self._memory:
            return _select(self._generations, source)

    def put_generation(self, generation: Generation) -> None:
        """Record a generation in place of that of the same source and device."""
        self._put(self._generations, (generation.source, generation.dev), generation)

    def remove_generation(self, source: str, dev: str) -> None:
        """Forget a generation, if known."""
        self._remove(self._generations, (source, dev))

    def record_heal(self, heal: Heal) -> None:
        """Add a heal to the history, which keeps the newest KEPT_HEALS."""
        with self._memory:
            last = next(reversed(self._heals.by_key), (0,))[0]
            number = max(int(last) + 1, time.time_ns())  # unique, also after a clock was set back
            self._change(self._heals, (number,), heal)
            while len(self._heals.by_key) > KEPT_HEALS:
                oldest = next(iter(self._heals.by_key))
                never_written = self._unwritten.get((HEALS, oldest)) is not None
                self._change(self._heals, oldest, None)
                if never_written:  # so nothing is to be deleted, and a useless file costs no memory
                    del self._unwritten[HEALS, oldest]
        self._write()

    def heals(self, source: str | None = None, limit: int = 100) -> tuple[Heal, ...]:
        """Return the newest heals, newest first, of one source or all."""
        with self._memory:
            found = _select(self._heals, source)
        return found[: -limit - 1 : -1]

    def put_volume(self, volume: Volume) -> None:
        """Record a volume in place of that of the same id."""
        own = dataclasses.replace(volume, parameters=dict(volume.parameters))
        self._put(self._volumes, (volume.volume_id,), own)

    def volume(self, volume_id: str) -> Volume | None:
        """Return the volume of an id."""
        with self._memory:
            return self._volumes.by_key.get((volume_id,))

    def remove_volume(self, volume_id: str) -> bool:
        """Forget a volume; tell whether there was one."""
        return self._remove(self._volumes, (volume_id,))

    def flush(self) -> None:
        """Try again to write what could not be written; costs nothing when all is well."""
        with self._disk:
            if self._file is not None and self._file.replaced:
                self._shut()
            if self._file is None and self._path is not None:
                self._reopen(self._path)
            self._save()
        self._announce()

    def close(self) -> None:
        """Write what is left and close the file; later changes stay in memory."""
        self.flush()
        with self._disk:
            self._path = None
            self._shut()

    def _put(self, rows: _Rows[R], key: Key, row: R) -> None:
        with self._memory:
            if rows.by_key.get(key) != row:
                self._change(rows, key, row)
        self._write()

    def _remove(self, rows: _Rows[R], key: Key) -> bool:
        with self._memory:
            known = key in rows.by_key
            if known:
                self._change(rows, key, None)
        self._write()
        return known

    def _change(self, rows: _Rows[R], key: Key, row: R | None) -> None:
        if row is not None:
            rows.put(key, row)
        else:
            rows.pop(key)
        self._unwritten[rows.table, key] = row

    def _write(self) -> None:
        with self._disk:
            self._save()
        self._announce()

    def _save(self) -> None:
        if self._file is None:
            return
        with self._memory:
            batch, self._unwritten = self._unwritten, {}
        if not batch:
            return
        try:
            self._file.write(batch)
        except StateError as error:
            with self._memory:
                self._unwritten = batch | self._unwritten
            self._fail(error)
            if isinstance(error, statefile.Damaged):
                self._shut()  # the next flush sets it aside
        else:
            self._trouble = ""

    def _reopen(self, path: Path) -> None:
        try:
            self._file, notice = statefile.open_or_begin(path, TABLES)
        except StateError as error:
            self._fail(error)
            if not self._was_open:  # what can be read but not written is still worth knowing
                with contextlib.suppress(StateError, OSError):
                    self._take(statefile.read(path, TABLES)[0])
            return
        self._notice = notice or self._notice
        self._trouble = ""
        if self._was_open or self._file.fresh:
            self._rewrite_all()
        self._was_open = True
        self._take(self._file.rows)
        self._file.rows = {}

    def _take(self, found: statefile.Rows) -> None:
        """Take the rows of a file, with the unwritten changes on top."""
        with self._memory:
            for rows in self._tables():
                changed = {k: row for (t, k), row in self._unwritten.items() if t == rows.table}
                rows.fill(found[rows.table] | changed)

    def _rewrite_all(self) -> None:
        with self._memory:
            for rows in self._tables():
                for key, row in rows.by_key.items():
                    self._unwritten.setdefault((rows.table, key), row)

    def _tables(self) -> tuple[_Rows[Any], ...]:
        return self._publications, self._generations, self._heals, self._volumes

    def _shut(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _fail(self, error: StateError) -> None:
        self._trouble = f"{error}; until then changes are kept in memory"

    def _announce(self) -> None:
        with self._memory:
            problem = self.problem
            changed, self._told = problem != self._told, problem
        if changed:
            self._on_problem(problem)


def _select(rows: _Rows[R], group: str | None) -> tuple[R, ...]:
    return tuple(rows.by_key.values()) if group is None else rows.of(group)
