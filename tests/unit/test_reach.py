"""What a mount on the node reaches: peers and slaves with the same root, and with which flags."""

import pytest
from hypothesis import given, strategies as st

from recover.detect import Copy
from recover.linux.mountinfo import Mount
from recover.reach import Reach
from tests.unit.handmade import DEAD, OLDER, POD, RO, RW, anchor, copy, mount

ANCHOR = anchor(DEAD, variant=RO, shared=9)


def reach(*on_node: Copy) -> Reach:
    return Reach.of([ANCHOR], on_node)


def inside(**of: object) -> Copy:
    return copy(mount(**of), at=POD, path="/data")  # type: ignore[arg-type]


@pytest.mark.parametrize("group", [{"master": 9}, {"shared": 9}, {"shared": 12, "master": 9}])
def test_a_slave_and_a_peer_of_an_anchor_get_what_is_mounted_on_it(group):
    assert reach().has(inside(**group))


@pytest.mark.parametrize("group", [{}, {"master": 12}, {"shared": 12}])
def test_a_copy_of_another_group_or_none_gets_nothing(group):
    assert not reach().has(inside(**group))


def test_an_anchor_that_was_made_private_reaches_nobody():
    shared = copy(mount(shared=12))

    assert not Reach.of([anchor(DEAD)], [shared]).has(shared)


def test_a_copy_with_another_root_gets_nothing():
    # mount(2) propagates to the same place: a bind of a directory does not have the anchor's root
    assert not reach().has(inside(master=9, root="/sub"))


def test_an_anchor_of_a_part_reaches_copies_of_that_part():
    part = anchor(DEAD, shared=9)
    part = type(part)(part.path, 1, "ro-x", (part.base._replace(root="/sub"),))

    assert Reach.of([part], []).has(inside(master=9, root="/sub"))
    assert not Reach.of([part], []).has(inside(master=9))


def test_a_container_is_reached_through_its_target():
    target = copy(mount(master=9, shared=12))

    assert reach(target).has(inside(master=12))
    assert not reach().has(inside(master=12))


def test_a_chain_of_slaves_is_reached_in_whatever_order_the_table_has_it():
    chain = [copy(mount(master=m, shared=m + 1)) for m in (9, 10, 11)]

    assert reach(*chain).has(inside(master=12))
    assert reach(*reversed(chain)).has(inside(master=12))


def test_a_target_with_another_root_hands_nothing_on():
    sub_path = copy(mount(master=9, shared=12, root="/sub"))

    assert not reach(sub_path).has(inside(master=12))
    assert not reach(sub_path).has(inside(master=12, root="/sub"))


def test_a_target_that_is_no_slave_of_an_anchor_hands_nothing_on():
    assert not reach(copy(mount(master=13, shared=12))).has(inside(master=12))


def test_what_hangs_off_an_upper_layer_is_handed_on_when_that_is_detached():
    """A container that started after the first crash is a slave of the upper mount of its target.

    The kernel makes it one of that mount's master, the anchor, when the upper mount goes.
    """
    upper = copy(mount(5, dev=OLDER, master=8), mount(6, master=9, shared=12))

    assert reach(upper).has(inside(master=12))


def test_what_hangs_off_the_upper_layer_of_a_copy_does_not_count_for_the_copy():
    layers = mount(5, dev=OLDER, master=8), mount(6, master=9)

    assert not reach().has(copy(*layers, at=POD))


def test_a_copy_that_gets_a_mount_of_its_own_reaches_others():
    stray = copy(mount(shared=12), path="/s")

    assert reach().and_at([stray]).has(inside(master=12))
    assert reach().and_at([stray]).has(inside(master=9))


def test_a_private_copy_that_gets_a_mount_reaches_nobody():
    assert not reach().and_at([copy(mount())]).has(inside())


# Weaker than it was


@pytest.mark.parametrize(
    ("arriving", "own", "weaker"),
    [
        ("ro,relatime", "ro,relatime", False),
        ("ro,nosuid,nodev", "ro,nosuid,noatime", False),
        ("ro,noexec", "rw", False),
        ("rw", "ro", True),
        ("ro", "ro,nosuid", True),
        ("ro", "ro,nodev", True),
        ("ro", "ro,noexec", True),
        ("rw,nosuid", "rw,relatime,nodiratime", False),
    ],
)
def test_a_copy_loses_by_what_has_fewer_restrictions(arriving: str, own: str, *, weaker: bool):
    node = Reach.of([], []).and_at([copy(mount(shared=12, options=arriving))])

    assert node.weakens(inside(master=12, options=own)) is weaker


def test_a_copy_that_is_not_reached_loses_nothing():
    assert not reach().weakens(inside(master=12, options="ro,nosuid"))


def test_flags_are_those_of_the_anchor_that_is_reached():
    writable = anchor(DEAD, variant=RW, shared=8)
    both = Reach.of([ANCHOR, writable], [])

    assert both.weakens(inside(master=8))
    assert not both.weakens(inside(master=9))


def test_what_a_target_hands_on_has_the_flags_of_the_anchor():
    target = copy(mount(master=9, shared=12, options="rw"))

    assert not reach(target).weakens(inside(master=12, options="ro"))


# Any tree of peer groups

GROUPS = st.integers(0, 4)
MOUNTS = st.builds(
    lambda root, shared, master: mount(root=root, shared=shared, master=master),
    st.sampled_from(["/", "/sub"]),
    GROUPS,
    GROUPS,
)


@given(st.lists(MOUNTS, max_size=4), MOUNTS, GROUPS)
def test_nothing_is_reached_that_does_not_have_the_root_of_an_anchor(
    on_node: list[Mount], inside: Mount, group: int
):
    node = Reach.of([anchor(DEAD, shared=group)], [copy(m) for m in on_node])

    if node.has(copy(inside, at=POD)):
        assert inside.root == "/"


@given(st.lists(MOUNTS, max_size=4), MOUNTS, GROUPS)
def test_whatever_is_reached_is_a_peer_or_slave_of_something(
    on_node: list[Mount], inside: Mount, group: int
):
    node = Reach.of([anchor(DEAD, shared=group)], [copy(m) for m in on_node])

    above = {group, *(m.shared for m in on_node)} - {0}
    assert not node.has(copy(inside, at=POD)) or {inside.shared, inside.master} & above


@given(st.lists(MOUNTS, max_size=4), MOUNTS)
def test_without_an_anchor_nothing_is_reached(on_node: list[Mount], inside: Mount):
    assert not Reach.of([], [copy(m) for m in on_node]).has(copy(inside, at=POD))
