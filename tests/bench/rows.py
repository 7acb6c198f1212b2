"""The rows of the table: what is shown of the samples, and against which goal.  Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.bench import numbers
from tests.bench.numbers import Summary
from tests.bench.run import Result, Results

OURS, OTHER, BARE = "ours", "other", "bare"
_ONE_POD = {"p50": 1.5, "p99": 3.0}
_PUBLISH, _UNPUBLISH = {"p50": 1.5}, {"p50": 1.1}
_NOT_MORE = {"ratio": 1.0}  # than the other plugin in the same run
STATISTICS = {"p50": "p50", "p99": "p99", "most": "max"}


@dataclass(frozen=True, slots=True)
class Metric:
    """One row: samples of one name in one experiment; goal is the limit for each statistic.

    main is the statistic that ratios are made of.
    """

    section: str
    label: str
    experiment: str
    key: str
    goal: Mapping[str, float] = field(default_factory=dict)
    main: str = "p50"


def _at_most(limit: float) -> Mapping[str, float]:
    return {"p50": limit, "most": limit}


def _heal_metrics(experiment: str, label: str, goal: Mapping[str, float]) -> list[Metric]:
    section = "heal, ms after the new mount answers"
    return [
        Metric(section, f"{label}: last copy of all", experiment, "last", goal),
        Metric(section, f"{label}: on the node", experiment, "host"),
        Metric(section, f"{label}: in a container", experiment, "inside"),
    ]


def _cost_metrics(experiment: str, label: str, **goals: Mapping[str, float]) -> list[Metric]:
    section = "what a heal takes"
    cpu, rss = goals.get("cpu", {}), goals.get("rss", {})
    return [
        Metric(section, f"CPU, ms, {label}", experiment, "cpu", cpu),
        Metric(section, f"resident memory after it, MiB, {label}", experiment, "rss", rss),
    ]


def _call_metrics(experiment: str, label: str) -> list[Metric]:
    section = "calls of kubelet, ms"
    return [
        Metric(section, f"publish, {label}", experiment, "publish", _PUBLISH),
        Metric(section, f"publish again, {label}", experiment, "republish"),
        Metric(section, f"unpublish, {label}", experiment, "unpublish", _UNPUBLISH),
    ]


def _idle_metrics(number: int) -> list[Metric]:
    experiment, label = f"idle-{number}", f"{number:,} publications"
    return [
        Metric("idle", f"resident memory, MiB, {label}", experiment, "rss", _NOT_MORE),
        Metric("idle", f"threads, {label}", experiment, "threads"),
        Metric("idle", f"wake-ups a minute, {label}", experiment, "wakeups"),
        Metric("idle", f"CPU, ms a minute, {label}", experiment, "minute", {"p50": 20.0}),
        Metric("idle", f"CPU, % of a core, {label}", experiment, "percent"),
    ]


def _seamless_metrics() -> list[Metric]:
    section = "with SeamlessRecovery"
    crowd, ten = "seamless-100", "seamless-ten"
    return [
        Metric(section, "errors of a crash, 100 readers", crowd, "errors", {"most": 0.0}, "most"),
        Metric(section, "first answer after the swap, ms", crowd, "first", {"p50": 5.0}),
        Metric(section, "waits beyond the daemon's absence, ms", crowd, "beyond"),
        Metric(section, "memory of holder and reader, MiB", crowd, "rss", {"most": 40.0}, "most"),
        Metric(section, "errors of crashes of ten datasets", ten, "errors", {"most": 0.0}, "most"),
        Metric(section, "their first answer, ms", ten, "first"),
        Metric(section, "their memory, MiB", ten, "rss", {"most": 40.0}, "most"),
        *(
            metric
            for readers in (1, 4)
            for metric in (
                Metric(section, f"MiB/s, {readers} new", f"seamless-on{readers}", "new"),
                Metric(section, f"MiB/s, {readers} from before", f"seamless-on{readers}", "old"),
                Metric(
                    section,
                    f"that takes so many times as long, {readers}",
                    f"seamless-on{readers}",
                    "times",
                    {"p50": 2.0},
                ),
            )
        ),
    ]


METRICS = (
    *_heal_metrics("heal-1", "1 container", _ONE_POD),
    *_heal_metrics("heal-100", "100", _at_most(10.0)),
    *_heal_metrics("heal-1000", "1,000", _at_most(40.0)),
    *_heal_metrics("private-100", "100 private", _at_most(60.0)),
    *_heal_metrics("private-1000", "1,000 private", _at_most(600.0)),
    *_heal_metrics("layers", "1, daemon back at once", _ONE_POD),
    *_heal_metrics("hung", "1, beside a hung dataset", _ONE_POD),
    *_cost_metrics("heal-1", "1 container"),
    *_cost_metrics("heal-100", "100"),
    *_cost_metrics("heal-1000", "1,000", cpu=_at_most(100.0), rss=_at_most(46.0)),
    *_cost_metrics("private-1000", "1,000 private"),
    Metric("layers", "after 60 crashes", "layers", "layers", {"most": 2.0}, main="most"),
    Metric(
        "layers",
        "without the host's processes",
        "layers-alone",
        "layers",
        {"most": 2.0},
        main="most",
    ),
    *_call_metrics("publish-0", "0 published"),
    *_call_metrics("publish-1000", "1,000 published"),
    *_call_metrics("publish-crowd", "and 10,000 other mounts"),
    Metric("calls of kubelet, ms", "Probe, which does nothing", "publish-0", "probe"),
    Metric("start, ms", "to the first answered Probe, 0 published", "start-0", "answered"),
    Metric("start, ms", "to ready, 0 published", "start-0", "ready"),
    Metric("start, ms", "to the first answered Probe, 1,000", "start-1000", "answered"),
    Metric("start, ms", "to ready, 1,000", "start-1000", "ready"),
    *_seamless_metrics(),
    *(metric for number in (0, 100, 1_000) for metric in _idle_metrics(number)),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A metric and what was measured; ratio is ours to the other's, None without both."""

    metric: Metric
    ours: Summary | None
    other: Summary | None
    bare: Summary | None
    ratio: float | None

    @property
    def misses(self) -> dict[str, float]:
        """Return what was measured instead, for each statistic over its limit."""
        return {
            name: value
            for name, limit in self.metric.goal.items()
            if (value := self._value(name)) is not None and value > limit
        }

    @property
    def is_met(self) -> bool | None:
        """Tell whether the goal was reached; None without a goal or without what it is about."""
        known = [name for name in self.metric.goal if self._value(name) is not None]
        return not self.misses if known else None

    def _value(self, statistic: str) -> float | None:
        if statistic == "ratio":
            return self.ratio
        return getattr(self.ours, statistic) if self.ours else None


def rows(results: Results) -> list[Row]:
    """Return the rows for which something was measured."""
    return [
        row
        for metric in METRICS
        if (row := _row(metric, results.get(metric.experiment, {}))).ours or row.other
    ]


def _row(metric: Metric, results: Mapping[str, Result]) -> Row:
    found = {
        name: numbers.summary(samples)
        for name, result in results.items()
        if (samples := result.samples.get(metric.key))
    }
    ours, other = found.get(OURS), found.get(OTHER)
    ratio = None
    if ours and other and getattr(other, metric.main):
        ratio = getattr(ours, metric.main) / getattr(other, metric.main)
    return Row(metric, ours, other, found.get(BARE), ratio)


def goal_text(goal: Mapping[str, float]) -> str:
    """Write a goal: limits that are the same are written once."""
    if "ratio" in goal:
        return "<= other's"
    names: dict[float, list[str]] = {}
    for name, limit in goal.items():
        names.setdefault(limit, []).append(STATISTICS[name])
    return ", ".join(f"{' '.join(n)} <= {limit:,g}" for limit, n in names.items())


def verdict(row: Row) -> str:
    """Say whether the goal was met, and if not by how much it was missed."""
    if not row.metric.goal:
        return ""
    if row.is_met is None:
        return "needs --against" if "ratio" in row.metric.goal else "not measured"
    if row.is_met:
        return "met"
    misses: Sequence[str] = [
        f"{STATISTICS.get(name, name)} {round(value / row.metric.goal[name], 3):g}x"
        for name, value in row.misses.items()
    ]
    return f"missed: {', '.join(misses)}"
