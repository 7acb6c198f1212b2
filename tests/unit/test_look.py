"""What a look makes of mount tables: what a mount on the node will reach, harm or miss."""

import contextlib
import os
from typing import Any

import pytest

from recover import look
from recover.anchors import anchor as anchors
from recover.linux import mountinfo
from recover.linux.mountinfo import Mount, MountTable
from recover.linux.namespaces import Namespace
from recover.linux.owntable import OwnTable
from recover.linux.probe import Answer, Prober, Reply
from recover.look import Looker, View
from recover.policy import Strategy
from recover.reach import Reach
from recover.rows import Method, Publication
from recover.store import Store
from recover.visits.plan import Kin
from tests.unit.handmade import (
    DEAD,
    FOREIGN,
    HOME,
    LIVE,
    NUMBER,
    OLDER,
    OPTED_IN,
    OTHER_POD,
    POD,
    RW,
    SHELF,
    SOURCE,
    WRITABLE,
    anchor,
    copy,
    generation,
    mount,
    node_case,
    publication,
    table,
)

ANCHOR = anchor(DEAD, shared=9).base
ROW = publication()
TARGET = mount(5, "/t", master=9, shared=12)
NOTHING: look.MadePrivate = {}


def view(found: tuple[anchors.Anchor, ...] = (), **changes: Any) -> View:
    known: dict[str, Any] = {
        "source": SOURCE,
        "publications": (ROW,),
        "generations": (),
        "reply": Reply(Answer.ALIVE, LIVE),
        "answered_at": 0.0,
        "live": LIVE,
        "anchors": found,
        "verdicts": {DEAD: Answer.DEAD, OLDER: Answer.DEAD},
    }
    return View(**known | changes)


def seen(
    node: MountTable,
    *pods: MountTable,
    published: tuple[Publication, ...] = (ROW,),
    made_private: look.MadePrivate = NOTHING,
    **changes: Any,
) -> View:
    """Return what a look at these tables finds: the node's, and those of containers."""
    given = view(anchors.find(node, SHELF.folder), publications=published, **changes)
    case = node_case(publications=published, anchors=given.anchors, dead=given.dead)
    elsewhere = zip((POD, OTHER_POD), pods, strict=False)
    return look.with_copies(case, given, [(HOME, node), *elsewhere], made_private)


# On the node


def test_a_target_that_hangs_off_an_anchor_needs_nothing_but_a_mount_there():
    found = seen(table(ANCHOR, TARGET))

    assert (found.hanging, found.strays, found.layers) == (1, (), 1)


def test_a_target_that_shows_the_live_mount_is_whole():
    found = seen(table(ANCHOR, TARGET, mount(6, "/t", LIVE, on=5)))

    assert (found.hanging, found.strays, found.layers, found.is_broken) == (0, (), 2, False)


def test_a_dead_copy_off_no_anchor_is_a_stray():
    assert [c.path for c in seen(table(ANCHOR, mount(5, "/s", root="/sub", master=9))).strays] == [
        "/s"
    ]


def test_what_hangs_off_an_anchor_that_is_left_is_a_stray():
    writable = anchor(DEAD, variant=RW, shared=9).base

    found = seen(table(writable, TARGET), published=(WRITABLE,))

    assert (found.hanging, [c.path for c in found.strays]) == (0, ["/t"])


def test_a_target_that_missed_what_stands_on_its_anchor_is_a_stray():
    brought = mount(101, ANCHOR.mount_point, LIVE, on=ANCHOR.mnt_id)

    found = seen(table(ANCHOR, brought, TARGET))
    assert (found.hanging, [c.path for c in found.strays]) == (0, ["/t"])


def test_neither_the_source_nor_an_anchor_is_a_copy():
    assert not seen(table(ANCHOR, mount(6, SOURCE, DEAD))).is_broken


def test_a_stray_that_something_hides_is_left_alone():
    assert not seen(table(mount(5, "/a/t"), mount(6, "/a", FOREIGN))).strays


def test_of_two_copies_at_one_path_the_one_that_is_shown_counts():
    """A directory that is bound on itself, as kubelet's is on some nodes, shows all mounts twice.

    Those beneath the bind nobody can reach.
    """
    twice = (mount(5, "/k/t", shared=7), mount(6, "/k", FOREIGN), mount(7, "/k/t", on=6, shared=7))

    found = seen(table(*twice))
    assert ([c.stack[0].mnt_id for c in found.strays], found.hanging) == ([7], 0)


def test_paths_with_more_than_the_dead_and_the_live_mount_are_deep():
    layers = mount(6, "/t", OLDER, on=5), mount(7, "/t", LIVE, on=6)

    found = seen(table(ANCHOR, TARGET, *layers, mount(8, "/u"), mount(9, "/u", LIVE, on=8)))

    assert ([c.path for c in found.deep], found.layers) == (["/t"], 3)


def test_peers_are_the_strays_that_what_is_mounted_on_the_source_would_cover():
    source = mount(4, SOURCE, shared=3)
    bind, other = mount(5, "/t", shared=3), mount(6, "/u", shared=4)

    found = seen(table(source, bind, other))
    assert [c.path for c in found.peers] == ["/t"]


def test_a_stray_above_a_peer_of_the_source_is_no_peer_to_part():
    # to part it would not help: what is below gets the mount
    stack = mount(5, "/t", OLDER, shared=3), mount(6, "/t", on=5, shared=3)

    assert not seen(table(mount(4, SOURCE, shared=3), *stack)).peers


# In other namespaces


def test_a_container_off_a_target_off_an_anchor_is_reached():
    found = seen(table(ANCHOR, TARGET), table(mount(50, "/data", master=12)))

    assert (found.hanging, found.exposed) == (2, ())


def test_a_container_off_a_stray_that_will_be_covered_is_reached():
    found = seen(table(mount(5, "/t", shared=12)), table(mount(50, "/data", master=12)))

    assert (found.hanging, [c.path for c in found.strays]) == (1, ["/t"])


def test_a_container_off_a_stray_that_is_left_is_not_reached():
    stray = mount(5, "/t", options="rw", shared=12)
    inside = table(mount(50, "/data", options="rw", master=12))

    assert seen(table(stray), inside, published=(WRITABLE,)).hanging == 0
    assert seen(table(stray), inside, published=(OPTED_IN,)).hanging == 1


def test_layers_are_counted_in_containers_too():
    inside = mount(50, "/data"), mount(51, "/data", OLDER, on=50), mount(52, "/data", LIVE, on=51)

    assert seen(table(ANCHOR), table(*inside)).layers == 3


def test_anchors_that_a_container_sees_are_no_copies():
    assert not seen(table(ANCHOR), table(ANCHOR)).is_broken


def fate(
    *stack: Mount,
    inside: tuple[Mount, ...] = (),
    node: tuple[Mount, ...] = (ANCHOR, TARGET),
    off_source: frozenset[int] = frozenset(),
) -> str:
    """Return what becomes of a container's copy beside what is on the node."""
    found = view(anchors.find(table(*node), SHELF.folder))
    reach = Reach.of(found.anchors, [copy(TARGET)])
    given = copy(*stack, at=POD, path="/data", inside=inside)
    return look._fate(given, found, reach, off_source).name


@pytest.mark.parametrize(
    ("stack", "expected"),
    [
        ((mount(master=12),), "REACHED"),
        ((mount(dev=OLDER, master=12), mount()), "REACHED"),
        ((mount(), mount(dev=LIVE)), "WHOLE"),
        ((mount(dev=LIVE), mount()), "MISSED"),
        ((mount(),), "MISSED"),
        ((mount(shared=44),), "MISSED"),
        ((mount(root="/sub", master=12),), "MISSED"),
        ((mount(options="ro,nosuid", master=12),), "EXPOSED"),
        ((mount(options="rw", master=12),), "REACHED"),
    ],
)
def test_the_fate_of_a_copy_in_a_container(stack: tuple[Mount, ...], expected: str):
    assert fate(*stack) == expected


@pytest.mark.parametrize(("group", "expected"), [(12, "EXPOSED"), (44, "MISSED")])
def test_what_is_mounted_inside_a_copy_would_be_covered_where_it_is_reached(group, expected):
    nested = mount(60, "/data/cache", FOREIGN, on=50)

    assert fate(mount(50, master=group), inside=(nested,)) == expected


@pytest.mark.parametrize("layer", [{"master": 3}, {"shared": 3}])
def test_a_copy_off_the_source_would_get_what_its_daemon_stacks(layer):
    source = frozenset({3})

    assert fate(mount(**layer), off_source=source) == "EXPOSED"
    assert fate(mount(dev=OLDER, master=12), mount(**layer), off_source=source) == "EXPOSED"
    assert fate(mount(), mount(dev=LIVE, **layer), off_source=source) == "WHOLE"


def test_nothing_is_off_a_source_that_is_in_no_peer_group():
    assert not seen(table(mount(4, SOURCE)), table(mount(50, "/data"))).exposed


@pytest.mark.parametrize(("method", "exposed"), [(Method.BIND, ["/data"]), (Method.SIDECAR, [])])
def test_the_copies_of_a_sidecar_are_off_the_source_as_they_should_be(method, exposed):
    row = publication()
    source, inside = mount(4, SOURCE, shared=3), table(mount(50, "/data", master=3))

    found = seen(table(source), inside, published=(type(row)("/t", "", SOURCE, method=method),))
    assert [c.path for c in found.exposed] == exposed


# Copies that a visit is for; those of this process, whose whole table is read


PROC = mountinfo.read().at("/proc")
OURS = Namespace(1, os.getpid())


def missed(*layers: Mount, made_private: look.MadePrivate = NOTHING) -> View:
    assert PROC is not None
    given = view(verdicts={PROC.dev: Answer.DEAD}, live="")
    inside = MountTable(layers)
    return look.with_copies(node_case(), given, [(HOME, table()), (OURS, inside)], made_private)


def test_a_copy_that_nothing_reaches_is_for_a_visit():
    assert PROC is not None
    found = missed(PROC._replace(shared=0, master=0))

    assert [c.path for c in found.copies] == ["/proc"]
    assert found.is_broken


def test_a_copy_that_something_hides_gets_no_visit():
    assert PROC is not None

    assert not missed(PROC._replace(mnt_id=1_000_000_000)).copies


def test_a_copy_that_was_parted_is_for_a_visit_as_it_was_before():
    assert PROC is not None
    before = PROC._replace(shared=0, master=44)

    found = missed(PROC, made_private={(OURS.inode, PROC.mnt_id): before})

    assert [c.stack for c in found.copies] == [(before,)]


def test_the_copy_of_a_process_that_ended_gets_no_visit():
    assert PROC is not None
    given = view(verdicts={PROC.dev: Answer.DEAD}, live="")
    ended = Namespace(1, 2**22 + 1)

    tables = [(HOME, table()), (ended, MountTable([PROC]))]
    assert not look.with_copies(node_case(), given, tables, NOTHING).copies


# Kin


def test_kin_are_what_becomes_whole_on_the_node_by_group():
    target = mount(5, "/t", master=9, shared=12)
    whole = mount(6, "/u", root="/a", shared=13), mount(7, "/u", LIVE, on=6, shared=14)
    stray = mount(8, "/s", shared=15)

    private = mount(9, "/v"), mount(10, "/v", LIVE, on=9)

    found = seen(table(ANCHOR, target, *whole, stray, *private))
    assert found.kin == {
        9: (Kin(ANCHOR.mount_point, "/"),),
        12: (Kin("/t", "/"),),
        13: (Kin("/u", "/a"),),
        14: (Kin("/u", "/"),),
        15: (Kin("/s", "/"),),
    }


def test_kin_of_one_group_are_all_named():
    peers = mount(5, "/t", master=9, shared=12), mount(6, "/s", master=9, root="/a", shared=12)

    found = seen(table(ANCHOR, *peers))
    assert Kin("/t", "/") in found.kin[12]


def test_what_is_left_is_nobodys_kin():
    stray = mount(5, "/t", options="rw", shared=12)

    assert not seen(table(stray), published=(WRITABLE,)).kin


# The view


@pytest.mark.parametrize(
    "changes",
    [
        {"hanging": 1},
        {"strays": (copy(),)},
        {"copies": (copy(at=POD),)},
        {"exposed": (copy(at=POD),)},
        {"bare": (publication(),)},
        {"live": "", "seen": frozenset({DEAD})},
    ],
)
def test_a_source_is_broken_when_somebody_meets_a_dead_mount(changes):
    assert view(**changes).is_broken


@pytest.mark.parametrize("changes", [{}, {"seen": frozenset({DEAD})}, {"live": ""}])
def test_a_source_is_not_broken_because_of_what_nobody_uses(changes):
    assert not view(**changes).is_broken


def test_older_daemons_that_answer_or_hang_still_serve():
    verdicts = {DEAD: Answer.DEAD, "0:1": Answer.ALIVE, "0:2": Answer.HUNG, "0:3": Answer.ABSENT}

    assert view(verdicts=verdicts).serving == {LIVE, "0:1", "0:2"}
    assert view(verdicts={}, live="").serving == set()


@pytest.mark.parametrize(("dev", "dead"), [(LIVE, False), (DEAD, True)])
def test_the_live_mount_is_not_dead_because_one_of_its_number_was(dev: str, *, dead: bool):
    """The kernel gives a number away again when the last anchor of a dead generation went."""
    gone = frozenset({dev})
    with contextlib.closing(OwnTable()) as own:
        looker = Looker(Store(), Prober(), own, Strategy.PROPAGATION, anchors=SHELF.root)
        alive = Reply(Answer.ALIVE, LIVE)
        verdicts = looker._verdicts(SOURCE, alive, gone, gone, [], gone)

    assert verdicts == ({dev: Answer.DEAD} if dead else {})


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({"anchors": (anchor(LIVE, number=NUMBER), anchor(DEAD, number=7))}, NUMBER),
        ({"generations": (generation(LIVE, dead_at=None, number=5),)}, 5),
        ({"generations": (generation(LIVE, dead_at=1.0, number=5),)}, 6),
        ({"anchors": (anchor(DEAD, number=7),), "generations": (generation(number=4),)}, 8),
        ({}, 1),
    ],
)
def test_the_number_of_the_live_generation_is_its_own_or_the_next(changes, number):
    assert view(**changes).number == number
