"""The SQLite database under the store: opened, migrated, read, written, set aside when damaged.

Nothing here keeps rows.  A transaction is durable when `write` returns (WAL, synchronous=FULL: one
fsync), so kill -9 and power loss leave the last written state.  Only SQLite calls happen in here,
and none waits longer than BUSY_S for another process.  One thread at a time: the store's lock.
"""

import contextlib
import dataclasses
import datetime
import enum
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from recover.errors import StateError

Key = tuple[str | int, ...]
Changes = Mapping[tuple["Table[Any]", Key], object | None]  # the new row, or None: removed
Rows = dict["Table[Any]", dict[Key, Any]]

BUSY_S = 0.25
APPLICATION_ID = 0x63466C64  # "cFld": tells our files from other people's databases

# Append only: number n in this list takes a file from user_version n to n + 1.  Statements end at
# each ";".
MIGRATIONS = (
    """
    CREATE TABLE publications (
        target TEXT PRIMARY KEY NOT NULL, volume_id TEXT NOT NULL, source TEXT NOT NULL,
        sub_path TEXT NOT NULL, mount_type TEXT NOT NULL, method TEXT NOT NULL,
        read_only INTEGER NOT NULL, recover_writable INTEGER NOT NULL,
        runtime_namespace TEXT NOT NULL, runtime_name TEXT NOT NULL,
        pod_namespace TEXT NOT NULL, pod_name TEXT NOT NULL, pod_uid TEXT NOT NULL,
        published_at REAL NOT NULL, adopted INTEGER NOT NULL);
    CREATE TABLE generations (
        source TEXT NOT NULL, dev TEXT NOT NULL, root TEXT NOT NULL,
        fs_type TEXT NOT NULL, mount_source TEXT NOT NULL, boot_id TEXT NOT NULL,
        seen_at REAL NOT NULL, dead_at REAL, PRIMARY KEY (source, dev));
    CREATE TABLE heals (
        number INTEGER PRIMARY KEY, source TEXT NOT NULL, at REAL NOT NULL,
        strategy TEXT NOT NULL, ok INTEGER NOT NULL, copies INTEGER NOT NULL,
        healed INTEGER NOT NULL, layers INTEGER NOT NULL, latency_s REAL NOT NULL,
        outage_s REAL, error TEXT NOT NULL);
    CREATE TABLE volumes (
        volume_id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL,
        parameters TEXT NOT NULL, capacity_bytes INTEGER NOT NULL);
    """,
    """
    ALTER TABLE publications ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE generations ADD COLUMN number INTEGER NOT NULL DEFAULT 0;
    """,
)

# Primary result codes (sqlite.org/rescode.html) that mean: this file is not, or no longer, a state
# file.  SQLITE_ERROR is a missing table or column.
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}
_NEXT_STEP = {
    sqlite3.SQLITE_FULL: "free some space on its disk",
    sqlite3.SQLITE_READONLY: "make it and its directory writable",
    sqlite3.SQLITE_PERM: "make it and its directory writable",
    sqlite3.SQLITE_BUSY: "end the other process that keeps it locked",
    sqlite3.SQLITE_IOERR: "look at the disk (df, dmesg)",
    sqlite3.SQLITE_CANTOPEN: "make it a file in a writable directory with free space",
}

R = TypeVar("R")


class Damaged(StateError):
    """The file is not a state file, or no longer."""


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    put: str
    delete: str
    select: str
    decoders: tuple[Callable[[Any], object], ...]


@dataclass(frozen=True)
class Table(Generic[R]):
    """How rows of a frozen dataclass are kept: columns are named like its fields.

    A key column that is no field is kept beside them.
    """

    name: str
    row: type[R]
    key: tuple[str, ...]

    @cached_property
    def extra(self) -> tuple[str, ...]:
        """Return the key columns that are no fields of the row."""
        return tuple(name for name in self.key if name not in self.fields)

    @cached_property
    def fields(self) -> Mapping[str, object]:
        """Return the types of the row's fields by name."""
        return {field.name: field.type for field in dataclasses.fields(self.row)}  # type: ignore[arg-type]  # R is a dataclass

    @cached_property
    def sql(self) -> _Columns:
        """Return the statements; every name in them is a constant of this package."""
        columns = (*self.extra, *self.fields)
        marks = ", ".join("?" * len(columns))
        where = " AND ".join(f"{name} = ?" for name in self.key)
        return _Columns(
            put=f"INSERT OR REPLACE INTO {self.name} ({', '.join(columns)}) VALUES ({marks})",  # noqa: S608
            delete=f"DELETE FROM {self.name} WHERE {where}",  # noqa: S608
            select=f"SELECT {', '.join((*self.key, *self.fields))} FROM {self.name} ORDER BY rowid",  # noqa: S608
            decoders=tuple(map(_decoder, self.fields.values())),
        )

    def encode(self, key: Key, row: object) -> list[object]:
        """Return the values of the columns of a row."""
        values = (*key[: len(self.extra)], *(getattr(row, name) for name in self.fields))
        return [_encode(value) for value in values]

    def decode(self, values: Sequence[Any]) -> tuple[Key, R]:
        """Return key and row of what `select` gave; raises ValueError or TypeError."""
        key, rest = values[: len(self.key)], values[len(self.key) :]
        row = (decode(value) for decode, value in zip(self.sql.decoders, rest, strict=True))
        return tuple(_text(part) if isinstance(part, bytes) else part for part in key), self.row(
            *row
        )


def _encode(value: object) -> object:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:  # a path that is not UTF-8: SQLite's TEXT would refuse it
            return value.encode("utf-8", "surrogatepass")
    return json.dumps(dict(value)) if isinstance(value, Mapping) else value


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogatepass")
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


_DECODERS: Mapping[object, Callable[[Any], object]] = {
    str: _text,
    bool: bool,
    int: int,
    float: float,
    float | None: lambda value: None if value is None else float(value),
    Mapping[str, str]: lambda value: dict(json.loads(value)),
}


def _decoder(kind: object) -> Callable[[Any], object]:
    if isinstance(kind, type) and issubclass(kind, enum.StrEnum):
        return lambda value: kind(_text(value))
    return _DECODERS[kind]


class StateFile:
    """An open state file that can be written."""

    def __init__(self, path: Path, tables: Sequence[Table[Any]]) -> None:
        """Open and migrate a file, made with mode 0600 if absent.

        Raises Damaged, StateError (cannot be used now, or of a newer version) or OSError.
        """
        self.path = path
        _make(path)
        with _translated(path):
            self._db = sqlite3.connect(
                path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
        try:
            with _translated(path):
                self.fresh = _migrate(self._db, path)
                self.rows = _load(self._db, path, tables)
            _restrict(path)
        except BaseException:
            self._db.close()
            raise
        self._inode = _inode(path)

    def write(self, changes: Changes) -> None:
        """Make all changes in one durable transaction, or none; raises StateError."""
        with _translated(self.path), _transaction(self._db):
            for (table, key), row in changes.items():
                if row is None:
                    self._db.execute(table.sql.delete, [_encode(part) for part in key])
                else:
                    self._db.execute(table.sql.put, table.encode(key, row))

    @property
    def replaced(self) -> bool:
        """Return whether the path no longer names this file: somebody removed or replaced it."""
        return _inode(self.path) != self._inode

    def close(self) -> None:
        """Close the file; SQLite folds its -wal into it if nobody else has it open."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()


def open_or_begin(path: Path, tables: Sequence[Table[Any]]) -> tuple[StateFile, str]:
    """Open a file for writing; a damaged one is set aside first, and the second value says so.

    Raises StateError with the next step where the path cannot be used now.
    """
    try:
        try:
            return StateFile(path, tables), ""
        except Damaged as damage:
            notice = f"{damage}; it was kept as {_set_aside(path)}"
        try:
            return StateFile(path, tables), f"{notice} and a new one was begun"
        except StateError as error:
            raise StateError(f"{notice}; {error}") from error
    except OSError as error:
        raise StateError(
            f"state file {path}: {error.strerror}; make it a file in a writable directory"
        ) from error


def read(path: Path, tables: Sequence[Table[Any]]) -> tuple[Rows, str]:
    """Read a file without writing it, beside a running plugin or a dead one's -wal.

    The second value is "" or what is to be known about the answer.  Raises FileNotFoundError, or
    StateError with the next step.
    """
    _look(path)
    uri = path.absolute().as_uri() + "?mode=ro"
    try:
        return _read(uri, path, tables), ""
    except Damaged as damage:
        raise StateError(f"{damage}; the next start of the plugin sets it aside") from damage
    except StateError as error:
        if not isinstance(error.__cause__, sqlite3.Error):
            raise
        # A WAL file needs its -shm, which cannot be made on a read-only or full file system.
        # immutable=1 reads without it, and so without changes that are still in the -wal.
        rows = _read(uri + "&immutable=1", path, tables)
        wal = _files(path)[1]
        if not wal.exists() or not wal.stat().st_size:
            return rows, ""
        return (
            rows,
            f"state file {path} was read without {wal.name}: it may lack the newest changes",
        )


def _look(path: Path) -> None:
    try:
        path.stat()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StateError(f"state file {path}: {error.strerror}; run this as root") from error
    if not os.access(path, os.R_OK):
        raise StateError(f"state file {path} can only be read by its owner; run this as root")


def _read(uri: str, path: Path, tables: Sequence[Table[Any]]) -> Rows:
    with _translated(path):
        db = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)
        with contextlib.closing(db):
            version = _version(db, path)
            if version < len(MIGRATIONS):
                raise StateError(
                    f"state file {path} is of version {version}; start the plugin once to bring it "
                    f"to version {len(MIGRATIONS)}"
                )
            return _load(db, path, tables)


def _make(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Only a new file is opened here: closing a descriptor of an open database would drop the POSIX
    # locks that another connection of this process has on it (sqlite.org/howtocorrupt.html 2.2).
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _restrict(path: Path) -> None:
    for file in _files(path):
        with contextlib.suppress(FileNotFoundError):
            if file.stat().st_mode & 0o777 != 0o600:
                file.chmod(0o600)


def _files(path: Path) -> tuple[Path, ...]:
    return path, Path(f"{path}-wal"), Path(f"{path}-shm")


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _migrate(db: sqlite3.Connection, path: Path) -> bool:
    """Bring a file to the newest version; return whether it was empty."""
    fresh = _version(db, path) == 0
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    with _transaction(db):  # fails here, not at the first publish, where the file cannot be written
        done = _version(db, path)  # another process may have been faster
        for script in MIGRATIONS[done:]:
            for statement in filter(str.strip, script.split(";")):
                db.execute(statement)
        if done < len(MIGRATIONS):
            db.execute(f"PRAGMA application_id={APPLICATION_ID}")
            db.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
    return fresh


def _version(db: sqlite3.Connection, path: Path) -> int:
    """Return the version, 0 for an empty file; raises Damaged, or StateError for a newer one."""
    ((version,),) = db.execute("PRAGMA user_version")
    ((application,),) = db.execute("PRAGMA application_id")
    ((tables,),) = db.execute("SELECT count(*) FROM sqlite_schema")
    if not tables and not version:
        return 0
    if application != APPLICATION_ID:
        raise Damaged(f"state file {path} is a database of another program")
    if version > len(MIGRATIONS):
        raise StateError(
            f"state file {path} is of version {version}, this program knows {len(MIGRATIONS)}; it "
            f"is left alone: start the newer program again, or move the file away"
        )
    return int(version)


def _load(db: sqlite3.Connection, path: Path, tables: Sequence[Table[Any]]) -> Rows:
    # not quick_check: an index that lacks rows would let a DELETE pass that deletes nothing
    ((verdict, *_), *_) = db.execute("PRAGMA integrity_check(1)").fetchall()
    if verdict != "ok":
        raise Damaged(f"state file {path} is damaged: {verdict}")
    try:
        return {table: dict(map(table.decode, db.execute(table.sql.select))) for table in tables}
    except (ValueError, TypeError) as error:
        raise Damaged(f"state file {path} is damaged: {error}") from error


def _set_aside(path: Path) -> Path:
    now = datetime.datetime.now(datetime.UTC)
    aside = path.with_name(f"{path.name}.corrupt-{now:%Y%m%dT%H%M%S.%fZ}")
    # The database first: SQLite drops a -wal without one, so a kill in between does no harm.
    for old, new in zip(_files(path), _files(aside), strict=True):
        with contextlib.suppress(FileNotFoundError):
            old.rename(new)
    return aside


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # SQLite has rolled back some errors by itself
            db.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:  # by the sqlite3 module, of a message that quotes garbage
        raise Damaged(f"state file {path} is damaged: {error}") from error
    except sqlite3.DatabaseError as error:
        # the sqlite3 module's own "Could not decode to UTF-8" has no code
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code in _DAMAGE and not isinstance(error, sqlite3.ProgrammingError):
            raise Damaged(f"state file {path} is damaged: {error}") from error
        step = _NEXT_STEP.get(code, "look at the file and its disk")
        raise StateError(f"state file {path}: {error}; {step}") from error
