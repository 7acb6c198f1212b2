"""A damaged file is kept and told of, and takes nothing from the memory."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from recover.errors import StateError
from recover.store import Store
from tests.unit.store.rows import SHARED_TMP, edit, opened, publication


def header(path: Path) -> None:
    path.write_bytes(b"this is no database" * 300)


def schema(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"sqlite_autoindex_g", b"sqlite_autoindex\xbcg"))


def short(path: Path) -> None:
    path.write_bytes(b"no")


def cut_off(path: Path) -> None:
    os.truncate(path, 6_000)


def pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[5_000:20_000] = b"\xa5" * 15_000
    path.write_bytes(content)


# The index of the publications and that of the volumes in each other's place.
INDEXES = """
PRAGMA writable_schema=1;
CREATE TEMP TABLE roots AS SELECT name, rootpage FROM sqlite_master WHERE name LIKE '%auto%';
UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM roots WHERE name =
    CASE sqlite_master.name WHEN 'sqlite_autoindex_publications_1'
    THEN 'sqlite_autoindex_volumes_1' ELSE 'sqlite_autoindex_publications_1' END)
WHERE name IN ('sqlite_autoindex_publications_1', 'sqlite_autoindex_volumes_1');
"""

DAMAGES = {
    "header": header,
    "short": short,
    "cut off": cut_off,
    "schema": schema,
    "pages": pages,
    "another program's": edit("PRAGMA application_id=7"),
    "no table": edit("DROP TABLE publications"),
    "index": edit(INDEXES),
    "no column": edit("ALTER TABLE generations DROP COLUMN root"),
    "bad type": edit("UPDATE publications SET published_at = 'never'"),
    "bad text": edit("UPDATE publications SET volume_id = X'ff'"),
    "text that is no UTF-8": edit("UPDATE publications SET source = CAST(X'ff' AS TEXT)"),
    "bad json": edit("INSERT INTO volumes VALUES ('i', 'n', '{', 0)"),
    "json of another kind": edit("INSERT INTO volumes VALUES ('i', 'n', '[1]', 0)"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_file_is_kept_and_a_new_one_begun(filled, damage):
    damage(filled)
    content = filled.read_bytes()
    told: list[str] = []

    with opened(filled, on_problem=told.append) as store:
        (aside,) = filled.parent.glob("state.db.corrupt-*")
        assert aside.read_bytes() == content
        assert str(aside) in store.problem
        assert told == [store.problem]
        assert store.publications() == ()
        store.put_publication(publication(1))
        assert str(aside) in store.problem  # stays true for this life
        assert told == [store.problem]

    with opened(filled) as store:
        assert store.problem == ""
        assert store.publications() == (publication(1),)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_reading_a_damaged_file_says_so_and_leaves_it(filled, damage):
    damage(filled)
    content = filled.read_bytes()

    with pytest.raises(StateError, match="sets it aside"):
        Store.read(filled)

    assert filled.read_bytes() == content


def test_no_change_of_a_damaged_file_comes_back_in_the_new_one(filled):
    killed = filled.with_name("killed.db")
    with opened(filled) as store:
        store.put_publication(publication(100))
        shutil.copy(filled, killed)
        shutil.copy(f"{filled}-wal", f"{killed}-wal")
    pages(killed)

    with opened(killed) as store:
        assert "kept as" in store.problem
        assert store.publications() == ()
    with opened(killed) as store:
        assert (store.problem, store.publications(), store.heals()) == ("", (), ())


@SHARED_TMP
@given(st.binary(max_size=300), st.integers(0, 20_000))
def test_no_garbage_keeps_a_store_from_opening(tmp_path, garbage, place):
    path = tmp_path / "state.db"
    Store.open(path).close()
    content = path.read_bytes()
    path.write_bytes(content[:place] + garbage + content[place + len(garbage) :])

    with opened(path) as store:
        store.put_publication(publication())
        assert store.publication("/t/0") == publication()
        # of a newer version, or of a format that SQLite will not write: so it says
        memory_only = "kept in memory" in store.problem
    if not memory_only:
        assert Store.read(path).publication("/t/0") == publication()
    for file in tmp_path.glob("state.db*"):
        file.unlink()


def test_damage_found_while_running_is_repaired_from_memory(filled):
    with opened(filled) as store:
        store.put_publication(publication(100))
        edit("DROP TABLE publications")(filled)
        store.put_publication(publication(101))
        assert "damaged" in store.problem

        store.flush()

        assert "kept as" in store.problem
        assert len(store.publications()) == 102
        assert len(Store.read(filled).publications()) == 102


def test_a_file_that_was_removed_is_written_again(filled):
    with opened(filled) as store:
        for file in filled.parent.iterdir():
            file.unlink()
        store.put_publication(publication(100))

        store.flush()

        assert store.problem == ""
        assert len(Store.read(filled).publications()) == 101
