"""Targets on a plain directory: looked at, made, cleared, claimed."""

import contextlib
from pathlib import Path

import pytest

from csi_fluid.errors import Occupied, Withdrawn
from csi_fluid.volumes import targets
from csi_fluid.volumes.targets import Claims, Kind
from recover.errors import Busy


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "mount"


def test_what_stands_there_is_told(place: Path):
    assert targets.look(str(place)).kind is Kind.NOTHING
    place.symlink_to("/nowhere")
    assert targets.look(str(place)) == targets.Seen(Kind.LINK, link="/nowhere")
    place.unlink()
    place.mkdir()
    assert targets.look(str(place)).kind is Kind.DIRECTORY
    place.rmdir()
    place.touch()
    assert targets.look(str(place)).kind is Kind.FILE
    assert targets.look(str(place / "below")).kind is Kind.NOTHING
    assert targets.look("/proc").kind is Kind.MOUNT


def test_only_what_was_made_goes_again(place: Path):
    (place.parent / "mine").mkdir()
    with contextlib.suppress(ZeroDivisionError), targets.directory(place.parent / "mine/a/b"):
        assert (place.parent / "mine/a/b").is_dir()
        raise ZeroDivisionError

    assert list(place.parent.rglob("*")) == [place.parent / "mine"]


def test_a_directory_that_got_files_is_kept(place: Path):
    with contextlib.suppress(ZeroDivisionError), targets.directory(place):
        (place / "precious").touch()
        raise ZeroDivisionError

    assert (place / "precious").exists()


def test_what_a_killed_link_left_is_cleared(place: Path):
    place.symlink_to("/old")
    targets._temporary(str(place)).symlink_to("/new")
    targets.link(str(place), "/new")
    assert [path.readlink() for path in place.parent.iterdir()] == [Path("/new")]

    targets._temporary(str(place)).symlink_to("/new")
    targets.clear(str(place))
    assert list(place.parent.iterdir()) == []


def test_a_mount_is_not_cleared():
    with pytest.raises(Occupied, match="is a mount"):
        targets.clear("/proc")


def test_names_of_files_in_the_way_are_told_a_few(place: Path):
    place.mkdir()
    for name in "edcba":
        (place / name).touch()
    with pytest.raises(Occupied, match=r"5 entries .* such as 'a', 'b', 'c';"):
        targets.clear(str(place))

    assert len(list(place.iterdir())) == 5


def test_a_claim_keeps_others_out_until_it_ends():
    claims = Claims()
    with claims.hold("/a"), claims.hold("/b"), pytest.raises(Busy), claims.hold("/a"):
        pass
    with claims.hold("/a") as claim:
        claim.check()


def test_revoking_ends_the_claim_that_is_held_and_no_later_one():
    claims = Claims()
    claims.revoke("/a")
    with claims.hold("/a") as first:
        claims.revoke("/a")
        with pytest.raises(Withdrawn, match="/a was unpublished"):
            first.check()
    with claims.hold("/a") as second:
        second.check()
