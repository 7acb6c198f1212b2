"""What the numbers of a dead daemon's connection mean."""

import itertools

import pytest

from recover.seamless.names import Names, Node, Version, join

ONE, TWO = Version(1, 1), Version(2, 2)


def test_a_number_that_somebody_holds_stays():
    names = Names()
    held = names.learn(42, Node("a/b", 1, 7, ONE))

    assert names.look_up("a/b", ONE) == (42, held)
    assert names.get(42) is held


def test_another_version_gets_another_number():
    names = Names()
    names.learn(42, Node("a", 0, 7, ONE))

    number, node = names.look_up("a", TWO)
    assert number != 42
    assert node.version == TWO
    assert names.get(42) == Node("a", 0, 7, ONE)


def test_a_number_of_ours_lives_as_long_as_it_was_looked_up():
    names = Names()
    number, _ = names.look_up("a", ONE)
    names.look_up("a", ONE)

    assert not names.forget(number, 1)
    assert names.get(number)
    assert names.forget(number, 1)
    assert names.get(number) is None
    assert names.look_up("a", ONE)[0] != number


def test_a_number_of_the_dead_daemon_goes_at_once():
    names = Names()
    names.learn(42, Node("a", 0, 7, ONE))

    assert names.forget(42, 1)
    assert len(names) == 1


def test_the_root_is_never_forgotten():
    names = Names()

    assert not names.forget(1, 1000)
    assert names.get(1) == Node("")
    assert names.look_up("", None)[0] == 1


def test_two_lives_of_the_reader_give_out_different_numbers():
    first, second = (Names().look_up("a", ONE)[0] for _ in range(2))

    assert min(first, second) >= 1 << 62
    assert first != second


def test_the_usual_generations_are_tried_first():
    assert list(itertools.islice(Names().generations(42), 2)) == [0, 1]


def test_a_generation_that_a_daemon_uses_for_all_is_kept_in_mind():
    names = Names()
    names.learn(42, Node("a", 1_700_000_000))

    assert 1_700_000_000 in itertools.islice(names.generations(7), 3)


@pytest.mark.parametrize(("number", "generation"), [(949, 940), (2, 57), (4000, 3)])
def test_a_generation_that_is_counted_up_is_found_without_any_that_is_known(
    number: int, generation: int
):
    assert generation in Names().generations(number)


def test_with_one_known_the_others_of_a_counting_daemon_are_found_soon():
    names = Names()
    names.learn(900_000, Node("a", 500_000))

    assert 500_995 in itertools.islice(names.generations(901_000), 100)


def test_no_generation_is_tried_that_a_handle_cannot_have():
    assert all(0 <= each < 1 << 32 for each in Names().generations((1 << 64) - 1))


def test_names_are_joined_below_the_root():
    assert [join("", "a"), join("a", "b")] == ["a", "a/b"]
