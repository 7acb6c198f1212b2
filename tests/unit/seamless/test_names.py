"""What the numbers of a dead daemon's connection mean."""

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


def test_a_generation_that_a_daemon_uses_is_kept_in_mind():
    names = Names()
    names.learn(42, Node("a", 9))

    assert names.generations == (0, 1, 9)


def test_names_are_joined_below_the_root():
    assert [join("", "a"), join("a", "b")] == ["a", "a/b"]
