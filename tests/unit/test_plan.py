"""The plan of a heal: what is done about each broken copy, in which order, with which flags."""

import dataclasses
from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import given, strategies as st

from recover import plan
from recover.detect import Copy
from recover.linux.mountinfo import Mount
from recover.linux.mounts import Attributes
from recover.linux.namespaces import Namespace
from recover.plan import Attach, Case, Cover, Leave, Peel, Step, Strategy, Swap
from recover.rows import Generation, Publication

S = TypeVar("S", bound=Step)

HOME, POD, OTHER_POD = Namespace(100, 1), Namespace(200, 22), Namespace(300, 33)
SOURCE = "/runtime-mnt/x/ns/demo/x-fuse"
DEAD, OLDER, LIVE = "0:50", "0:51", "0:60"
KEPT_FLAGS = ("ro", "nosuid", "nodev", "noexec", "nodiratime", "nosymfollow")
ATIMES = ("relatime", "noatime")


def mount(
    dev: str = DEAD,
    *,
    root: str = "/",
    options: str = "ro,relatime",
    shared: int = 0,
    master: int = 0,
    number: int = 5,
    path: str = "/t",
) -> Mount:
    flags = frozenset(options.split(","))
    return Mount(number, 1, dev, root, path, flags, shared, master, "fuse.x", "x")


def copy(
    *stack: Mount, at: Namespace = HOME, path: str = "/t", inside: tuple[Mount, ...] = ()
) -> Copy:
    layers = (layer._replace(mount_point=path) for layer in stack or (mount(),))
    return Copy(at, tuple(layers), inside)


def publication(
    target: str = "/t", sub_path: str = "", *, read_only: bool = True, opted_in: bool = False
) -> Publication:
    return Publication(
        target, "v", SOURCE, sub_path, read_only=read_only, recover_writable=opted_in
    )


def case(*copies: Copy, publications: tuple[Publication, ...] = (publication(),)) -> Case:
    return Case(
        source=SOURCE,
        home=HOME,
        strategy=Strategy.NAMESPACE,
        publications=publications,
        generations=(Generation(SOURCE, DEAD, "/", "fuse.x", "x", "boot", 1.0, 2.0),),
        live=LIVE,
        copies=copies,
    )


def by_propagation(given_case: Case) -> Case:
    return replace(given_case, strategy=Strategy.PROPAGATION)


def only(kind: type[S], planned: Case) -> S:
    (step,) = plan.steps(planned)
    assert isinstance(step, kind)
    return step


# What is done


def test_a_dead_target_is_replaced_by_a_clone_of_the_source():
    step = only(Swap, case(copy()))

    assert (step.namespace, step.path, step.origin, step.target) == (HOME, "/t", SOURCE, "/t")


def test_the_sub_path_of_a_target_is_that_of_its_publication():
    dead = copy(mount(root="/elsewhere"))

    assert only(Swap, case(dead, publications=(publication("/t", "a/b"),))).inner == "a/b"


def test_a_copy_elsewhere_shows_the_part_that_it_showed():
    dead = copy(mount(root="/a/b"), at=POD, path="/data")

    assert only(Swap, case(dead)).inner == "a/b"


def test_a_path_of_a_container_that_is_called_as_a_target_is_not_the_target():
    assert not only(Swap, case(copy(at=POD, path="/t"))).target


def test_a_copy_of_what_lies_outside_of_the_source_is_left():
    outside = replace(
        case(copy(mount(root="/other"), at=POD)),
        generations=(Generation(SOURCE, DEAD, "/bucket", "fuse.x", "x", "boot", 1.0, 2.0),),
    )

    assert "/other" in only(Leave, outside).reason


def test_a_target_whose_mount_is_gone_gets_a_private_clone():
    gone = publication("/t", "a")
    step = only(Attach, replace(case(), bare=(gone,)))

    assert (step.namespace, step.path, step.origin, step.inner) == (HOME, "/t", SOURCE, "a")
    assert step.attributes == Attributes(frozenset({"ro"}), "private", keep=True)


def test_a_bare_writable_target_is_left():
    gone = publication(read_only=False)

    assert "writable" in only(Leave, replace(case(), bare=(gone,))).reason


def test_the_dead_layers_above_a_live_mount_are_removed():
    # a heal was killed between attaching and detaching
    step = only(Peel, case(copy(mount(LIVE, number=7), mount())))

    assert [layer.dev for layer in step.copy.stack] == [LIVE, DEAD]


def test_the_layers_beneath_a_live_mount_stay_when_those_above_it_are_removed():
    step = only(Peel, case(copy(mount(OLDER), mount(LIVE), mount(OLDER), mount(DEAD))))

    assert [layer.dev for layer in step.copy.stack] == [LIVE, OLDER, DEAD]


def test_a_live_mount_on_top_of_a_dead_one_is_made_one_layer():
    step = only(Swap, case(copy(mount(), mount(LIVE))))

    assert [layer.dev for layer in step.copy.stack] == [DEAD, LIVE]


def test_propagation_leaves_a_live_mount_on_top_of_a_dead_one_as_it_is():
    assert not plan.steps(by_propagation(case(copy(mount(), mount(LIVE)))))


def test_propagation_covers_a_dead_mount_above_a_live_one():
    step = only(Cover, by_propagation(case(copy(mount(LIVE), mount()))))

    assert [layer.dev for layer in step.copy.stack] == [LIVE, DEAD]


def test_a_path_where_the_kernel_keeps_the_lower_layer_is_not_tidied_again():
    layers = copy(mount(), mount(LIVE), at=POD)

    assert not plan.steps(replace(case(layers), settled=frozenset({(POD.inode, "/t")})))


@pytest.mark.parametrize("settled", [(POD.inode, "/u"), (OTHER_POD.inode, "/t")])
def test_what_was_settled_elsewhere_is_tidied_here(settled):
    layers = copy(mount(), mount(LIVE), at=POD)

    only(Swap, replace(case(layers), settled=frozenset({settled})))


def test_a_settled_path_that_is_dead_again_is_healed():
    dead = replace(case(copy(at=POD)), settled=frozenset({(POD.inode, "/t")}))

    only(Swap, dead)


def test_a_copy_with_something_inside_that_cannot_be_rebuilt_is_left_with_the_reason():
    lost = mount("0:99", path="/t/cache")
    planned = replace(case(copy(inside=(lost,))), unavailable=frozenset({lost}))

    reason = only(Leave, planned).reason
    assert "/t/cache" in reason
    assert "restart the container" in reason


def test_a_copy_keeps_what_stands_inside_and_can_be_rebuilt():
    kept = mount("0:99", path="/t/cache")

    assert only(Swap, case(copy(inside=(kept,)))).copy.nested == (kept,)


def test_what_stands_inside_does_not_hinder_a_mount_on_top():
    lost = mount("0:99", path="/t/cache")
    planned = replace(case(copy(inside=(lost,))), unavailable=frozenset({lost}))

    only(Cover, by_propagation(planned))


# Writable volumes


WRITABLE = publication(read_only=False)
A_WRITABLE_COPY = copy(mount(options="rw"))


def test_a_writable_volume_is_left_with_what_to_set():
    reason = only(Leave, case(A_WRITABLE_COPY, publications=(WRITABLE,))).reason

    assert "--recover-writable" in reason


def test_a_writable_volume_is_healed_by_the_setting():
    step = only(
        Swap, replace(case(A_WRITABLE_COPY, publications=(WRITABLE,)), recover_writable=True)
    )

    assert "ro" not in step.attributes.flags


def test_a_writable_volume_is_healed_by_its_attribute():
    opted_in = publication(read_only=False, opted_in=True)

    only(Swap, case(A_WRITABLE_COPY, publications=(opted_in,)))


def test_a_target_is_judged_by_its_own_publication_alone():
    opted_in = publication(read_only=False, opted_in=True)
    others = publication("/u", read_only=False)

    only(Swap, case(A_WRITABLE_COPY, publications=(others, opted_in)))


def test_a_writable_copy_in_a_container_may_belong_to_any_publication_of_its_source():
    dead = copy(mount(options="rw"), at=POD, path="/data")
    owners = (publication("/u"), WRITABLE)

    assert "writable" in only(Leave, case(dead, publications=owners)).reason


def test_a_container_is_healed_read_only_where_every_publication_is():
    # an earlier plugin set the flag too late for it to propagate
    dead = copy(mount(options="rw"), at=POD, path="/data")

    assert "ro" in only(Swap, case(dead)).attributes.flags


# Propagation


def test_a_target_that_was_shared_is_in_a_group_of_its_own_again():
    assert only(Swap, case(copy(mount(shared=9)))).attributes.propagation == "shared"


@pytest.mark.parametrize(
    ("peers", "propagation"),
    [({}, "private"), ({"shared": 9}, "shared"), ({"master": 9}, "slave")],
)
def test_a_container_whose_kin_is_unknown_keeps_its_kind_of_propagation(peers, propagation):
    step = only(Swap, case(copy(mount(**peers), at=POD, path="/data")))

    assert (step.origin, step.attributes.propagation) == (SOURCE, propagation)


def swap_in_pod(at_home: Mount, in_pod: Mount) -> Swap:
    """Return the step for a container's copy beside a target's."""
    first, second = plan.steps(case(copy(at_home), copy(in_pod, at=POD, path="/data")))
    assert isinstance(first, Swap)
    assert isinstance(second, Swap)
    return second


def test_a_container_that_was_a_slave_of_the_target_is_cloned_from_it_as_a_slave():
    step = swap_in_pod(mount(shared=9), mount(master=9))

    assert (step.origin, step.inner, step.attributes.propagation) == ("/t", "", "slave")


def test_a_container_that_was_a_peer_of_the_target_is_cloned_from_it_as_a_peer():
    step = swap_in_pod(mount(shared=9), mount(shared=9))

    assert (step.origin, step.inner, step.attributes.propagation) == ("/t", "", "peer")


def test_a_container_that_was_private_is_cloned_from_the_source():
    step = swap_in_pod(mount(shared=9), mount())

    assert (step.origin, step.attributes.propagation) == (SOURCE, "private")


def test_a_container_under_a_stack_of_another_plugin_stays_a_slave_of_the_target():
    """The lowest mount of the container hangs off the lowest at the target, not off the top."""
    target = copy(mount(shared=9), mount(OLDER, shared=12, number=6))
    inside = copy(mount(master=9), mount(OLDER, master=12, number=6), at=POD, path="/data")

    _, step = plan.steps(case(target, inside))

    assert isinstance(step, Swap)
    assert (step.origin, step.attributes.propagation) == ("/t", "slave")


def test_a_container_is_cloned_from_its_subpath_rather_than_from_the_target_around_it():
    target, place = copy(mount(shared=9)), copy(mount(root="/sub", shared=9), path="/s")
    inside = copy(mount(root="/sub", master=9), at=POD, path="/data")

    *_, step = plan.steps(case(place, target, inside))

    assert isinstance(step, Swap)
    assert (step.origin, step.inner) == ("/s", "")


def test_a_slave_with_slaves_of_its_own_does_not_become_a_peer_of_the_target():
    # else what is mounted inside the container would appear on the host
    step = swap_in_pod(mount(shared=9), mount(shared=12, master=9))

    assert step.attributes.propagation != "peer"


@pytest.mark.parametrize(
    ("base", "shown", "origin", "inner"),
    [
        ("/", "/a", "/t", "a"),
        ("/a", "/a", "/t", ""),
        ("/a", "/a/b", "/t", "b"),
        ("/a", "/ab", SOURCE, "ab"),
        ("/a/b", "/a", SOURCE, "a"),
    ],
)
def test_a_container_is_cloned_from_the_target_that_shows_what_it_shows(base, shown, origin, inner):
    step = swap_in_pod(mount(root=base, shared=9), mount(root=shown, master=9))

    assert (step.origin, step.inner) == (origin, inner)


def test_a_target_is_never_cloned_from_another_target():
    copies = copy(mount(shared=9)), copy(mount(shared=9, number=6), path="/u")

    origins = {getattr(step, "origin", "") for step in plan.steps(case(*copies))}
    assert origins == {SOURCE}


# Any case


OPTIONS = st.sampled_from(
    [
        "ro,relatime",
        "rw,relatime",
        "rw,nosuid,nodev,noatime",
        "ro,nosuid,noexec,relatime",
        "rw,nodiratime,nosymfollow",
        "ro,noatime,mand",
    ]
)
STACKS = st.sampled_from(
    [
        (DEAD,),
        (OLDER, DEAD),
        (DEAD, LIVE),
        (LIVE, DEAD),
        (LIVE, OLDER, DEAD),
        (DEAD, LIVE, OLDER),
        (LIVE, DEAD, LIVE),
    ]
)
PLACES = st.tuples(st.sampled_from([HOME, POD, OTHER_POD]), st.sampled_from(["/t", "/u", "/data"]))
PUBLISHED = st.builds(
    publication,
    st.sampled_from(["/t", "/u", "/bare"]),
    read_only=st.booleans(),
    opted_in=st.booleans(),
)


@st.composite
def broken(draw: st.DrawFn, at: Namespace, path: str) -> Copy:
    layers = [
        mount(
            dev,
            root=draw(st.sampled_from(["/", "/a", "/a/b"])),
            options=draw(OPTIONS),
            shared=draw(st.integers(0, 2)),
            master=draw(st.integers(0, 2)),
        )
        for dev in draw(STACKS)
    ]
    inside = (mount("0:99", path=f"{path}/x"),) if draw(st.booleans()) else ()
    return copy(*layers, at=at, path=path, inside=inside)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    places = draw(st.lists(PLACES, unique=True, max_size=4))
    copies = [draw(broken(*place)) for place in places]
    published = draw(st.lists(PUBLISHED, unique_by=lambda p: p.target, max_size=3))
    inside = [lost for found in copies for lost in found.nested]
    return replace(
        case(*copies, publications=tuple(published)),
        strategy=draw(st.sampled_from(Strategy)),
        bare=tuple(p for p in published if p.target == "/bare"),
        recover_writable=draw(st.booleans()),
        unavailable=frozenset(inside if draw(st.booleans()) else ()),
        settled=frozenset((n.inode, path) for n, path in places[: draw(st.integers(0, 2))]),
    )


@given(cases())
def test_our_own_namespace_comes_first(planned):
    at_home = [step.namespace == HOME for step in plan.steps(planned)]

    assert at_home == sorted(at_home, reverse=True)


@given(cases())
def test_each_path_that_shows_a_dead_mount_gets_exactly_one_step(planned):
    places = [(step.namespace, step.path) for step in plan.steps(planned)]

    for dead in planned.copies:
        if dead.stack[-1].dev != LIVE:
            assert places.count((dead.namespace, dead.path)) == 1


@given(cases())
def test_no_step_is_for_anything_but_a_broken_copy_or_a_bare_target(planned):
    broken = {(c.namespace, c.path) for c in planned.copies}
    bare = {(HOME, p.target) for p in planned.bare}

    assert {(step.namespace, step.path) for step in plan.steps(planned)} <= broken | bare


@given(cases())
def test_no_path_gets_two_steps(planned):
    places = [(step.namespace, step.path) for step in plan.steps(planned)]

    assert len(places) == len(set(places))


@given(cases())
def test_what_was_read_only_never_becomes_writable(planned):
    for step in plan.steps(planned):
        if isinstance(step, Swap | Cover) and step.copy.read_only:
            assert "ro" in step.attributes.flags


@given(cases())
def test_a_read_only_publication_never_becomes_writable(planned):
    read_only = {p.target for p in planned.publications if p.read_only}

    for step in plan.steps(planned):
        if isinstance(step, Swap | Cover | Attach) and step.target in read_only:
            assert "ro" in step.attributes.flags


@given(cases())
def test_flags_and_atime_are_kept(planned):
    for step in plan.steps(planned):
        if isinstance(step, Swap | Cover):
            kept = step.copy.stack[0].options & {*KEPT_FLAGS, *ATIMES}
            assert step.attributes.flags - {"ro"} == kept - {"ro"}


@given(cases())
def test_a_writable_mount_is_made_only_where_that_was_allowed(planned):
    allowed = {p.target for p in planned.publications if p.recover_writable}

    for step in plan.steps(planned):
        if isinstance(step, Swap | Cover | Attach) and "ro" not in step.attributes.flags:
            assert planned.recover_writable or allowed


@given(cases())
def test_propagation_mounts_on_top_and_never_swaps_or_removes(planned):
    for step in plan.steps(by_propagation(planned)):
        assert isinstance(step, Cover | Attach | Leave)


@given(cases())
def test_only_propagation_mounts_on_top(planned):
    for step in plan.steps(replace(planned, strategy=Strategy.NAMESPACE)):
        assert not isinstance(step, Cover)


@given(cases())
def test_what_a_removal_uncovers_is_the_live_mount(planned):
    for step in plan.steps(planned):
        if isinstance(step, Peel):
            assert [layer.dev == LIVE for layer in step.copy.stack].index(True) == 0


@given(cases())
def test_what_a_removal_takes_away_is_dead(planned):
    for step in plan.steps(planned):
        if isinstance(step, Peel):
            assert LIVE not in [layer.dev for layer in step.copy.stack[1:]]


@given(cases())
def test_a_step_at_a_target_names_it(planned):
    targets = {p.target for p in planned.publications}

    for step in plan.steps(planned):
        assert step.target == (step.path if step.namespace == HOME and step.path in targets else "")


# In words


@given(cases())
def test_every_step_is_one_line_that_names_its_path(planned):
    for step in plan.steps(planned):
        line = step.describe()
        assert step.path in line
        assert "\n" not in line


KEPT = mount("0:99", path="/t/cache")
READ_ONLY = Attributes(frozenset({"ro"}))
IN_POD = "the mount namespace of process 22"


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (
            Swap(copy(at=POD), "/u", "", READ_ONLY),
            f"replace /t (superblock 0:50) in {IN_POD} by a read-only clone of /u",
        ),
        (
            Swap(copy(mount(OLDER), mount(), at=POD, inside=(KEPT,)), "/u", "a", Attributes()),
            (
                f"replace /t (superblock 0:50, 2 layers) in {IN_POD} by a writable clone of /u/a, "
                "keeping 1 mount(s) inside"
            ),
        ),
        (
            Cover(copy(), SOURCE, "", READ_ONLY),
            f"mount a read-only clone of {SOURCE} on top of /t (superblock 0:50)",
        ),
        (
            Peel(copy(mount(LIVE), mount(OLDER), mount())),
            "remove 2 dead layer(s) on top of /t in the mount namespace of process 1",
        ),
        (
            Attach(HOME, "/t", SOURCE, "a", READ_ONLY),
            f"mount a read-only clone of {SOURCE}/a at /t, now bare",
        ),
        (
            Leave(HOME, "/t", "it is late"),
            "leave /t in the mount namespace of process 1: it is late",
        ),
    ],
    ids=lambda value: type(value).__name__ if dataclasses.is_dataclass(value) else "",
)
def test_a_step_says_in_words_what_it_does(step, words):
    assert step.describe() == words
