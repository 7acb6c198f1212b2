"""The plan for other namespaces: what each copy there is replaced by, and how it hangs together."""

from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import given, strategies as st

from recover.anchors import plan as anchors
from recover.anchors.plan import Skip
from recover.anchors.shelf import Variant
from recover.detect import Copy, Origin
from recover.linux.mountinfo import Mount
from recover.linux.mounts import Attributes
from recover.rows import Publication
from recover.visits import plan
from recover.visits.plan import Case, Kin, MakePrivate, Peel, Step, Swap
from tests.unit.handmade import (
    DEAD,
    FOREIGN,
    HOME,
    KEPT_OPTIONS,
    LIVE,
    NUMBER,
    OLDER,
    OPTED_IN,
    OPTIONS,
    OTHER_POD,
    POD,
    RO,
    ROOTS,
    RW,
    SHELF,
    SOURCE,
    WRITABLE,
    copy,
    generation,
    mount,
    node_case,
    publication,
    publications,
)

S = TypeVar("S", bound=Step)

TARGET, PART = Kin("/t", "/"), Kin("/s", "/sub")


def inside(*stack: Mount, within: tuple[Mount, ...] = ()) -> Copy:
    return copy(*(stack or (mount(),)), at=POD, path="/data", inside=within)


def case(
    *copies: Copy, published: tuple[Publication, ...] = (publication(),), **changes: Any
) -> Case:
    """Return a case; changes are its fields."""
    return Case(node_case(publications=published), copies, **changes)


def planned(given_case: Case) -> tuple[Step, ...]:
    return plan.steps(given_case, anchors.Origins(given_case.node))


def only(kind: type[S], given_case: Case) -> S:
    (step,) = planned(given_case)
    assert isinstance(step, kind)
    return step


# What is done


def test_a_copy_shows_the_part_that_it_showed():
    step = only(Swap, case(inside(mount(root="/a/b"))))

    assert (step.origin, step.inner) == (SHELF.path(NUMBER, RO), "a/b")


def test_a_copy_is_no_target_whatever_its_path():
    assert not only(Swap, case(copy(at=POD, path="/t"))).target


def test_a_copy_of_what_lies_outside_of_the_source_is_left():
    outside = case(inside(mount(root="/other")))
    node = replace(outside.node, generations=(generation(root="/bucket"),))

    assert "/other" in only(Skip, replace(outside, node=node)).reason


def test_the_dead_layers_above_a_live_mount_are_removed():
    # a heal was killed between attaching and detaching
    step = only(Peel, case(inside(mount(dev=OLDER), mount(7, dev=LIVE), mount(dev=OLDER), mount())))

    assert [layer.dev for layer in step.copy.stack] == [LIVE, OLDER, DEAD]


def test_a_copy_with_something_inside_that_cannot_be_rebuilt_is_left_with_the_reason():
    lost = mount(9, "/data/cache", FOREIGN)

    reason = only(Skip, case(inside(within=(lost,)))).reason

    assert "/data/cache" in reason
    assert "restart the container" in reason


def test_a_copy_keeps_what_stands_inside_and_can_be_rebuilt():
    kept = mount(9, "/data/cache", FOREIGN)

    origin = Origin("/volumes/cache", "", FOREIGN)

    step = only(Swap, case(inside(within=(kept,)), origins={kept: origin}))
    assert step.copy.nested == (kept,)
    assert step.nested == ((kept, origin),)


# What would be weaker


def test_nothing_is_attached_in_the_namespace_of_another_user_namespace():
    here = inside()

    assert "user namespace" in only(Skip, case(here, foreign=frozenset({POD}))).reason
    assert only(Swap, case(here, foreign=frozenset({HOME}))).path == here.path


def test_an_id_mapped_copy_is_left():
    assert "id-mapped" in only(Skip, case(inside(mount(options="ro,idmapped")))).reason


def test_of_very_many_copies_in_one_namespace_the_first_are_healed_and_the_rest_told_once():
    many = (inside(), *(copy(mount(), at=POD, path=f"/{n}") for n in range(plan.MOST + 5)))
    *swaps, rest = planned(case(*many, copy(mount(), at=OTHER_POD, path="/data")))

    assert [step.path for step in swaps][:2] == ["/data", "/0"]
    assert len(swaps) == plan.MOST + 1
    assert isinstance(rest, Skip)
    assert f"more than {plan.MOST}" in rest.reason


def test_a_table_that_was_not_read_to_its_end_is_told():
    assert "more than" in only(Skip, case(cut=(POD,))).reason


def test_of_another_user_namespace_one_word_is_said():
    step = only(Skip, case(inside(), inside(), inside(), foreign=frozenset({POD})))

    assert "and 2 more there" in step.reason


# Writable volumes


WRITABLE_COPY = inside(mount(options="rw,relatime"))


def test_a_writable_copy_may_belong_to_any_publication_of_its_source():
    owners = publication("/u"), OPTED_IN, replace(WRITABLE, target="/v")

    assert "--recover-writable" in only(Skip, case(WRITABLE_COPY, published=owners)).reason


def test_a_read_only_copy_of_a_writable_volume_is_healed():
    assert "ro" in only(Swap, case(inside(), published=(WRITABLE,))).attributes.flags


def test_a_writable_copy_is_healed_by_the_setting():
    given_case = case(WRITABLE_COPY, published=(WRITABLE,))
    node = replace(given_case.node, recover_writable=True)

    step = only(Swap, replace(given_case, node=node))
    assert ("ro" in step.attributes.flags, step.origin) == (False, SHELF.path(NUMBER, RW))


def test_a_writable_copy_is_healed_by_the_attribute_of_its_volume():
    assert "ro" not in only(Swap, case(WRITABLE_COPY, published=(OPTED_IN,))).attributes.flags


def test_a_copy_is_healed_read_only_where_every_publication_is():
    # an earlier plugin set the flag too late for it to propagate
    step = only(Swap, case(WRITABLE_COPY))

    assert ("ro" in step.attributes.flags, step.origin) == (True, SHELF.path(NUMBER, RO))


def test_a_copy_that_covers_a_writable_one_read_only_stays_read_only():
    layers = mount(options="rw"), mount(6, dev=OLDER, options="ro")

    assert "ro" in only(Swap, case(inside(*layers), published=(OPTED_IN,))).attributes.flags


# Kin


def swap(of: Mount, *kin: Kin, group: int = 9) -> Swap:
    """Return the step for a copy where these paths of the node are in a peer group."""
    return only(Swap, case(inside(of), kin={group: kin}))


@pytest.mark.parametrize(
    ("of", "propagation"),
    [(mount(master=9), "slave"), (mount(shared=9), "peer"), (mount(shared=12, master=9), "slave")],
)
def test_a_copy_hangs_off_the_node_as_it_did(of: Mount, propagation: str):
    # the last one, else what is mounted inside the container would appear on the host
    step = swap(of, TARGET)

    assert (step.origin, step.inner, step.attributes.propagation) == ("/t", "", propagation)


def test_a_private_copy_is_taken_from_an_anchor_and_stays_private():
    step = swap(mount(), TARGET)

    assert (step.origin, step.attributes.propagation) == (SHELF.path(NUMBER, RO), "private")


def test_a_copy_under_a_stack_of_another_plugin_hangs_off_its_lowest_mount():
    stack = mount(master=9), mount(6, dev=OLDER, master=12)
    kin = {9: (TARGET,), 12: (Kin("/elsewhere", "/"),)}

    step = only(Swap, case(inside(*stack), kin=kin))
    assert (step.origin, step.attributes.propagation) == ("/t", "slave")


def test_of_several_kin_it_is_the_one_that_shows_the_least():
    step = swap(mount(root="/sub", master=9), TARGET, PART)

    assert (step.origin, step.inner) == ("/s", "")


@pytest.mark.parametrize(
    ("base", "shown", "inner"),
    [
        ("/", "/a", "a"),
        ("/a", "/a", ""),
        ("/a", "/a/b", "b"),
        ("/a", "/ab", None),
        ("/a", "/", None),
    ],
)
def test_kin_are_those_that_show_what_the_copy_shows(base: str, shown: str, inner: str | None):
    step = swap(mount(root=shown, master=9), Kin("/k", base))

    assert (step.origin == "/k") is (inner is not None)
    assert inner is None or step.inner == inner


def test_a_slave_without_kin_hangs_off_an_anchor_with_exactly_its_root():
    # only what is mounted on its own root arrives
    step = swap(mount(root="/a/b", master=9))

    anchor = SHELF.path(NUMBER, Variant(True, "a/b"))
    assert (step.origin, step.inner, step.attributes.propagation) == (anchor, "", "slave")


def test_an_anchor_that_only_a_visit_needs_is_made():
    given_case = case(inside(mount(root="/a/b", master=9)))
    origins = anchors.Origins(given_case.node)

    (step,) = plan.steps(given_case, origins)

    made = anchors.steps(given_case.node, origins)
    assert isinstance(step, Swap)
    assert step.origin in {each.path for each in made if isinstance(each, anchors.Make)}


def test_the_copies_of_a_sidecar_are_taken_from_its_own_mount():
    step = only(Swap, case(inside(mount(root="/a", master=9)), on_source=True))

    assert (step.origin, step.inner, step.attributes.propagation) == (SOURCE, "a", "slave")


# Any case


PLACES = st.tuples(st.sampled_from([POD, OTHER_POD]), st.sampled_from(["/t", "/data"]))
STACKS = st.sampled_from(
    [(DEAD,), (OLDER, DEAD), (DEAD, LIVE), (LIVE, DEAD), (LIVE, OLDER, DEAD), (LIVE, DEAD, LIVE)]
)
KIN = st.lists(st.sampled_from([TARGET, PART, Kin("/u", "/a")]), unique=True).map(tuple)


@st.composite
def broken(draw: st.DrawFn) -> Copy:
    at, path = draw(PLACES)
    layers = [
        mount(
            dev=dev,
            root=draw(ROOTS),
            options=draw(OPTIONS),
            shared=draw(st.integers(0, 2)),
            master=draw(st.integers(0, 2)),
        )
        for dev in draw(STACKS)
    ]
    nested = (mount(9, f"{path}/x", FOREIGN),) if draw(st.booleans()) else ()
    return copy(*layers, at=at, path=path, inside=nested)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    copies = draw(st.lists(broken(), max_size=4))
    nested = [mount for each in copies for mount in each.nested]
    return Case(
        node_case(
            publications=draw(publications("/t", "/u")),
            recover_writable=draw(st.booleans()),
        ),
        tuple(copies),
        kin={group: draw(KIN) for group in draw(st.sets(st.integers(1, 2)))},
        origins={m: Origin("/x", "", FOREIGN) for m in nested if draw(st.booleans())},
        on_source=draw(st.booleans()),
    )


def swaps(given_case: Case) -> list[Swap]:
    return [step for step in planned(given_case) if isinstance(step, Swap)]


@given(cases())
def test_each_copy_gets_one_step_at_its_place(given_case):
    places = [(step.namespace, step.path) for step in planned(given_case)]

    assert places == [(c.namespace, c.path) for c in given_case.copies]


@given(cases())
def test_no_copy_is_taken_from_the_source_but_a_sidecars(given_case):
    for step in swaps(given_case):
        assert (step.origin == SOURCE) is given_case.on_source


@given(cases())
def test_a_copy_that_hangs_off_an_anchor_shows_all_of_it(given_case):
    for step in swaps(given_case):
        if step.origin.startswith("/plugin") and step.attributes.propagation == "slave":
            assert not step.inner


@given(cases())
def test_what_was_private_stays_private(given_case):
    for step in swaps(given_case):
        base = step.copy.stack[0]
        if not base.shared and not base.master:
            assert step.attributes.propagation == "private"


@given(cases())
def test_a_copy_is_a_peer_only_of_those_whose_peer_it_was(given_case):
    for step in swaps(given_case):
        if step.attributes.propagation == "peer":
            assert step.copy.stack[0].shared in given_case.kin


@given(cases())
def test_what_was_read_only_never_becomes_writable(given_case):
    for step in swaps(given_case):
        if step.copy.read_only or all(p.read_only for p in given_case.node.publications):
            assert "ro" in step.attributes.flags


@given(cases())
def test_a_writable_mount_is_made_only_where_that_was_allowed(given_case):
    node = given_case.node
    allowed = all(p.read_only or p.recover_writable for p in node.publications)

    for step in swaps(given_case):
        if "ro" not in step.attributes.flags:
            assert node.recover_writable or allowed


@given(cases())
def test_flags_and_atime_are_kept(given_case):
    for step in swaps(given_case):
        kept = step.copy.stack[0].options & KEPT_OPTIONS
        assert step.attributes.flags - {"ro"} == kept - {"ro"}


@given(cases())
def test_nothing_that_is_nested_and_cannot_be_rebuilt_is_touched(given_case):
    for step in swaps(given_case):
        assert given_case.origins.keys() >= {*step.copy.nested}


@given(cases())
def test_what_a_removal_uncovers_is_the_live_mount(given_case):
    for step in planned(given_case):
        if isinstance(step, Peel):
            assert [layer.dev == LIVE for layer in step.copy.stack].index(True) == 0
            assert LIVE not in [layer.dev for layer in step.copy.stack[1:]]


@given(cases())
def test_every_step_is_one_line_that_names_its_path(given_case):
    for step in planned(given_case):
        line = step.describe()
        assert step.path in line
        assert "\n" not in line


KEPT = mount(9, "/t/cache", FOREIGN)
READ_ONLY = Attributes(frozenset({"ro"}))
IN_POD = "the mount namespace of process 22"


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (
            Swap(copy(at=POD), "/u", "", READ_ONLY),
            f"replace /t (superblock 0:50) in {IN_POD} by a read-only copy of /u",
        ),
        (
            Swap(copy(mount(dev=OLDER), mount(), at=POD, inside=(KEPT,)), "/u", "a", Attributes()),
            (
                f"replace /t (superblock 0:50, 2 layers) in {IN_POD} by a writable copy of /u/a, "
                "keeping 1 mount(s) inside"
            ),
        ),
        (
            Peel(copy(mount(dev=LIVE), mount(dev=OLDER), mount(), at=POD)),
            f"remove 2 dead layer(s) on top of /t in {IN_POD}",
        ),
        (
            MakePrivate(copy(at=POD)),
            (
                f"keep /t in {IN_POD} apart: a mount from outside would cover "
                "what is mounted inside it, or have fewer restrictions"
            ),
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_a_step_says_in_words_what_it_does(step, words):
    assert step.describe() == words
