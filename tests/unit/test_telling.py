"""Telling: Fluid's events and messages, one for each publication, and a log that says enough."""

import logging

import pytest

from csi_fluid import telling
from recover import events
from recover.rows import Publication

A = Publication("/pods/a/mount", "v", "/s", runtime_namespace="ns", runtime_name="demo")
B = Publication("/pods/b/mount", "v", "/s", pod_namespace="ns", pod_name="pod-b")


class Events(list[tuple[str, str, str]]):
    """A sink that keeps reason, type and message."""

    def record(self, reason: telling.Reason, publication: Publication, message: str) -> None:
        self.append((reason.name, reason.type, message))


def events_of(event: events.Event) -> Events:
    sink = Events()
    telling.EventObserver(sink).tell(event)
    return sink


def test_a_heal_is_fluids_success_event_for_each_publication():
    assert events_of(events.Healed("/s", (A, B), "namespace", 2, 1, 0.004, None)) == [
        ("FuseRecoverSucceed", "Normal", "Fuse recover /pods/a/mount succeed"),
        ("FuseRecoverSucceed", "Normal", "Fuse recover /pods/b/mount succeed"),
    ]


@pytest.mark.parametrize(
    ("event", "reason", "words"),
    [
        (
            events.HealFailed("/s", (A,), "/data in pod", "no space", 0.2),
            "FuseRecoverFailed",
            "Fuse recover /pods/a/mount failed: /data in pod: no space; next try in 0.2 s",
        ),
        (
            events.Stacked("/s", A, 50),
            "UnmountDuplicateMountpoint",
            "Mountpoint /pods/a/mount has been mounted 50 times",
        ),
        (events.Broken("/s", (A,), 1.0), "FuseBroken", "Fuse mount /s is broken: /pods/a/mount"),
        (events.Hung("/s", (A,), 1.0), "FuseHung", "Fuse mount /s does not answer"),
        (
            events.Aborted("/s", (A,), "0:61", 300.2),
            "FuseAborted",
            "Fuse mount /s was ended: its daemon had not answered for 300 s; /pods/a/mount answers",
        ),
        (
            events.AbortFailed("/s", (A,), "not permitted"),
            "FuseAbortFailed",
            "Fuse mount /s does not answer and could not be ended: not permitted",
        ),
        (
            events.Skipped("/s", (A,), "/pods/a/mount", "it is writable"),
            "FuseRecoverSkipped",
            "Fuse recover /pods/a/mount skipped: /pods/a/mount: it is writable",
        ),
    ],
)
def test_trouble_is_a_warning_event_that_names_the_path(event, reason, words):
    ((name, kind, message),) = events_of(event)

    assert (name, kind) == (reason, "Warning")
    assert message.startswith(words)


@pytest.mark.parametrize(
    "event", [events.Woken("tick"), events.Adopted((A,)), events.Dropped((A,), "its pod is gone")]
)
def test_what_changes_nothing_for_a_pod_is_no_event(event):
    assert events_of(event) == []


def test_a_path_with_braces_is_no_format():
    odd = Publication("/pods/{x}/mount", "v", "/s{0}")

    ((_, _, message),) = events_of(events.Broken("/s{0}", (odd,), 1.0))

    assert "/pods/{x}/mount" in message


@pytest.mark.expects_log("Fuse mount /s is broken")
def test_standalone_an_event_goes_to_the_log_with_what_it_is_about(caplog):
    caplog.set_level(logging.INFO)
    observer = telling.EventObserver(telling.LogSink())
    observer.tell(events.Healed("/s", (A,), "namespace", 1, 1, 0.004, None))
    observer.tell(events.Broken("/s", (B,), 1.0))
    normal, warning = caplog.records

    assert (normal.levelname, vars(normal)["reason"]) == ("INFO", "FuseRecoverSucceed")
    assert vars(normal)["dataset"] == "ns/demo"
    assert (warning.levelname, vars(warning)["reason"]) == ("WARNING", "FuseBroken")
    assert vars(warning)["pod"] == "ns/pod-b"


@pytest.mark.expects_log("state file /x is full")
def test_the_log_tells_heals_adoptions_and_trouble_with_the_state(caplog):
    caplog.set_level(logging.INFO)
    observer = telling.LogObserver()
    for event in (
        events.Healed("/s", (A, B), "namespace", 7, 1, 0.00412, 1.2345),
        events.Adopted((A, B)),
        events.Dropped((A,), "its pod is gone"),
        events.Answering("/s", (A,)),
        events.StateTrouble("/x", "state file /x is full"),
        events.StateTrouble("/x", ""),
        events.Woken("tick"),
    ):
        observer.tell(event)

    assert [record.getMessage() for record in caplog.records] == [
        "healed",
        "adopted a mount that was here",
        "adopted a mount that was here",
        "forgot a publication: its pod is gone",
        "Fuse mount /s answers again",
        "state file /x is full",
        "the state file works again",
    ]
    facts = vars(caplog.records[0])
    assert (facts["copies"], facts["latency_ms"], facts["outage_s"]) == (7, 4.12, 1.234)


@pytest.mark.expects_log("Deaf failed")
def test_an_observer_that_fails_keeps_nothing_from_the_others():
    class Deaf:
        def tell(self, event):
            raise ValueError("cannot hear")

    sink = Events()
    telling.FanOut(Deaf(), telling.EventObserver(sink)).tell(events.Hung("/s", (A,), 1.0))

    assert [name for name, _, _ in sink] == ["FuseHung"]


def test_every_reason_is_listed():
    made = {value for value in vars(telling).values() if isinstance(value, telling.Reason)}

    assert made == set(telling.REASONS)
