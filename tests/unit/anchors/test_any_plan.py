"""What holds of the plan for any node, found by hypothesis."""

from hypothesis import given, strategies as st

from recover.anchors.anchor import Anchor
from recover.anchors.plan import Attach, Bring, Case, Cover, Drop, Make, Skip, Uncover
from recover.anchors.retention import unneeded
from recover.anchors.shelf import Variant
from recover.detect import Copy
from recover.rows import Publication
from tests.unit.anchors.planned import LIVING, made, of, planned
from tests.unit.handmade import (
    DEAD,
    KEPT_OPTIONS,
    LIVE,
    NUMBER,
    OLDER,
    OPTIONS,
    ROOTS,
    SHELF,
    anchor,
    copy,
    mount,
    node_case,
    publications,
)

STACKS = st.sampled_from(
    [(DEAD,), (OLDER,), (OLDER, DEAD), (LIVE, DEAD), (OLDER, LIVE, DEAD), (LIVE, OLDER, DEAD)]
)
ON_ANCHORS = st.sampled_from(
    [(OLDER,), (DEAD,), (OLDER, DEAD), (OLDER, LIVE), (LIVING,), (OLDER, LIVING)]
)
VARIANTS = st.builds(
    lambda ro, inner, opted_in: Variant(ro, inner, opted_in and not ro),
    st.booleans(),
    st.sampled_from(["", "a"]),
    st.booleans(),
)


@st.composite
def strays(draw: st.DrawFn) -> tuple[Copy, ...]:
    return tuple(
        copy(
            *(
                mount(
                    5 + number,
                    dev=dev,
                    root=draw(ROOTS),
                    options=draw(OPTIONS),
                    shared=draw(st.integers(0, 2)),
                )
                for number, dev in enumerate(draw(STACKS))
            ),
            path=path,
        )
        for path in draw(st.lists(st.sampled_from(["/t", "/u", "/s", "/r"]), unique=True))
    )


@st.composite
def shelves(draw: st.DrawFn) -> tuple[Anchor, ...]:
    names = st.tuples(st.integers(1, NUMBER - 1), VARIANTS)
    older = sorted(draw(st.lists(names, unique=True, max_size=4)), key=str)
    live = draw(st.lists(VARIANTS, unique=True, max_size=2))
    return (
        *(anchor(*draw(ON_ANCHORS), number=number, variant=v) for number, v in older),
        *(anchor(LIVE, number=NUMBER, variant=v) for v in live),
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    published = draw(publications("/t", "/u", "/bare"))
    return node_case(
        *draw(strays()),
        publications=published,
        anchors=draw(shelves()),
        bare=tuple(p for p in published if p.target == "/bare"),
        recover_writable=draw(st.booleans()),
    )


def refused(case: Case) -> tuple[Publication, ...]:
    """Return whose writes may be lost, by the rule and not by the code."""
    mine = (p for p in case.publications if not (p.read_only or p.recover_writable))
    return () if case.recover_writable else tuple(mine)


@given(cases())
def test_steps_come_in_the_order_in_which_nobody_loses_anything(case):
    order = [Uncover, Make, Bring, Cover, Attach, Drop]

    done = [order.index(type(step)) for step in planned(case) if not isinstance(step, Skip)]
    assert done == sorted(done)


@given(cases())
def test_what_is_taken_off_is_dead(case):
    for step in of(Uncover, case):
        assert {layer.dev for layer in step.stack[step.keep :]} <= case.dead


@given(cases())
def test_what_is_taken_off_uncovers_a_mount(case):
    for step in of(Uncover, case):
        assert 1 <= step.keep < len(step.stack)


@given(cases())
def test_every_origin_is_an_anchor_of_the_live_generation(case):
    there = {a.path for a in case.anchors if a.base.dev == LIVE}
    there |= {step.path for step in of(Make, case)}

    for step in planned(case):
        if isinstance(step, Bring | Cover | Attach):
            assert step.origin in there


@given(cases())
def test_an_anchor_is_made_of_what_is_needed_and_not_there_and_of_nothing_else(case):
    wanted = {Variant.of(p).name for p in case.publications if p not in refused(case)}
    wanted |= {step.anchor.variant for step in of(Bring, case)}
    covering = {step.origin for step in of(Cover, case)}
    there = {a.path for a in case.anchors if a.base.dev == LIVE}

    needed = {SHELF.path(NUMBER, v) for v in made(case)} | there
    paths = {f"{SHELF.folder}/{NUMBER}-{name}" for name in wanted} | covering
    assert paths <= needed
    assert {step.path for step in of(Make, case)} == paths - there


@given(cases())
def test_each_dead_anchor_that_may_be_healed_gets_one_mount_of_its_own_variant(case):
    refused_here = {Variant.of(p).name for p in refused(case)}
    for each in case.anchors:
        brought = [step.origin for step in of(Bring, case) if step.anchor == each]
        is_dead = {layer.dev for layer in each.stack} <= case.dead
        if not is_dead or each.variant in refused_here:
            assert not brought
        elif not refused(case) or each.variant.startswith("ro"):
            assert brought == [f"{SHELF.folder}/{NUMBER}-{each.variant}"]


@given(cases())
def test_a_stray_is_never_a_peer_of_an_anchor(case):
    for step in of(Cover, case):
        assert step.attributes.propagation == "slave-shared"


@given(cases())
def test_what_arrives_at_an_anchor_arrives_at_the_stray_that_it_covers(case):
    parts = {a.path: a.base.root for a in case.anchors}
    parts |= {step.path: f"/{step.variant.inner}" for step in of(Make, case)}
    published = {p.target: f"/{p.sub_path}" for p in case.publications}

    for step in of(Cover, case):
        shown = published.get(step.path, step.copy.stack[0].root)
        assert parts[step.origin] == shown


@given(cases())
def test_each_dead_stray_is_covered_or_left_once_for_each_peer_group(case):
    places = [s.path for s in planned(case) if isinstance(s, Cover | Skip)]
    done = [c for c in case.strays if c.path in places]
    groups = {(c.stack[0].shared, c.stack[0].root) for c in done if c.stack[0].shared}

    for stray in case.strays:
        base = stray.stack[0]
        if LIVE in {layer.dev for layer in stray.stack}:
            assert stray not in [step.copy for step in of(Cover, case)]
        else:
            assert stray in done or (base.shared, base.root) in groups
    covered = [step.copy.stack[0] for step in of(Cover, case)]
    told = [(base.shared, base.root) for base in covered if base.shared]
    assert len(told) == len(set(told))


@given(cases())
def test_whoever_may_have_lost_writes_gets_nothing(case):
    targets = {p.target for p in refused(case)}
    variants = {Variant.of(p).name for p in refused(case)}

    for step in planned(case):
        if isinstance(step, Cover) and "ro" not in step.attributes.flags:
            assert step.path not in targets
        if isinstance(step, Attach):
            assert step.target not in targets
        if isinstance(step, Make):
            assert step.variant.name not in variants
        if isinstance(step, Bring):
            assert step.anchor.variant not in variants


@given(cases())
def test_whoever_may_have_lost_writes_is_told_what_to_set(case):
    left = {step.target for step in of(Skip, case) if "--recover-writable" in step.reason}
    dead = {a.variant for a in case.anchors if {layer.dev for layer in a.stack} <= case.dead}

    for p in refused(case):
        if p in case.bare or Variant.of(p).name in dead:
            assert p.target in left


@given(cases())
def test_what_was_read_only_never_becomes_writable(case):
    read_only = {p.target for p in case.publications if p.read_only}

    for step in of(Cover, case):
        if step.copy.read_only or step.target in read_only:
            assert "ro" in step.attributes.flags
            assert "/3-ro" in step.origin
    for attach in of(Attach, case):
        assert attach.target not in read_only or "/3-ro" in attach.origin


@given(cases())
def test_flags_and_atime_of_a_stray_are_kept(case):
    for step in of(Cover, case):
        kept = step.copy.stack[0].options & KEPT_OPTIONS
        assert step.attributes.flags - {"ro"} == kept - {"ro"}


@given(cases())
def test_only_what_nobody_needs_is_removed(case):
    gone, _ = unneeded(((a.number, a.variant) for a in case.anchors), case.publications)

    assert {(s.anchor.number, s.anchor.variant) for s in of(Drop, case)} == gone


@given(cases())
def test_a_step_at_a_target_names_it(case):
    targets = {p.target for p in case.publications}

    for step in planned(case):
        assert step.target == (step.path if step.path in targets else "")


@given(cases())
def test_every_step_is_one_line_that_names_its_path(case):
    for step in planned(case):
        line = step.describe()
        assert step.path in line
        assert "\n" not in line
