"""A state file of an earlier version is brought to the newest, and loses nothing."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from recover import statefile
from recover.errors import StateError
from recover.store import Store
from tests.unit.store.rows import dump, edit, generation, opened, publication

# As version 1 wrote it; its schema is the first of the migrations, which never changes.
FIRST = f"""
    {statefile.MIGRATIONS[0]}
    INSERT INTO publications VALUES
        ('/t/0', 'v0', '/s', '', '', 'bind', 1, 0, '', '', '', '', '', 1.5, 0);
    INSERT INTO generations VALUES ('/s', '0:50', '/', 'fuse.x', 'x', 'boot', 1.5, NULL);
    INSERT INTO heals VALUES (7, '/s', 3.0, 'namespace', 1, 3, 3, 1, 0.004, NULL, '');
    INSERT INTO volumes VALUES ('v0', 'name', '{{}}', 5);
    PRAGMA application_id = {statefile.APPLICATION_ID};
    PRAGMA user_version = 1;
"""


@pytest.fixture
def first(path: Path) -> Path:
    """Return a file that version 1 left."""
    edit(FIRST)(path)
    return path


def test_the_rows_of_version_1_are_of_no_known_generation(first: Path):
    with opened(first) as store:
        assert store.problem == ""
        assert store.publications() == (replace(publication(0), generation=0),)
        assert store.generations() == (replace(generation(), number=0),)
        assert [heal.copies for heal in store.heals()] == [3]
        assert store.volume("v0") is not None


def test_what_is_recorded_after_the_migration_stays(first: Path):
    numbered = replace(generation(), number=4)
    dated = replace(publication(1), generation=4)
    with opened(first) as store:
        store.put_generation(numbered)
        store.put_publication(dated)

    with opened(first) as store:
        assert store.problem == ""
        assert store.generations() == (numbered,)
        assert store.publication(dated.target) == dated


def test_the_file_of_an_earlier_version_is_not_migrated_by_who_only_reads_it(first: Path):
    before = first.read_bytes()

    with pytest.raises(StateError, match="of version 1; start the plugin once"):
        Store.read(first)

    assert first.read_bytes() == before


def test_a_migration_that_fails_leaves_the_file_as_it_was(first: Path):
    edit("ALTER TABLE generations ADD COLUMN number INTEGER")(first)  # so that it cannot be done
    before = dump(first)

    with opened(first) as store:
        assert store.problem
        (kept,) = first.parent.glob("*.corrupt-*Z")

    assert dump(kept) == before


DIES = """
import functools, os, sqlite3, sys
from pathlib import Path
from recover.store import Store
left = int(sys.argv[2])
class Mortal(sqlite3.Connection):
    def execute(self, sql, *parameters):
        global left
        if not left:
            os._exit(137)
        left -= 1
        return super().execute(sql, *parameters)
sqlite3.connect = functools.partial(sqlite3.connect, factory=Mortal)
Store.open(Path(sys.argv[1]))
"""


def test_killed_before_any_statement_of_a_migration_the_next_start_has_all_rows(first: Path):
    before = first.read_bytes()
    for number in range(100):
        for file in first.parent.iterdir():
            file.unlink()
        first.write_bytes(before)
        command = [sys.executable, "-c", DIES, str(first), str(number)]
        status = subprocess.run(command, check=False, timeout=20).returncode

        with opened(first) as store:
            assert store.problem == ""
            assert store.publications() == (replace(publication(0), generation=0),)
            assert store.generations() == (replace(generation(), number=0),)
        if status == 0:
            break
    assert number >= 12
