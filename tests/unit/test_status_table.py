"""The status table: what a tired person reads, and what a program reads."""

import dataclasses
import io
import json

import pytest
from rich.console import Console

from csi_fluid.cli import status, times, words
from recover.anchors.plan import Skip
from recover.linux.namespaces import Namespace
from recover.rows import Heal, Publication
from recover.states import State
from recover.survey import SourceReport

NOW = 1_000_000.0
HEAL = Heal("/rt/demo", NOW - 180, "namespace", True, 3, 3, 1, 0.0041, 1.2)
DEMO = SourceReport(
    source="/rt/demo",
    state=State.HEALTHY,
    since=None,
    publications=(Publication("/t", "v", "/rt/demo", published_at=NOW - 7200),),
    copies=3,
    healthy=3,
    layers=1,
    last_heal=HEAL,
    steps=(),
)


def changed(**changes):
    return dataclasses.replace(DEMO, **changes)


def named(name):
    (publication,) = DEMO.publications
    return dataclasses.replace(publication, runtime_namespace="default", runtime_name=name)


def shown(*sources, problems=(), width=120):
    output = io.StringIO()
    console = Console(file=output, width=width)
    for part in status.render(status.Report(sources, problems, NOW)):
        console.print(part)
    return output.getvalue()


def test_a_healthy_dataset_is_one_line_without_advice():
    lines = shown(changed(publications=(named("demo"),))).splitlines()

    assert [" ".join(line.split()) for line in lines] == [
        "dataset state for copies layers last heal",
        "default/demo healthy 3 min 3/3 1 4.1 ms, 3 min ago",
    ]


def test_a_broken_dataset_says_since_when_how_many_and_what_to_do():
    text = shown(changed(state=State.WAITING, since=NOW - 90, healthy=1))

    assert "broken, waiting for FUSE" in text
    assert "2 min" in text
    assert "1/3" in text
    assert "the FUSE daemon of /rt/demo is gone. Look at the FUSE pod" in text


def test_the_reasons_of_what_is_left_alone_are_told_once():
    left = Skip(Namespace(1, 1), "/t", "the volume is writable")
    text = shown(changed(state=State.SKIPPED, steps=(left, left)))

    assert text.count("the volume is writable") == 1


def test_a_heal_that_did_not_reach_every_copy_is_told_with_its_error():
    failed = dataclasses.replace(HEAL, ok=False, healed=2, error="no space left on device")
    text = shown(changed(last_heal=failed))

    assert "failed, 3 min ago" in text
    assert "the last heal reached 2 of 3 copies: no space left on device" in text


def test_problems_of_the_plugin_are_told_below_the_table():
    assert "plugin: the state file is damaged" in shown(
        DEMO, problems=("the state file is damaged",)
    )


def test_a_node_without_volumes_says_so():
    assert shown() == "No volume is published on this node.\n"


@pytest.mark.parametrize("name", ["[bold]x[/bold]", "[/]", "a\x1b[31m", "b\udcffc"])
def test_a_name_cannot_draw_on_the_terminal(name):
    text = shown(changed(publications=(named(name),), state=State.ABSENT))

    assert name.replace("\x1b", r"\x1b").replace("\udcff", r"\udcff") in text
    assert text.replace("\n", "").isprintable()


def test_every_state_but_healthy_has_advice():
    for state in State:
        report = changed(state=state, steps=(Skip(Namespace(1, 1), "/t", "because"),))

        assert bool(words.advice(report)) == (state is not State.HEALTHY)
        assert "{" not in words.advice(report)


def test_what_programs_read_is_json_with_everything():
    report = status.Report((changed(publications=(named("demo"),)),), ("p",), NOW)
    data = json.loads(json.dumps(status.as_data(report)))

    (dataset,) = data["datasets"]
    assert (data["at"], data["problems"]) == (NOW, ["p"])
    assert (dataset["dataset"], dataset["state"]) == ("default/demo", "healthy")
    assert dataset["last_heal"]["latency_s"] == 0.0041
    assert dataset["publications"][0]["target"] == "/t"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (0.4, "0 s"), (59, "59 s"), (61, "1 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_spans_are_in_their_largest_unit(seconds, text):
    assert times.span(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.00061, "0.6 ms"), (0.0099, "9.9 ms"), (0.0123, "12 ms"), (0.9, "900 ms"), (2.5, "2.50 s")],
)
def test_latencies_have_the_digits_that_matter(seconds, text):
    assert times.latency(seconds) == text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"since": NOW - 30, "state": State.WAITING}, "30 s"),
        ({}, "3 min"),
        ({"last_heal": None}, "2 h"),
        ({"state": State.HUNG}, "-"),
        ({"last_heal": None, "publications": ()}, "-"),
    ],
)
def test_since_is_the_break_else_the_last_heal_else_the_publish(changes, text):
    assert words.since(changed(**changes), NOW) == text
