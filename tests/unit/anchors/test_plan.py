"""The plan for the node: which anchors are made, what is mounted on which, what goes, in order."""

from dataclasses import replace

import pytest

from recover.anchors import plan
from recover.anchors.anchor import Anchor
from recover.anchors.plan import Attach, Bring, Cover, Drop, Make, Origins, Skip, Uncover
from recover.anchors.shelf import Variant
from recover.linux.mounts import Attributes
from tests.unit.anchors.planned import LIVING, made, of, only, planned
from tests.unit.handmade import (
    DEAD,
    HOME,
    LIVE,
    NUMBER,
    OLDER,
    OPTED_IN,
    RO,
    RW,
    RW_RECOVER,
    SHELF,
    SOURCE,
    WRITABLE,
    anchor,
    copy,
    generation,
    mount,
    node_case,
    publication,
)

# Anchors


def test_an_older_anchor_gets_a_peer_of_the_live_one_of_its_variant():
    case = node_case(anchors=(anchor(DEAD),))

    assert [type(step) for step in planned(case)] == [Make, Bring]
    assert only(Make, case).path == only(Bring, case).origin == SHELF.path(NUMBER, RO)


def test_a_live_anchor_that_is_there_is_not_made_again():
    assert not planned(node_case(anchors=(anchor(DEAD, LIVE), anchor(LIVE, number=NUMBER))))


def test_what_stands_on_an_older_anchor_is_taken_off_first():
    case = node_case(anchors=(anchor(OLDER, DEAD), anchor(DEAD, number=2)))

    assert [type(step) for step in planned(case)] == [Uncover, Make, Bring, Bring]


def test_an_anchor_whose_daemon_still_serves_is_left_alone():
    # a daemon upgrade mounts a second one while the first still serves
    assert not of(Bring, node_case(anchors=(anchor(LIVING, number=2),)))


def test_nothing_is_brought_to_an_anchor_whose_own_daemon_serves_beneath_a_dead_mount():
    assert not of(Bring, node_case(anchors=(anchor(LIVING, DEAD, number=2),)))


def test_an_anchor_that_shows_a_daemon_which_still_serves_is_left_alone():
    case = node_case(anchors=(anchor(OLDER, LIVING), anchor(LIVING, number=2)))

    assert not of(Uncover, case)
    assert not of(Bring, case)


def test_an_anchor_without_a_publication_is_healed_as_the_copies_that_hang_off_it():
    case = node_case(anchors=(anchor(DEAD, variant=Variant(True, "a")),))

    assert made(case) == {RO, Variant(True, "a")}
    assert only(Bring, case).origin == SHELF.path(NUMBER, Variant(True, "a"))


def test_other_parts_of_the_plan_may_need_an_anchor_too():
    case = node_case()
    origins = Origins(case)
    path = origins.of(Variant(True, "b"))

    made_there = [step for step in plan.steps(case, origins) if isinstance(step, Make)]
    assert path in {step.path for step in made_there}


def test_an_anchor_around_a_part_is_the_one_that_shows_the_least():
    case = node_case(publications=(publication(), publication("/u", "a")))

    assert Origins(case).around("a/b/c", read_only=True) == (
        SHELF.path(NUMBER, Variant(True, "a")),
        "b/c",
    )


def test_a_part_of_no_anchor_is_taken_from_one_of_all():
    case = node_case(publications=(publication("/u", "a"),))

    assert Origins(case).around("ab", read_only=True) == (SHELF.path(NUMBER, RO), "ab")


def test_an_anchor_around_a_part_has_the_rights_that_are_asked_for():
    assert Origins(node_case()).around("", read_only=False) == (SHELF.path(NUMBER, RW), "")


def test_while_the_source_is_away_dead_layers_are_taken_off_and_nothing_else_is_done():
    case = node_case(
        copy(mount(dev=OLDER), mount()),
        anchors=(anchor(OLDER, DEAD), anchor(DEAD, number=2)),
        live="",
    )

    assert [(step.path, step.keep) for step in plan.clear(case)] == [
        (SHELF.path(1, RO), 1),
        ("/t", 1),
    ]


def test_a_source_that_is_away_with_nothing_broken_needs_nothing():
    assert not planned(node_case(live=""))


def test_what_will_be_done_is_planned_while_the_source_is_away():
    case = node_case(anchors=(anchor(DEAD, number=2),), live="")

    assert [type(step) for step in planned(case)] == [Make, Bring]


# Copies that hang off no anchor


def test_a_stray_is_covered_by_a_slave_of_an_anchor_with_exactly_its_root():
    step = only(Cover, node_case(copy(mount(root="/a/b"), path="/s")))

    assert (step.path, step.origin) == ("/s", SHELF.path(NUMBER, Variant(True, "a/b")))
    assert step.attributes.propagation == "slave-shared"


def test_a_stray_at_a_target_shows_the_part_of_its_publication():
    case = node_case(copy(mount(root="/elsewhere")), publications=(publication("/t", "a"),))

    assert only(Cover, case).origin == SHELF.path(NUMBER, Variant(True, "a"))


def test_the_dead_layers_of_a_stray_go_before_it_is_covered():
    case = node_case(copy(mount(5, dev=OLDER), mount(6)))

    assert [type(step) for step in planned(case)] == [Uncover, Make, Cover]
    assert [layer.mnt_id for layer in only(Cover, case).copy.stack] == [5]


def test_a_live_mount_beneath_dead_layers_is_uncovered_and_nothing_is_put_on_it():
    # a swap was killed between attaching and detaching
    case = node_case(copy(mount(4, dev=OLDER), mount(5, dev=LIVE), mount(6)))

    assert only(Uncover, case).keep == 2
    assert not of(Cover, case)


@pytest.mark.parametrize(("group", "covers"), [(9, 1), (0, 2)])
def test_the_members_of_a_peer_group_are_covered_by_one_mount(group: int, covers: int):
    strays = (copy(mount(n, shared=group), path=f"/s{n}") for n in (5, 6))

    assert len(of(Cover, node_case(*strays))) == covers


def test_peers_that_show_other_parts_are_covered_one_by_one():
    strays = (copy(mount(5, shared=9, root=root), path=root) for root in ("/a", "/b"))

    assert [step.path for step in of(Cover, node_case(*strays))] == ["/a", "/b"]


def test_a_stray_outside_of_the_source_is_left():
    rows = (generation(root="/bucket"),)
    step = only(Skip, node_case(copy(mount(root="/other"), path="/s"), generations=rows))

    assert "/other" in step.reason


def test_a_stray_that_is_id_mapped_is_left():
    case = node_case(copy(mount(options="ro,idmapped"), path="/s"))

    assert "id-mapped" in only(Skip, case).reason
    assert not of(Cover, case)


def test_a_stray_is_covered_read_only_where_every_publication_is():
    # an earlier plugin set the flag too late for it to propagate
    case = node_case(copy(mount(options="rw,relatime"), path="/s"))

    assert "ro" in only(Cover, case).attributes.flags


# Targets without a mount


def test_a_target_whose_mount_is_gone_gets_a_slave_of_the_anchor():
    case = node_case(bare=(publication(),))

    assert [type(step) for step in planned(case)] == [Make, Attach]
    step = only(Attach, case)
    assert (step.target, step.origin) == ("/t", SHELF.path(NUMBER, RO))
    assert step.attributes == Attributes(frozenset(), "slave-shared", keep=True)


# Writable volumes


@pytest.mark.parametrize(
    "changes",
    [
        {"anchors": (anchor(DEAD, variant=RW),)},
        {"bare": (WRITABLE,)},
        {"strays": (copy(mount(options="rw,relatime")),)},
    ],
    ids="".join,
)
def test_a_writable_volume_is_left_with_what_to_set(changes):
    (step,) = planned(node_case(publications=(WRITABLE,), **changes))

    assert isinstance(step, Skip)
    assert (step.target, "--recover-writable" in step.reason) == ("/t", True)


def test_a_writable_volume_is_healed_by_the_setting():
    case = node_case(
        publications=(WRITABLE,), anchors=(anchor(DEAD, variant=RW),), recover_writable=True
    )

    assert only(Bring, case).origin == SHELF.path(NUMBER, RW)


def test_a_writable_volume_is_healed_by_its_attribute():
    case = node_case(publications=(OPTED_IN,), anchors=(anchor(DEAD, variant=RW_RECOVER),))

    assert only(Bring, case).origin == SHELF.path(NUMBER, RW_RECOVER)


def test_a_stray_that_may_be_healed_does_not_heal_others_of_its_source():
    """Only the one whose operator opted in; the other may have lost writes."""
    opted_in = replace(OPTED_IN, target="/u")
    case = node_case(
        copy(mount(options="rw,relatime"), path="/u"),
        publications=(WRITABLE, opted_in),
        anchors=(anchor(DEAD, variant=RW),),
    )

    assert only(Cover, case).target == "/u"
    assert not of(Bring, case)
    assert only(Skip, case).target == "/t"


# What goes


def test_the_anchors_go_of_which_no_publication_dates():
    case = node_case(
        publications=(publication(since=2),),
        anchors=(anchor(OLDER, LIVE), anchor(DEAD, LIVE, number=2), anchor(LIVE, number=NUMBER)),
    )

    assert [step.anchor.number for step in of(Drop, case)] == [1]


def test_so_many_anchors_that_one_goes_although_it_is_needed_are_told():
    many = tuple(anchor(DEAD, LIVE, number=n) for n in range(1, 300))
    case = node_case(anchors=many, number=299)

    *_, last = planned(case)
    assert isinstance(last, Skip)
    assert "heals no more until it is restarted" in last.reason


# In words


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (
            Uncover(HOME, "/t", (mount(), mount(), mount()), keep=2),
            "remove 1 dead layer(s) on top of /t",
        ),
        (
            Make(HOME, "/p/3-ro", SOURCE, Variant(True, "a")),
            f"mount a read-only copy of {SOURCE}/a as anchor /p/3-ro",
        ),
        (
            Bring(HOME, Anchor("/p/1-rw", 1, "rw", (mount(),)), "/p/3-rw"),
            "mount /p/3-rw on anchor /p/1-rw and so on all that hangs off it",
        ),
        (
            Cover(HOME, copy(), "/p/3-rw", Attributes()),
            "mount a writable copy of /p/3-rw on top of /t (superblock 0:50)",
        ),
        (
            Attach(HOME, "/t", "/p/3-ro", Attributes(frozenset({"ro"}))),
            "mount a read-only copy of /p/3-ro at /t, now bare",
        ),
        (
            Drop(HOME, Anchor("/p/1-rw", 1, "rw", (mount(),))),
            "remove anchor /p/1-rw: nothing can hang off it any more",
        ),
        (
            Skip(HOME, "/t", "it is late"),
            "leave /t in the mount namespace of process 1: it is late",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_a_step_says_in_words_what_it_does(step, words):
    assert step.describe() == words
