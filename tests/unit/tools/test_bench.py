"""The bench's arithmetic and its report; what it measures is not tested here."""

import json

import pytest
from hypothesis import given, strategies

from tests.bench import experiments, numbers, report, rows
from tests.bench.run import Result
from tests.bench.subjects import Spec

MACHINE = {"time": "now", "kernel": "6.18", "cpus": 2, "cpu": "CPU", "python": "3.11"}
RUN = report.Run(
    plugins=[Spec("ours", "csi-fluid start")],
    quick=True,
    seed=1,
    s=1.0,
    machine=MACHINE | {"fuse": "bindfs 1", "load": 0.0},
)
AGAINST = report.Run([*RUN.plugins, Spec("other", "fluid-csi start")], True, 1, 1.0, RUN.machine)
FINITE = strategies.floats(min_value=0, max_value=1e6)


def measured(experiment="heal-1", key="last", **subjects):
    return {experiment: {name: Result({key: values}) for name, values in subjects.items()}}


def row(**subjects):
    (only,) = rows.rows(measured(**subjects))
    return only


# ---- Numbers


def test_the_summary_of_one_to_a_hundred():
    found = numbers.summary([float(n) for n in range(100, 0, -1)])

    assert found == numbers.Summary(n=100, least=1, p50=50.5, p90=90, p99=99, most=100)


def test_the_p99_of_few_samples_is_the_worst():
    assert numbers.summary([3.0, 9.0, 1.0]).p99 == 9.0


def test_no_samples_have_no_summary():
    with pytest.raises(ValueError, match="no samples"):
        numbers.summary([])


@given(strategies.lists(FINITE, min_size=1))
def test_statistics_are_in_order_and_within_what_was_measured(samples):
    found = numbers.summary(samples)

    assert min(samples) == found.least <= found.p50 <= found.p99 <= found.most == max(samples)
    assert found.p90 in samples
    assert found.p99 in samples


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(0.0, "0"), (1.0, "1"), (61, "61"), (0.01234, "0.012"), (0.5678, "0.568")],
        *[(9.876, "9.88"), (12.34, "12.3"), (999.5, "1,000"), (51234.5, "51,234")],
    ],
)
def test_figures_have_three_digits_that_matter(value, text):
    assert numbers.figure(value) == text


# ---- Goals


def test_a_goal_is_met_when_every_statistic_keeps_its_limit():
    found = row(ours=[1.5] * 99 + [3.0])

    assert found.is_met is True
    assert rows.verdict(found) == "met"


def test_a_missed_goal_says_which_statistic_missed_it_by_how_much():
    found = row(ours=[1.0, 1.0, 4.5])

    assert found.is_met is False
    assert rows.verdict(found) == "missed: p99 1.5x"


def test_not_more_than_the_other_needs_another():
    alone = row(experiment="idle-0", key="rss", ours=[40.0])
    less = row(experiment="idle-0", key="rss", ours=[40.0], other=[50.0])
    more = row(experiment="idle-0", key="rss", ours=[60.0], other=[50.0])

    assert [rows.verdict(each) for each in (alone, less, more)] == [
        "needs --against",
        "met",
        "missed: ratio 1.2x",
    ]


def test_the_other_alone_meets_no_goal_for_us():
    assert rows.verdict(row(ours=[], other=[1.0])) == "not measured"


def test_the_ratio_is_ours_to_the_others_median():
    assert row(ours=[1.0, 2.0, 9.0], other=[8.0]).ratio == 0.25


def test_the_ratio_of_layers_is_that_of_the_most():
    assert row(experiment="layers", key="layers", ours=[1, 1], other=[1, 50]).ratio == 0.02


def test_equal_limits_are_written_once():
    assert rows.goal_text({"p50": 1000.0, "most": 1000.0}) == "p50 max <= 1,000"
    assert rows.goal_text({"p50": 5.0, "p99": 20.0}) == "p50 <= 5, p99 <= 20"


# ---- What is measured


def test_every_row_is_about_an_experiment_that_is_done():
    done = {experiment.name for experiment in experiments.choose(quick=False, only=(), seed=1)}

    assert {metric.experiment for metric in rows.METRICS} == done


def test_quick_does_the_same_experiments_in_fewer_rounds():
    full = experiments.choose(quick=False, only=(), seed=1)
    quick = experiments.choose(quick=True, only=(), seed=1)

    assert [one.name for one in quick] == [one.name for one in full]
    assert all(len(few.rounds) <= len(all_.rounds) for few, all_ in zip(quick, full, strict=True))


@pytest.mark.parametrize("group", experiments.GROUPS)
def test_each_group_can_be_measured_alone(group):
    chosen = experiments.choose(quick=True, only=[group], seed=1)

    assert {experiment.group for experiment in chosen} == {group}


def test_the_seed_decides_the_phases():
    one, same, other = (
        experiments.choose(quick=False, only=["heal"], seed=seed)[0].rounds for seed in (1, 1, 2)
    )

    assert one == same != other
    assert len({crash["down_s"] for crash in one}) > 1
    assert all(0 <= crash["down_s"] <= 1 for crash in one)


# ---- The report


def line_of(table):
    (line,) = [line for line in table.splitlines() if "last copy" in line]
    return " ".join(line.split())


def test_columns_are_aligned_and_headings_give_no_width():
    lines = report.aligned([["", "n"], "a long heading", ["ab", "7"], ["a", "100"]], left={0})

    assert lines == ["      n", "a long heading", "ab    7", "a   100"]


def test_a_row_has_its_numbers_goal_and_verdict():
    table = report.text(RUN, measured(ours=[1.0, 1.0, 2.0], bare=[0.5]))

    assert line_of(table).endswith("of all 3 1 2 2 0.500 p50 <= 1.5, p99 <= 3 met")
    assert "other" not in table


def test_against_another_both_stand_side_by_side():
    table = report.text(AGAINST, measured(ours=[5.0], other=[2947.0]))

    assert "of all 1 5 5 5 1 2,947 2,947 2,947 0.002 p50" in line_of(table)
    assert "other: fluid-csi start" in table


def test_what_was_not_measured_is_not_shown_as_a_number():
    table = report.text(AGAINST, measured(ours=[5.0], other=[]))

    assert "of all 1 5 5 5 - - - - p50" in line_of(table)


def test_a_subject_that_is_out_is_named_with_its_reason():
    results = {"heal-1": {"other": Result(rounds=3, problem="Traceback\nError: not healed")}}

    assert "heal-1: other is out after 3 rounds: Error: not healed" in report.text(AGAINST, results)


def test_the_json_has_every_sample_and_every_row():
    found = json.loads(json.dumps(report.data(RUN, measured(ours=[4.0, 30.0]))))

    assert found["experiments"]["heal-1"]["ours"]["samples"] == {"last": [4.0, 30.0]}
    (only,) = found["rows"]
    assert (only["ours"]["p50"], only["met"], only["other"]) == (17.0, False, None)
