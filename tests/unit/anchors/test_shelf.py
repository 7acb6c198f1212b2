"""Where the anchors of a source lie, how they are named, and which of them are still needed."""

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from recover.anchors import anchor
from recover.anchors.anchor import KEPT, Key
from recover.anchors.shelf import Shelf, Variant, unneeded
from recover.linux.mounts import Attributes
from recover.rows import Publication
from tests.unit.handmade import NUMBER, RO, RW, RW_RECOVER, SHELF, publication, publications

INNER = st.text("ab/-é\n \udcff", max_size=6)
ANY_VARIANT = st.builds(Variant, st.just(value=True), INNER) | st.builds(
    Variant, st.just(value=False), INNER, st.booleans()
)


# Names


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


# What is needed


def keys(numbers: range, variant: Variant = RO) -> list[Key]:
    return [(number, variant.name) for number in numbers]


def gone(anchors: list[Key], *published: Publication) -> frozenset[Key]:
    return unneeded(anchors, published)[0]


def test_an_anchor_is_needed_as_long_as_a_publication_of_its_time_lives():
    there = keys(range(1, 6))

    assert gone(there, publication(since=3), publication("/u", since=5)) == {*keys(range(1, 3))}


def test_a_publication_of_unknown_time_needs_them_all():
    assert not gone(keys(range(1, 6)), publication(since=0), publication("/u", since=5))


def test_a_variant_is_needed_by_its_own_publications():
    there = [*keys(range(1, 4), RO), *keys(range(1, 4), RW)]
    published = publication(since=2), publication("/u", read_only=False, since=3)

    assert gone(there, *published) == {*keys(range(1, 2), RO), *keys(range(1, 3), RW)}


def test_read_only_volumes_need_the_same_anchors_whatever_they_ask_for_writing():
    published = publication(since=1), publication("/u", opted_in=True, since=3)

    assert not gone(keys(range(1, 4)), *published)
    assert not gone(keys(range(1, 4)), *reversed(published))


def test_an_anchor_of_parts_of_a_volume_is_needed_by_any_publication():
    part = Variant(True, "a")

    assert gone(keys(range(1, 4), part), publication(since=2)) == {*keys(range(1, 2), part)}


@pytest.mark.parametrize("extra", [-KEPT // 2, -1, 0, 1, 3])
def test_only_more_needed_anchors_than_are_kept_let_one_go(extra: int):
    there = keys(range(1, KEPT + extra + 1))

    going, is_surplus = unneeded(reversed(there), [publication(since=1)])

    assert going == {*there[1 : 1 + max(extra, 0)]}
    assert is_surplus is (extra > 0)


def test_each_variant_has_its_own_limit():
    there = [*keys(range(1, KEPT + 1), RO), *keys(range(1, KEPT + 1), Variant(True, "a"))]

    assert unneeded(there, [publication(since=1)]) == (frozenset(), False)


# Any shelf

ANCHORS = st.lists(
    st.tuples(
        st.integers(1, NUMBER),
        st.sampled_from([RO, RW, RW_RECOVER, Variant(True, "a"), Variant(False, "b")]).map(
            lambda variant: variant.name
        ),
    ),
    unique=True,
)
PUBLISHED = publications("/t", "/u", "/v")


@given(ANCHORS)
def test_nothing_stays_after_the_last_publication(there):
    assert unneeded(there, ()) == (frozenset(there), False)


@given(ANCHORS, PUBLISHED)
def test_what_a_publication_dates_from_stays(there, published):
    going, _ = unneeded(there, published)

    for p in published:
        assert not {(n, name) for n, name in going if name == Variant.of(p).name} & {
            (n, name) for n, name in there if n >= p.generation
        }


@given(ANCHORS, PUBLISHED)
def test_what_is_older_than_every_publication_goes(there, published):
    oldest = min((p.generation for p in published), default=NUMBER + 1)

    assert {key for key in there if key[0] < oldest} <= gone(there, *published)


@given(st.permutations(keys(range(1, 6))), st.permutations([0, 1, 3]))
def test_the_order_in_which_things_are_found_does_not_matter(there, numbers):
    published = [publication(f"/{n}", since=n + 1) for n in numbers]

    assert gone(there, *published) == gone(
        sorted(there), *sorted(published, key=lambda p: p.target)
    )


@given(st.integers(0, 3 * KEPT), st.integers(1, 2 * KEPT))
def test_the_oldest_needed_anchor_never_goes(count, since):
    there = keys(range(1, count + 1))

    going, _ = unneeded(there, [publication(since=since)])

    needed = [key for key in there if key[0] >= since]
    assert not {*needed[:1], *needed[-1:]} & going
    assert len(needed) - len(going & {*needed}) == min(len(needed), KEPT)
