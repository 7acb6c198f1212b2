"""The present values of the metrics, and Prometheus' text form of them.

Counters and histograms are updated as things happen; gauges are computed when somebody asks, from
memory alone, so a scrape costs nothing in between and never waits for a FUSE daemon.
The form (version 0.0.4) is written here because the usual library takes a tenth of the plugin's
resident memory: it imports an HTTP client, a mail parser and OpenSSL.
"""

import bisect
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping

from csi_fluid.metrics import catalogue
from csi_fluid.metrics.catalogue import Metric

Labels = tuple[str, ...]
Gauges = Mapping[Metric, Mapping[Labels, float]]
"""The present values of gauges, and of counters kept elsewhere, by the values of their labels."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class _Histogram:
    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)  # the last is above every bound
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self._sum += value

    def samples(self) -> Iterator[tuple[str, Labels, float]]:
        """Yield the suffix of the name, the value of the label le, and the value."""
        bounds = (*(f"{bound:g}" for bound in self._bounds), "+Inf")
        for bound, count in zip(bounds, itertools.accumulate(self._counts), strict=True):
            yield "_bucket", (bound,), count
        yield "_sum", (), self._sum
        yield "_count", (), sum(self._counts)


class Values:
    """The present values of a process's metrics; safe to use from any thread."""

    def __init__(
        self, gauges: Callable[[], Gauges], shown: tuple[Metric, ...] = catalogue.METRICS
    ) -> None:
        """Start at nothing; gauges is asked at each scrape."""
        self._gauges = gauges
        self._shown = shown
        self._lock = threading.Lock()
        self._counts: dict[Metric, dict[Labels, float]] = {}
        self._histograms: dict[Metric, dict[Labels, _Histogram]] = {}

    def begin(self, metric: Metric, *labels: str) -> None:
        """Show a counter or a histogram at zero.

        Prometheus sees no increase in the first value of a series: without a zero before it the
        first heal of a plugin would be in no graph.
        """
        with self._lock:
            if metric.kind == "histogram":
                values = self._histograms.setdefault(metric, {})
                values.setdefault(labels, _Histogram(metric.buckets))
            else:
                self._counts.setdefault(metric, {}).setdefault(labels, 0)

    def count(self, metric: Metric, *labels: str, amount: float = 1) -> None:
        """Add to a counter."""
        with self._lock:
            values = self._counts.setdefault(metric, {})
            values[labels] = values.get(labels, 0) + amount

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Add a value to a histogram."""
        with self._lock:
            values = self._histograms.setdefault(metric, {})
            if labels not in values:
                values[labels] = _Histogram(metric.buckets)
            values[labels].add(value)

    def text(self) -> bytes:
        """Return all values in the form that CONTENT_TYPE names."""
        gauges = self._gauges()
        with self._lock:
            lines = [line for metric in self._shown for line in self._lines(metric, gauges)]
        return "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")

    def _lines(self, metric: Metric, gauges: Gauges) -> Iterator[str]:
        yield f"# HELP {metric.name} {metric.help}"
        yield f"# TYPE {metric.name} {metric.kind}"
        for labels, value in gauges.get(metric, self._counts.get(metric, {})).items():
            yield _line(metric.name, metric.labels, labels, value)
        for labels, histogram in self._histograms.get(metric, {}).items():
            for suffix, bound, value in histogram.samples():
                names = (*metric.labels, "le")[: len(labels) + len(bound)]
                yield _line(metric.name + suffix, names, labels + bound, value)


def _line(name: str, labels: Labels, values: Labels, value: float) -> str:
    pairs = (f'{k}="{v.translate(_ESCAPES)}"' for k, v in zip(labels, values, strict=True))
    inner = ",".join(pairs)
    return f"{name}{{{inner}}} {value!r}" if inner else f"{name} {value!r}"
