"""Which copies may be healed, and when to try again."""

import itertools

import pytest
from hypothesis import given, strategies as st

from recover import policy
from recover.policy import Backoff
from recover.rows import Publication

READ_ONLY = Publication("/r", "v", "/src")
WRITABLE = Publication("/w", "v", "/src", read_only=False)
OPTED_IN = Publication("/o", "v", "/src", read_only=False, recover_writable=True)


def refusal(*publications: Publication, read_only: bool = False, setting: bool = False):
    return policy.refusal(
        copy_read_only=read_only, publications=publications, recover_writable=setting
    )


def test_a_writable_copy_of_a_writable_volume_is_refused_with_what_to_set():
    reason = refusal(WRITABLE)

    assert "--recover-writable" in reason
    assert "or recover-writable for this volume" in reason


def test_a_read_only_copy_of_a_writable_volume_is_healed():
    assert refusal(WRITABLE, read_only=True) is None


@pytest.mark.parametrize("publications", [(), (READ_ONLY,), (OPTED_IN,), (READ_ONLY, OPTED_IN)])
def test_a_copy_of_read_only_or_opted_in_publications_alone_is_healed(publications):
    assert refusal(*publications) is None


@given(st.permutations([READ_ONLY, OPTED_IN, WRITABLE]))
def test_one_writable_owner_among_others_is_enough_to_refuse(owners):
    assert refusal(*owners) is not None


@given(st.lists(st.sampled_from([READ_ONLY, OPTED_IN, WRITABLE])))
def test_the_setting_of_the_operator_allows_every_heal(owners):
    assert refusal(*owners, setting=True) is None


def test_waits_double_from_a_tenth_of_a_second():
    backoff = Backoff()

    waits = [backoff.wait_s() for _ in range(5)]
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6]


def test_waits_end_at_thirty_seconds():
    backoff = Backoff()

    waits = [backoff.wait_s() for _ in range(20)]
    assert waits[-10:] == [30.0] * 10


@given(st.integers(0, 30))
def test_a_reset_begins_anew(tries):
    backoff = Backoff()
    for _ in range(tries):
        backoff.wait_s()

    backoff.reset()

    assert [backoff.wait_s(), backoff.wait_s()] == [0.1, 0.2]


def test_no_wait_is_shorter_than_the_one_before_it():
    backoff = Backoff()

    waits = [backoff.wait_s() for _ in range(12)]
    assert all(first <= second for first, second in itertools.pairwise(waits))
