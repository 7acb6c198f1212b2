"""What is remembered: through restarts, while the file is locked, without a file."""

import dataclasses
import os
import shutil
import sqlite3
from pathlib import Path

from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from recover.rows import Generation, Heal, Method, Publication, Volume
from recover.store import KEPT_HEALS, Store
from tests.unit.store.rows import SHARED_TMP, generation, heal, opened, publication


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
    Method: st.sampled_from(Method),
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
TestMachine.settings = settings(max_examples=15, stateful_step_count=15)
