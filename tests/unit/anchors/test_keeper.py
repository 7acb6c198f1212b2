"""The numbers of generations, and what of the anchors' folder goes with their last user."""

import contextlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from recover.anchors.keeper import Keeper
from recover.errors import Busy
from recover.linux.mountinfo import Mount
from recover.locks import Locks
from recover.store import Store
from tests.unit.handmade import DEAD, LIVE, OLDER, RO, RW, SOURCE, mount, publication

removes = pytest.mark.skipif(os.geteuid() != 0, reason="umount2(2) is refused to all but root")


class Kept:
    """A keeper whose store is memory alone; anchors are directories without a mount."""

    def __init__(self, root: Path) -> None:
        self.store = Store()
        self.locks = Locks()
        self.keeper = Keeper(self.store, root, "boot", self.locks)
        self.shelf = self.keeper.shelf(SOURCE)

    def number(self, source: Mount) -> int:
        return self.keeper._number(source, self.shelf)

    def lives(self, dev: str) -> int:
        """Return the number of a generation, for which a place is made."""
        number = self.number(mount(path=SOURCE, dev=dev))
        Path(self.shelf.path(number, RO)).mkdir(parents=True, exist_ok=True)
        return number

    def dies(self, dev: str, *, remembered: bool = True) -> None:
        (row,) = (g for g in self.store.generations(SOURCE) if g.dev == dev)
        if remembered:
            self.store.put_generation(replace(row, dead_at=2.0))
        else:
            self.store.remove_generation(SOURCE, dev)

    @property
    def places(self) -> list[int]:
        return sorted(number for number, _ in self.shelf.places())


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


# Numbers


def test_the_first_generation_is_recorded_with_all_that_identifies_it(kept: Kept):
    source = mount(path=SOURCE, dev=LIVE, root="/bucket", fs_type="fuse.s3fs", source="b")

    number = kept.number(source)

    (row,) = kept.store.generations()
    assert (row.source, row.dev, row.root, row.number, number) == (SOURCE, LIVE, "/bucket", 1, 1)
    assert (row.fs_type, row.mount_source, row.boot_id) == ("fuse.s3fs", "b", "boot")
    assert row.dead_at is None


def test_a_generation_without_a_number_gets_one(kept: Kept):
    kept.lives(DEAD)
    (row,) = kept.store.generations()
    kept.store.put_generation(replace(row, number=0))  # as a file of version 1 has it

    number = kept.lives(DEAD)

    (row,) = kept.store.generations()
    assert row.number == number != 0


def test_a_device_number_that_the_kernel_gave_away_again_is_another_generation(kept: Kept):
    first = kept.lives(DEAD)
    kept.dies(DEAD)

    assert kept.lives(DEAD) > first


def test_the_number_of_a_generation_whose_anchors_went_is_not_given_again(kept: Kept):
    first = kept.lives(DEAD)
    kept.dies(DEAD)
    Path(kept.shelf.path(first, RO)).rmdir()

    assert kept.lives(LIVE) > first


def test_sources_are_numbered_apart(kept: Kept):
    kept.lives(OLDER)
    kept.lives(DEAD)
    other = mount(path="/other", dev=LIVE)

    assert kept.keeper._number(other, kept.keeper.shelf("/other")) == 1


LIVES = st.lists(st.tuples(st.sampled_from([DEAD, OLDER, LIVE]), st.booleans()), max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LIVES)
def test_a_number_is_stable_and_never_anothers(tmp_path_factory: pytest.TempPathFactory, lives):
    kept = Kept(tmp_path_factory.mktemp("kept"))
    numbers: list[int] = []
    for dev, remembered in lives:
        number = kept.lives(dev)
        assert kept.lives(dev) == number
        numbers.append(number)
        kept.dies(dev, remembered=remembered)

    assert numbers == sorted(set(numbers))


# What goes


@removes
def test_the_anchors_go_that_no_publication_dates_from(kept: Kept):
    for dev in (OLDER, DEAD, LIVE):
        kept.lives(dev)
    kept.store.put_publication(publication(since=2))

    kept.keeper.drop(SOURCE)

    assert kept.places == [2, 3]
    assert len(kept.store.generations(SOURCE)) == 3


@removes
def test_nothing_of_a_source_is_left_after_its_last_publication(kept: Kept, tmp_path: Path):
    kept.lives(DEAD)
    Path(kept.shelf.path(1, RW)).mkdir()

    kept.keeper.drop(SOURCE)

    assert not list(tmp_path.iterdir())
    assert kept.store.generations() == ()


@removes
def test_the_anchors_of_another_source_stay(kept: Kept, tmp_path: Path):
    kept.lives(DEAD)
    other = Path(kept.keeper.shelf("/other").path(1, RO))
    other.mkdir(parents=True)

    kept.keeper.drop(SOURCE)

    assert other.exists()


@removes
def test_what_a_killed_plugin_left_of_unpublished_sources_is_removed(kept: Kept, tmp_path: Path):
    kept.lives(OLDER)
    kept.lives(DEAD)
    kept.store.put_publication(publication(since=2))
    left = Path(kept.keeper.shelf("/other").path(1, RO))
    left.mkdir(parents=True)

    kept.keeper.tidy()

    assert kept.places == [2]
    assert not left.parent.exists()


def test_where_nothing_was_ever_anchored_there_is_nothing_to_tidy(kept: Kept, tmp_path: Path):
    kept.keeper.tidy()

    assert not list(tmp_path.iterdir())


def test_whoever_changes_the_anchors_of_a_source_does_so_alone(kept: Kept):
    with kept.keeper.turn(SOURCE), contextlib.ExitStack() as other:
        other.enter_context(kept.keeper.turn("/other"))
        with pytest.raises(Busy):
            other.enter_context(kept.locks.hold(SOURCE))
