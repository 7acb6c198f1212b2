"""What is true now, in words: the state of a source, its counts and what a heal would do."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from recover import survey
from recover.anchors.plan import Attach, Make, Skip
from recover.anchors.shelf import Variant
from recover.detect import Copy
from recover.linux.mountinfo import Mount, MountTable
from recover.linux.mounts import Attributes
from recover.linux.namespaces import Namespace
from recover.linux.probe import Answer, Reply
from recover.look import View
from recover.policy import Strategy
from recover.rows import Generation, Heal, Publication
from recover.states import State
from recover.steps import Step
from recover.store import Store
from recover.survey import SourceReport

HOME = Namespace(100, 1)
DEAD, LIVE = "0:50", "0:60"
DEMO = Publication("/t", "v", "/src", runtime_namespace="ns", runtime_name="demo")
ATTACH = Attach(HOME, "/t", "/src", Attributes())
MAKE = Make(HOME, "/p/1-ro", "/src", Variant(read_only=True))
LEAVE = Skip(HOME, "/t", "it is late")


def mount(number: int, path: str, dev: str = LIVE, *, on: int = 1) -> Mount:
    return Mount(number, on, dev, "/", path, frozenset({"ro"}), 0, 0, "fuse.x", "x")


def copy(*devs: str, path: str = "/t") -> Copy:
    return Copy(HOME, tuple(mount(5 + n, path, dev, on=4 + n) for n, dev in enumerate(devs)))


def view(
    answer: Answer = Answer.ALIVE,
    *,
    copies: tuple[Copy, ...] = (),
    bare: tuple[Publication, ...] = (),
    dead_at: tuple[float | None, ...] = (),
    source: str = "/src",
    live: str = LIVE,
) -> View:
    """Return a view of a source whose older superblock, if there is one, is dead."""
    is_known = bool(copies or dead_at)
    return View(
        source=source,
        publications=(DEMO,),
        generations=tuple(
            Generation(source, f"0:5{n}", "/", "fuse.x", "x", "boot", 1.0, at)
            for n, at in enumerate(dead_at)
        ),
        reply=Reply(answer),
        answered_at=0.0,
        live=live if answer is Answer.ALIVE else "",
        verdicts={DEAD: Answer.DEAD} if is_known else {},
        seen=frozenset({DEAD} if is_known else ()),
        copies=copies,
        bare=bare,
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with contextlib.closing(Store.open(tmp_path / "state.db")) as opened:
        yield opened


# The state


@pytest.mark.parametrize(
    ("seen", "steps", "state"),
    [
        (view(), (), State.HEALTHY),
        (view(), (MAKE,), State.HEALTHY),
        (view(copies=(copy(DEAD),)), (ATTACH,), State.STALE),
        (view(copies=(copy(DEAD),)), (LEAVE, ATTACH), State.STALE),
        (view(copies=(copy(DEAD),)), (LEAVE,), State.SKIPPED),
        (view(Answer.DEAD, copies=(copy(DEAD),)), (ATTACH,), State.WAITING),
        (view(Answer.ABSENT, copies=(copy(DEAD),)), (LEAVE,), State.WAITING),
        (view(Answer.ABSENT, bare=(DEMO,)), (ATTACH,), State.WAITING),
        (view(Answer.ABSENT), (), State.ABSENT),
        (view(Answer.HUNG), (), State.HUNG),
        (view(Answer.HUNG, copies=(copy(DEAD),)), (ATTACH,), State.HUNG),
        (view(Answer.FAILING), (), State.FAILING),
        (view(Answer.FAILING, copies=(copy(DEAD),)), (ATTACH,), State.FAILING),
    ],
)
def test_the_state_of_a_source(store, seen, steps, state):
    assert report(seen, steps, store=store).state is state


# The report


def report(
    seen: View, steps: tuple[Step, ...] = (), healthy: tuple[int, ...] = (), *, store: Store
) -> SourceReport:
    return survey._report(seen, steps, healthy, store)


def test_all_copies_are_counted_and_the_healthy_ones_again(store):
    seen = replace(
        view(copies=(copy(DEAD),), bare=(DEMO,)),
        hanging=10,
        strays=(copy(DEAD), copy(DEAD, path="/u")),
        exposed=(copy(DEAD),),
    )

    told = report(seen, healthy=(1, 1, 2), store=store)

    assert (told.copies, told.healthy) == (18, 3)


@pytest.mark.parametrize(
    ("copies", "healthy", "layers"),
    [
        ((), (), 0),
        ((), (1, 3), 3),
        ((copy(DEAD, DEAD, DEAD, DEAD),), (1, 3), 4),
        ((copy(DEAD),), (), 1),
    ],
)
def test_layers_are_those_of_the_highest_stack(store, copies, healthy, layers):
    assert report(view(copies=copies), healthy=healthy, store=store).layers == layers


def test_a_broken_source_is_broken_since_its_first_death_that_is_recorded(store):
    seen = view(copies=(copy(DEAD),), dead_at=(70.0, 30.0, None))

    assert report(seen, store=store).since == 30.0


def test_a_source_whose_targets_hang_off_anchors_is_broken_too(store):
    seen = replace(view(dead_at=(30.0,)), hanging=1)

    assert report(seen, store=store).since == 30.0


def test_a_break_that_nobody_recorded_has_no_time(store):
    assert report(view(copies=(copy(DEAD),)), store=store).since is None


def test_a_healed_source_is_not_broken_since_any_time(store):
    assert report(view(dead_at=(70.0,)), store=store).since is None


def test_the_last_heal_is_told(store):
    first, last = (Heal("/src", at, "namespace", True, 1, 1, 1, 0.004, None) for at in (10.0, 20.0))
    store.record_heal(first)
    store.record_heal(last)

    assert report(view(), store=store).last_heal == last


def test_the_heal_of_another_source_is_not_told(store):
    store.record_heal(Heal("/other", 10.0, "namespace", True, 1, 1, 1, 0.004, None))

    assert report(view(), store=store).last_heal is None


def named(*publications: Publication) -> str:
    return SourceReport("/src", State.HEALTHY, None, publications, 0, 0, 0, None, ()).dataset


def test_a_source_is_called_by_its_dataset():
    assert named(Publication("/u", "v", "/src"), DEMO) == "ns/demo"


def test_a_source_of_no_known_dataset_is_called_by_its_path():
    assert named(Publication("/u", "v", "/src")) == "/src"


# Healthy copies: of our own namespace, as the strategy without others sees them


def healthy(*mounts: Mount, sources: tuple[View, ...] = ()) -> dict[str, tuple[int, ...]]:
    root = mount(1, "/", "8:1", on=0)
    table = MountTable((root, *mounts))
    return survey._healthy_copies([view(), *sources], table, Strategy.PROPAGATION)


def test_each_path_that_shows_the_live_superblock_is_a_healthy_copy():
    assert healthy(mount(5, "/t"), mount(6, "/u")) == {LIVE: (1, 1)}


def test_the_source_is_no_copy_of_itself():
    assert healthy(mount(5, "/src")) == {LIVE: ()}


def test_the_source_of_another_dataset_is_no_copy_either():
    other = view(source="/other", live="0:61")

    assert healthy(mount(5, "/other", "0:61"), sources=(other,)) == {LIVE: (), "0:61": ()}


def test_all_layers_below_a_healthy_copy_are_counted():
    assert healthy(mount(5, "/t", DEAD), mount(6, "/t", on=5)) == {LIVE: (2,)}


def test_two_live_layers_at_a_path_are_one_healthy_copy():
    assert healthy(mount(5, "/t"), mount(6, "/t", on=5)) == {LIVE: (2,)}


def test_an_anchor_is_no_copy():
    assert healthy(mount(5, "/p/.csi-fluid/abc/1-ro")) == {LIVE: ()}


def test_a_live_mount_that_is_covered_is_no_healthy_copy():
    assert healthy(mount(5, "/t"), mount(6, "/t", DEAD, on=5)) == {LIVE: ()}


def test_a_live_mount_that_nobody_can_reach_is_no_healthy_copy():
    assert healthy(mount(5, "/a/t"), mount(6, "/a", DEAD)) == {LIVE: ()}


def test_copies_of_several_sources_are_counted_apart():
    other = view(source="/other", live="0:61")
    mounts = mount(5, "/t"), mount(6, "/u", "0:61"), mount(7, "/v", "0:61")

    assert healthy(*mounts, sources=(other,)) == {LIVE: (1,), "0:61": (1, 1)}


def test_a_source_that_does_not_answer_has_no_healthy_copies():
    gone = view(Answer.DEAD, source="/other")

    assert set(healthy(mount(5, "/t"), sources=(gone,))) == {LIVE}
