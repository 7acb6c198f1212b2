"""The store: what is remembered, through restarts, kills, damage and full or foreign files."""

import contextlib
import dataclasses
import math
import os
import select
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from recover import statefile
from recover.errors import StateError
from recover.store import KEPT_HEALS, Generation, Heal, Publication, Store, Volume

SHARED_TMP = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def publication(number: int = 0, source: str = "/s", at: float = 1.5) -> Publication:
    return Publication(f"/t/{number}", f"v{number}", source, published_at=at)


def generation(source: str = "/s", dev: str = "0:50") -> Generation:
    return Generation(source, dev, "/", "fuse.x", "x", "boot", 1.5)


def heal(number: int = 0, source: str = "/s") -> Heal:
    return Heal(source, float(number), "namespace", True, 3, 3, 1, 0.004, None)


@contextlib.contextmanager
def opened(path: Path, on_problem: Callable[[str], None] = lambda _: None) -> Iterator[Store]:
    with contextlib.closing(Store.open(path, on_problem)) as store:
        yield store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def dump(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return list(db.iterdump())


# Remembering


def test_a_new_store_is_empty_and_fine(path):
    with opened(path) as store:
        assert store.problem == ""
        assert (store.publications(), store.sources(), store.heals()) == ((), (), ())


def test_publications_are_found_by_target_and_by_source(path):
    with opened(path) as store:
        first, second, other = publication(1), publication(2), publication(3, "/other")
        for row in (first, second, other):
            store.put_publication(row)

        assert store.publication("/t/1") == first
        assert store.publication("/t/9") is None
        assert store.publications("/s") == (first, second)
        assert store.publications("/nowhere") == ()
        assert set(store.publications()) == {first, second, other}
        assert set(store.sources()) == {"/s", "/other"}


def test_a_publication_takes_the_place_of_that_of_the_same_target(path):
    with opened(path) as store:
        store.put_publication(publication(1, "/old"))
        store.put_publication(publication(1, "/new"))

        assert store.sources() == ("/new",)
        assert store.publications("/old") == ()
    assert len(Store.read(path).publications()) == 1


def test_removing_tells_whether_there_was_something(path):
    with opened(path) as store:
        store.put_publication(publication(1))

        assert store.remove_publication("/t/1")
        assert not store.remove_publication("/t/1")
        assert store.sources() == ()
    assert Store.read(path).publications() == ()


def test_generations_are_kept_by_source_and_device(path):
    with opened(path) as store:
        store.put_generation(generation(dev="0:50"))
        store.put_generation(generation(dev="0:51"))
        dead = dataclasses.replace(generation(dev="0:50"), dead_at=9.0)
        store.put_generation(dead)
        store.remove_generation("/s", "0:51")
        store.remove_generation("/s", "0:99")

        assert store.generations("/s") == (dead,)
        assert store.generations("/other") == ()
    assert Store.read(path).generations() == (dead,)


def test_volumes_are_found_by_their_id(path):
    volume = Volume("id", "name", {"a": "b\udcff"}, 2**62)
    with opened(path) as store:
        store.put_volume(volume)

        assert store.volume("id") == volume
        assert store.volume("name") is None
    with opened(path) as store:
        assert store.volume("id") == volume
        assert store.remove_volume("id")
        assert not store.remove_volume("id")


def test_what_a_caller_does_to_his_parameters_afterwards_does_not_matter(path):
    parameters = {"a": "b"}
    with opened(path) as store:
        store.put_volume(Volume("id", "name", parameters, 0))
        parameters["a"] = "changed"

        assert store.volume("id") == Volume("id", "name", {"a": "b"}, 0)


def test_heals_are_told_newest_first(path):
    with opened(path) as store:
        for number in range(5):
            store.record_heal(heal(number, source="/a" if number % 2 else "/b"))

        assert [row.at for row in store.heals()] == [4, 3, 2, 1, 0]
        assert [row.at for row in store.heals("/a")] == [3, 1]
        assert [row.at for row in store.heals(limit=2)] == [4, 3]
        assert store.heals(limit=0) == ()
    assert [row.at for row in Store.read(path).heals()] == [4, 3, 2, 1, 0]


def test_only_the_newest_heals_are_kept(path):
    store = Store(path)  # the file comes into play at the flush: one transaction, not a thousand
    for number in range(KEPT_HEALS + 5):
        store.record_heal(heal(number))
    store.flush()
    store.record_heal(heal(KEPT_HEALS + 5))
    store.close()

    for kept in (store, Store.read(path)):
        assert len(kept.heals(limit=2 * KEPT_HEALS)) == KEPT_HEALS
        assert [row.at for row in kept.heals(limit=1)] == [KEPT_HEALS + 5]
        assert kept.heals(limit=KEPT_HEALS)[-1].at == 6


def test_a_file_that_cannot_be_written_does_not_eat_up_memory(path):
    path.mkdir()
    with opened(path) as store:
        for number in range(KEPT_HEALS + 50):
            store.record_heal(heal(number))

        assert len(store._unwritten) == KEPT_HEALS


def test_a_store_without_a_file_remembers_too():
    store = Store()
    store.put_publication(publication())
    store.flush()
    store.close()

    assert store.publications() == (publication(),)
    assert store.problem == ""


TEXT = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=20),
    st.binary(max_size=20).map(os.fsdecode),  # a path that is not UTF-8
)
TIMES = st.floats(allow_nan=False).map(lambda time: time + 0.0)  # SQLite keeps no -0.0
COUNTS = st.integers(-(2**63), 2**63 - 1)
ROWS: dict[object, st.SearchStrategy[object]] = {
    str: TEXT,
    bool: st.booleans(),
    int: COUNTS,
    float: TIMES,
}


@SHARED_TMP
@given(
    st.builds(Publication, **{f.name: ROWS[f.type] for f in dataclasses.fields(Publication)}),
    st.builds(Generation, *[TEXT] * 6, TIMES, st.none() | TIMES),
    st.builds(
        Heal, TEXT, TIMES, TEXT, st.booleans(), *[COUNTS] * 3, TIMES, st.none() | TIMES, TEXT
    ),
    st.builds(Volume, TEXT, TEXT, st.dictionaries(TEXT, TEXT, max_size=3), COUNTS),
)
def test_any_row_survives_a_restart(tmp_path, publication, generation, heal, volume):
    path = tmp_path / "state.db"
    with opened(path) as store:
        store.put_publication(publication)
        store.put_generation(generation)
        store.record_heal(heal)
        store.put_volume(volume)

    with opened(path) as store:
        assert store.problem == ""
        assert repr(store.publication(publication.target)) == repr(publication)
        assert generation in store.generations(generation.source)
        assert repr(store.heals(limit=1)) == repr((heal,))
        assert store.volume(volume.volume_id) == volume
        assert store.remove_publication(publication.target)
        assert store.remove_volume(volume.volume_id)
        store.remove_generation(generation.source, generation.dev)
    path.unlink()


class Machine(RuleBasedStateMachine):
    """Compare with plain dictionaries while the file is closed, replaced, removed and locked."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"store-{os.getpid()}-{id(self)}"
        self.path = self.folder / "state.db"
        self.rows: dict[str, Publication] = {}
        self.blocker: sqlite3.Connection | None = None
        self.store = Store.open(self.path)

    @rule(number=st.integers(0, 5), source=st.sampled_from("abc"), at=st.integers(0, 3))
    def put(self, number, source, at):
        row = publication(number, source, float(at))
        self.rows[row.target] = row
        self.store.put_publication(row)

    @rule(number=st.integers(0, 5))
    def remove(self, number):
        known = self.rows.pop(f"/t/{number}", None)
        assert self.store.remove_publication(f"/t/{number}") == (known is not None)

    @rule()
    def restart(self):
        self.unblock()
        self.store.close()
        self.store = Store.open(self.path)
        assert self.store.problem == ""

    @rule()
    def block(self):
        if self.blocker is None and self.path.exists():
            self.blocker = sqlite3.connect(self.path, isolation_level=None)
            self.blocker.execute("BEGIN IMMEDIATE")

    @rule()
    def unblock(self):
        if self.blocker is not None:
            self.blocker.close()
            self.blocker = None

    @rule()
    def lose_the_file(self):
        self.unblock()
        for file in self.folder.iterdir():
            file.unlink()

    @rule()
    def flush(self):
        self.store.flush()
        if self.blocker is None:
            assert self.store.problem == ""
            assert set(Store.read(self.path).publications()) == set(self.rows.values())

    @invariant()
    def memory_is_right(self):
        assert set(self.store.publications()) == set(self.rows.values())
        for source in "abc":
            expected = {row for row in self.rows.values() if row.source == source}
            assert set(self.store.publications(source)) == expected

    def teardown(self):
        self.unblock()
        self.store.close()
        shutil.rmtree(self.folder)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)


# The file


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_only_root_can_read_the_files(path, umask):
    before = os.umask(umask)
    try:
        with opened(path) as store:
            store.put_publication(publication())
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)

    assert modes == {"state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600}


def test_an_old_file_that_others_can_read_is_closed_to_them(path):
    Store.open(path).close()
    path.chmod(0o644)

    with opened(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_missing_parent_is_made_for_root_alone(tmp_path):
    with opened(tmp_path / "a" / "b" / "state.db") as store:
        assert store.problem == ""
        assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_a_commit_waits_for_the_disk(path):
    """Without synchronous=FULL a power cut loses commits; no test here can cut the power."""
    with opened(path) as store:
        assert store._file is not None
        ((synchronous,),) = store._file._db.execute("PRAGMA synchronous")
        ((journal,),) = store._file._db.execute("PRAGMA journal_mode")

    assert (synchronous, journal) == (2, "wal")


def test_nobody_waits_for_the_disk_to_read(path):
    with opened(path) as store:
        store.put_publication(publication())
        with store._disk:  # a write that takes for ever
            assert store.publications() == (publication(),)
            assert store.heals() == ()


def test_a_durable_write_is_in_the_file_at_once(path):
    with opened(path) as store:
        for number in range(3):
            store.put_publication(publication(number))
            assert len(Store.read(path).publications()) == number + 1


def test_other_processes_read_while_the_plugin_writes(path):
    reader = (
        "import sys; from pathlib import Path; from recover.store import Store\n"
        "print(len(Store.read(Path(sys.argv[1])).publications()))"
    )
    command = [sys.executable, "-c", reader, str(path)]
    stop = threading.Event()

    def write(store: Store) -> int:
        number = 0
        while not stop.is_set():
            number += 1
            store.put_publication(publication(number))
        return number

    with opened(path) as store, ThreadPoolExecutor(1) as threads:
        store.put_publication(publication(0))
        writer = threads.submit(write, store)
        outputs = [subprocess.run(command, capture_output=True, check=True) for _ in range(5)]
        seen = [int(output.stdout) for output in outputs]
        stop.set()
        written = writer.result(10)

        assert store.problem == ""
    assert 0 < seen[0] <= seen[-1] <= written + 1


def test_a_reader_changes_nothing_in_the_file(path):
    with opened(path) as store:
        store.put_publication(publication(1))
    before = dump(path)

    reader = Store.read(path)
    reader.put_publication(publication(2))
    reader.record_heal(heal())
    reader.flush()
    reader.close()

    assert len(reader.publications()) == 2
    assert dump(path) == before


def test_reading_an_absent_file_says_so(path):
    with pytest.raises(FileNotFoundError):
        Store.read(path)
    assert not path.exists()


@pytest.mark.parametrize("closed", ["file", "folder"])
def test_whoever_may_not_read_the_file_is_told_so(filled, closed):
    script = (
        "import sys; from pathlib import Path; from recover.store import Store\n"
        "try: Store.read(Path(sys.argv[1]))\n"
        "except Exception as error: print(repr(error))"
    )
    powerless = () if os.geteuid() else ("setpriv", "--inh-caps=-all", "--bounding-set=-all")
    command = [*powerless, sys.executable, "-c", script, str(filled)]
    place = filled if closed == "file" else filled.parent
    place.chmod(0o000)
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    finally:
        place.chmod(0o700)

    assert told.startswith("StateError")
    assert "run this as root" in told


def test_changes_of_many_threads_all_arrive(path):
    def change(number: int) -> None:
        store.put_publication(publication(number, source=f"/{number % 7}"))
        store.record_heal(heal(number))
        if number % 3 == 0:
            assert store.remove_publication(f"/t/{number}")
        assert len(store.publications()) <= 300

    with opened(path) as store, ThreadPoolExecutor(8) as threads:
        list(threads.map(change, range(300)))

        expected = {f"/t/{number}" for number in range(300) if number % 3}
        assert {row.target for row in store.publications()} == expected
    file = Store.read(path)
    assert {row.target for row in file.publications()} == expected
    assert sorted(row.at for row in file.heals(limit=999)) == list(range(300))


# Killed

WRITER = """
import sys
from pathlib import Path
from recover.store import Heal, Publication, Store
store = Store.open(Path(sys.argv[1]))
assert store.problem == "", store.problem
number = 1 + max((int(p.target) for p in store.publications()), default=-1)
print("open", number, flush=True)
while True:
    store.put_publication(Publication(str(number), "v", "/s"))
    store.record_heal(Heal("/s", float(number), "x", True, 1, 1, 1, 0.0, None))
    if number >= 50:
        assert store.remove_publication(str(number - 50))
    print("done", number, flush=True)
    number += 1
"""


def run_writer_and_kill_it(path: Path, after: int) -> int:
    """Kill a writing process -9 after some lines of output; return the last number acknowledged."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(after)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    words = [line.split() for line in lines if line.endswith("\n")]
    return max(int(number) - (word == "open") for word, number in words)


def test_a_kill_at_any_moment_loses_nothing_that_was_acknowledged(path):
    for round_ in range(12):
        acknowledged = run_writer_and_kill_it(path, after=1 + 37 * round_ % 101)

        for _ in range(2):  # with the -wal that was left behind, then again
            found = Store.read(path)
            newest = max((int(row.target) for row in found.publications()), default=-1)
            assert newest in {acknowledged, acknowledged + 1}
            numbers = {int(row.target) for row in found.publications()}
            assert numbers >= set(range(max(newest - 49, 0), newest + 1))
            assert len(numbers) <= 51 + round_  # a kill between put and remove leaves one more
            assert found.problem == ""
            last_heal = max((row.at for row in found.heals()), default=-1)
            assert last_heal in {newest, newest - 1}


def test_a_kill_while_the_file_is_made_leaves_one_that_can_be_used(tmp_path):
    maker = (
        "import sys; from pathlib import Path; from recover.store import Store\n"
        "print(1, flush=True)\n"
        "for name in range(10**6): Store.open(Path(sys.argv[1], str(name)))"
    )
    for round_ in range(5):
        folder = tmp_path / str(round_)
        with subprocess.Popen(
            [sys.executable, "-c", maker, str(folder)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            select.select([process.stdout], [], [], 0.02 + round_ * 0.007)
            process.kill()

        files = [file for file in folder.iterdir() if file.name.isdigit()]
        for file in files:
            with opened(file) as store:
                assert store.problem == ""
        assert files


def test_any_prefix_of_the_wal_is_a_state_that_once_was(tmp_path):
    """A power cut leaves some prefix of what was not synced yet, with rubbish behind it."""
    path = tmp_path / "state.db"
    with opened(path) as store:
        for number in range(6):
            store.put_publication(publication(number))
        database, wal = path.read_bytes(), Path(f"{path}-wal").read_bytes()
    cut = tmp_path / "cut.db"
    seen = set()
    for length in (*range(0, len(wal), 499), len(wal)):
        for file in tmp_path.glob("cut.db*"):
            file.unlink()
        cut.write_bytes(database)
        Path(f"{cut}-wal").write_bytes(wal[:length] + os.urandom(700))
        with opened(cut) as store:
            assert store.problem == ""
            seen.add(len(store.publications()))
            assert {row.target for row in store.publications()} == {
                f"/t/{number}" for number in range(len(store.publications()))
            }
    assert seen == set(range(7))


# Damaged


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


def edit(script: str):
    def change(path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.executescript(script)

    return change


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


@pytest.fixture
def filled(path):
    with opened(path) as store:
        for number in range(100):
            store.put_publication(publication(number))
    return path


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


# Unusable


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
