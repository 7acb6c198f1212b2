"""Where the anchors of a source lie, and how they are named."""

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from recover.anchors import anchor
from recover.anchors.shelf import Shelf, Variant
from recover.linux.mounts import Attributes
from tests.unit.handmade import RO, RW, RW_RECOVER, SHELF, publication

INNER = st.text("ab/-é\n \udcff", max_size=6)
ANY_VARIANT = st.builds(Variant, st.just(value=True), INNER) | st.builds(
    Variant, st.just(value=False), INNER, st.booleans()
)


def test_anchors_of_a_source_lie_in_a_folder_of_its_own():
    other = Shelf(SHELF.root, f"{SHELF.source}2")

    assert SHELF.folder.parent == other.folder.parent == Path("/plugin/.csi-fluid")
    assert SHELF.folder != other.folder


@given(st.integers(0, 10**9 - 1), ANY_VARIANT)
def test_the_path_of_an_anchor_says_whose_it_is(number, variant):
    path = Path(SHELF.path(number, variant))

    assert anchor.is_anchor(str(path))
    assert anchor.key_of(path.name) == (number, variant.name)
    assert Variant.named(variant.name, variant.inner) == variant


@given(ANY_VARIANT, ANY_VARIANT)
def test_different_variants_have_different_names(one, other):
    assert (one.name == other.name) == (one == other)


def test_a_read_only_volume_has_no_variant_for_writing():
    assert Variant.of(publication(opted_in=True)) == RO


@pytest.mark.parametrize("name", ["", "view", "x-ro", "1-RO", "1-ro/2", "-ro", "1234567890", "1 "])
def test_other_names_are_no_anchors(name: str):
    assert anchor.key_of(name) is None


@pytest.mark.parametrize(
    ("variant", "flags"), [(RO, {"ro"}), (RW, set()), (RW_RECOVER, set())], ids=str
)
def test_an_anchor_has_the_flags_of_its_source_and_a_peer_group_of_its_own(variant, flags):
    assert variant.attributes == Attributes(frozenset(flags), "shared", keep=True)


def test_places_that_were_made_for_anchors_are_found_mounted_or_not(tmp_path: Path):
    shelf = Shelf(tmp_path, "/src")
    assert shelf.places() == {}

    path = Path(shelf.path(7, RO))
    path.mkdir(parents=True)
    (shelf.folder / "view").mkdir()

    assert shelf.places() == {(7, "ro"): str(path)}


def test_only_an_empty_folder_is_removed(tmp_path: Path):
    shelf = Shelf(tmp_path, "/src")
    shelf.remove()
    place = Path(shelf.path(1, RO))
    place.mkdir(parents=True)

    shelf.remove()
    assert place.exists()

    place.rmdir()
    shelf.remove()
    assert not list(tmp_path.iterdir())
