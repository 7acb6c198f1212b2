"""What is told of an outage: each change once, however often it is looked at."""

from itertools import pairwise

from hypothesis import given, strategies as st

from recover import events
from recover.events import Event
from recover.outage import Complaint, Outage, State
from tests.unit.handmade import publication

PUBLICATIONS = (publication(),)


class Ear:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def tell(self, event: Event) -> None:
        self.events.append(event)

    @property
    def kinds(self) -> list[type[Event]]:
        return [type(event) for event in self.events]


def heard() -> tuple[Outage, Ear]:
    ear = Ear()
    return Outage("/src", ear), ear


def failed(error: str, retry_s: float = 0.1) -> events.HealFailed:
    return events.HealFailed("/src", PUBLICATIONS, "/t", error, retry_s)


def skipped(reason: str) -> events.Skipped:
    return events.Skipped("/src", PUBLICATIONS, "/t", reason)


def test_a_break_is_told_once_and_lasts_from_when_it_began():
    outage, ear = heard()

    outage.breaks(PUBLICATIONS)
    since = outage.since
    outage.breaks(PUBLICATIONS)

    assert ear.kinds == [events.Broken]
    assert since is not None
    assert (outage.since, outage.lasted_s(since + 2)) == (since, 2)


def test_a_break_after_a_silence_is_told_and_one_after_the_other():
    outage, ear = heard()

    for _ in range(2):
        outage.hangs(PUBLICATIONS)
    outage.breaks(PUBLICATIONS)
    outage.hangs(PUBLICATIONS)

    assert ear.kinds == [events.Hung, events.Broken, events.Hung]


def test_a_break_that_hung_in_between_is_one_outage():
    outage, _ = heard()

    outage.breaks(PUBLICATIONS)
    since = outage.since
    outage.hangs(PUBLICATIONS)
    outage.breaks(PUBLICATIONS)

    assert outage.since == since


def test_the_next_outage_begins_anew():
    outage, ear = heard()
    outage.breaks(PUBLICATIONS)
    first = outage.since

    outage.ends()
    assert (outage.state, outage.since, outage.lasted_s(1.0)) == (State.HEALTHY, None, None)
    outage.breaks(PUBLICATIONS)

    assert ear.kinds == [events.Broken, events.Broken]
    assert outage.since is not None
    assert first is not None
    assert outage.since > first


def test_what_answers_again_by_itself_is_told():
    outage, ear = heard()

    outage.hangs(PUBLICATIONS)
    for _ in range(2):
        outage.answers(PUBLICATIONS)

    assert ear.kinds == [events.Hung, events.Answering]


def test_what_answers_at_the_first_look_was_never_away():
    outage, ear = heard()

    outage.answers(PUBLICATIONS)

    assert (ear.events, outage.state) == ([], State.HEALTHY)


def test_a_complaint_is_told_until_it_changes():
    outage, ear = heard()
    texts = ["no space", "no space", "denied", "no space"]

    for text in texts:
        outage.complain({"/t": failed(text)})

    assert ear.events == [failed("no space"), failed("denied"), failed("no space")]


def test_a_complaint_is_no_other_because_it_will_be_tried_again_later():
    outage, ear = heard()

    for retry_s in (0.1, 0.2, 0.4):
        outage.complain({"/t": failed("no space", retry_s)})

    assert ear.events == [failed("no space", 0.1)]


def test_a_complaint_is_told_again_after_all_was_well():
    outage, ear = heard()

    for complaints in ({"/t": skipped("it is late")}, {}, {"/t": skipped("it is late")}):
        outage.complain(complaints)

    assert ear.events == [skipped("it is late")] * 2


def test_each_place_complains_for_itself():
    outage, ear = heard()

    outage.complain({"/t": failed("no space")})
    outage.complain({"/t": failed("no space"), "/u": skipped("it is late")})

    assert ear.events == [failed("no space"), skipped("it is late")]


def test_a_complaint_of_one_place_stays_told_until_that_place_is_well():
    outage, ear = heard()

    for settled in ((), ("/u",), ("/t",)):
        outage.complain_of("/t", failed("no space"))
        outage.settle(settled)
    outage.complain_of("/t", failed("no space"))

    assert ear.events == [failed("no space")] * 2


# Any course of things

ACTS = st.sampled_from(["breaks", "hangs", "answers", "ends"])
COMPLAINTS: st.SearchStrategy[dict[str, Complaint]] = st.dictionaries(
    st.sampled_from(["/t", "/u"]), st.sampled_from([failed("a"), failed("b"), skipped("a")])
)


@given(st.lists(ACTS))
def test_nothing_is_told_without_a_change(acts):
    outage, ear = heard()
    for act in acts:
        before, known = outage.state, len(ear.events)
        for _ in range(3):
            outage.ends() if act == "ends" else getattr(outage, act)(PUBLICATIONS)

        news = len(ear.events) - known
        assert news <= (outage.state is not before)


@given(st.lists(COMPLAINTS))
def test_a_complaint_is_told_when_it_is_new_at_its_place(courses):
    outage, ear = heard()
    for complaints in courses:
        outage.complain(complaints)

    expected: list[Complaint] = []
    for before, now in pairwise([{}, *courses]):
        expected += [now[p] for p in now if p not in before or text(before[p]) != text(now[p])]
    assert ear.events == expected


def text(complaint: Complaint) -> str:
    return complaint.error if isinstance(complaint, events.HealFailed) else complaint.reason
