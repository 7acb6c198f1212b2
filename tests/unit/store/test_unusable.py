"""A file of another version, one that others lock, a path that can be no file."""

import contextlib
import math
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recover import statefile
from recover.errors import StateError
from recover.store import Store
from tests.unit.store.rows import edit, heal, opened, publication


def newer(path: Path) -> None:
    edit(f"PRAGMA user_version={len(statefile.MIGRATIONS) + 1}")(path)


def test_a_file_of_a_newer_version_is_left_alone(filled):
    newer(filled)
    content = filled.read_bytes()

    with opened(filled) as store:
        assert "version" in store.problem
        store.put_publication(publication(7))
        store.flush()
        assert store.publications() == (publication(7),)

    assert filled.read_bytes() == content


def test_reading_a_file_of_another_version_says_what_to_do(filled):
    newer(filled)
    with pytest.raises(StateError, match="start the newer program"):
        Store.read(filled)

    empty = filled.with_name("empty.db")
    empty.touch()
    with pytest.raises(StateError, match="start the plugin once"):
        Store.read(empty)


@pytest.mark.parametrize("place", ["folder", "file/state.db", "loop/state.db"])
def test_a_path_that_cannot_be_a_file_leaves_memory(tmp_path, place):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")

    with opened(tmp_path / place) as store:
        assert "make it a file in a writable directory" in store.problem
        store.put_publication(publication())
        assert store.publications() == (publication(),)

    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder", "loop"]


def test_memory_goes_to_the_file_as_soon_as_the_path_can_be_used(path):
    path.mkdir()
    told: list[str] = []
    with opened(path, on_problem=told.append) as store:
        store.put_publication(publication(1))
        store.put_publication(publication(2))
        store.remove_publication("/t/2")
        store.record_heal(heal())
        store.flush()
        assert len(told) == 1

        path.rmdir()
        store.flush()

        assert told == [told[0], ""]
        found = Store.read(path)
        assert (found.publications(), found.heals()) == ((publication(1),), (heal(),))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let another program keep a write transaction open."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def test_a_locked_file_is_told_once_and_written_later(filled):
    told: list[str] = []
    with opened(filled, on_problem=told.append) as store:
        with locked(filled):
            store.put_publication(publication(100))
            store.remove_publication("/t/0")
            store.flush()
            assert "locked" in store.problem
            assert store.publication("/t/100")
        assert told == [store.problem]
        store.flush()

        assert told == [told[0], ""]
        rows = {row.target for row in Store.read(filled).publications()}
        assert rows == {f"/t/{number}" for number in range(1, 101)}


def test_a_file_that_is_locked_at_the_start_is_read_and_joined_later(filled):
    with locked(filled):
        store = Store.open(filled)
    with contextlib.closing(store):
        assert "locked" in store.problem
        assert len(store.publications()) == 100
        store.put_publication(publication(100))
        store.remove_publication("/t/0")
        with opened(filled) as other:
            other.put_publication(publication(200))

        store.flush()

        assert store.problem == ""
        assert len(store.publications()) == 101
        assert store.publications() == Store.read(filled).publications()


def test_the_newer_of_two_changes_wins_also_when_the_older_could_not_be_written(filled):
    with opened(filled) as store, ThreadPoolExecutor(2) as threads:
        with locked(filled):
            older = threads.submit(store.put_publication, publication(0, at=2.0))
            while not older.done() and (not store._disk.locked() or store._unwritten):
                pass  # until it waits for the file
            assert not older.done()
            newer = threads.submit(store.put_publication, publication(0, at=3.0))
            older.result(10)
        newer.result(10)
        store.flush()

        assert store.publication("/t/0") == publication(0, at=3.0)
        assert Store.read(filled).publication("/t/0") == publication(0, at=3.0)


def test_a_row_that_the_file_refuses_holds_up_others_only_while_it_is_there(filled):
    with opened(filled) as store:
        store.put_publication(publication(0, at=math.nan))  # SQLite takes it for NULL
        store.put_publication(publication(100))
        assert "NOT NULL" in store.problem
        store.put_publication(publication(0, at=2.0))

        assert store.problem == ""
        assert len(Store.read(filled).publications()) == 101


def test_the_next_change_writes_what_an_earlier_one_could_not(filled):
    with opened(filled) as store:
        with locked(filled):
            store.put_publication(publication(100))
        store.put_publication(publication(101))

        assert store.problem == ""
        assert len(Store.read(filled).publications()) == 102


def test_changes_after_the_end_stay_in_memory(path):
    with opened(path) as store:
        store.put_publication(publication(1))
    store.put_publication(publication(2))
    store.flush()

    assert len(store.publications()) == 2
    assert Store.read(path).publications() == (publication(1),)
