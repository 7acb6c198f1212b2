"""Which anchors of a source are still needed."""

import pytest
from hypothesis import given, strategies as st

from recover.anchors.anchor import Key
from recover.anchors.retention import unneeded
from recover.anchors.shelf import Variant
from recover.policy import KEPT_ANCHORS
from recover.rows import Publication
from tests.unit.handmade import NUMBER, RO, RW, RW_RECOVER, publication, publications


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


@pytest.mark.parametrize("extra", [-KEPT_ANCHORS // 2, -1, 0, 1, 3])
def test_only_more_needed_anchors_than_are_kept_let_one_go(extra: int):
    there = keys(range(1, KEPT_ANCHORS + extra + 1))

    going, is_surplus = unneeded(reversed(there), [publication(since=1)])

    assert going == {*there[1 : 1 + max(extra, 0)]}
    assert is_surplus is (extra > 0)


def test_each_variant_has_its_own_limit():
    there = [
        *keys(range(1, KEPT_ANCHORS + 1), RO),
        *keys(range(1, KEPT_ANCHORS + 1), Variant(True, "a")),
    ]

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


@given(st.integers(0, 3 * KEPT_ANCHORS), st.integers(1, 2 * KEPT_ANCHORS))
def test_the_oldest_needed_anchor_never_goes(count, since):
    there = keys(range(1, count + 1))

    going, _ = unneeded(there, [publication(since=since)])

    needed = [key for key in there if key[0] >= since]
    assert not {*needed[:1], *needed[-1:]} & going
    assert len(needed) - len(going & {*needed}) == min(len(needed), KEPT_ANCHORS)
