"""What somebody takes down while its source is healed is left to him."""

from recover.anchors.plan import Cover
from recover.linux.mounts import Attributes
from recover.linux.probe import Answer, Reply
from recover.look import View
from recover.takedowns import Takedowns
from tests.unit.handmade import HOME, LIVE, SOURCE, copy, mount, publication

TARGET = publication().target
PLACES = copy(mount(5), path="/sub"), copy(mount(6), path=TARGET)


def left(takedowns: Takedowns) -> list[str]:
    reply = Reply(Answer.ALIVE, LIVE)
    view = View(SOURCE, (publication(),), (), reply, 0.0, live=LIVE, strays=PLACES)
    return [stray.path for stray in takedowns.left_out(view).strays]


def covered() -> Takedowns:
    takedowns = Takedowns()
    for place in PLACES:
        takedowns.note(Cover(HOME, place, "/anchor", Attributes()))
    return takedowns


def test_what_was_not_covered_yet_is_healed():
    assert left(Takedowns()) == ["/sub", TARGET]


def test_a_place_that_was_covered_and_is_dead_again_is_left_but_no_target():
    assert left(covered()) == [TARGET]


def test_another_mount_at_that_place_is_healed():
    takedowns = Takedowns()
    takedowns.note(Cover(HOME, copy(mount(7), path="/sub"), "/anchor", Attributes()))

    assert left(takedowns) == ["/sub", TARGET]


def test_another_daemon_is_another_story():
    takedowns = covered()
    takedowns.forget()

    assert left(takedowns) == ["/sub", TARGET]
