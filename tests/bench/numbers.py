"""Statistics of samples.  Pure."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Summary:
    """What a table says about samples: how many, and in their unit."""

    n: int
    least: float
    p50: float
    p90: float
    p99: float
    most: float


def summary(samples: Sequence[float]) -> Summary:
    """Summarise at least one sample; raises ValueError if there is none."""
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    return Summary(
        n=len(ordered),
        least=ordered[0],
        p50=statistics.median(ordered),
        p90=nearest_rank(ordered, 0.90),
        p99=nearest_rank(ordered, 0.99),
        most=ordered[-1],
    )


def nearest_rank(ordered: Sequence[float], share: float) -> float:
    """Return the least sample that such a share of them does not exceed.

    It is one that was measured: with fewer than 100 samples the p99 is the worst of them.
    """
    return ordered[math.ceil(share * len(ordered)) - 1]


def figure(value: float) -> str:
    """Write a number with three digits that matter, no more decimals than three, counts as such."""
    if value == int(value):
        return f"{value:,.0f}"
    decimals = 2 - math.floor(math.log10(abs(value)))
    return f"{value:,.{min(max(decimals, 0), 3)}f}"
