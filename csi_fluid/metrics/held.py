"""What the holder counts, as gauges: it outlives the plugin, and so do its counters."""

from collections import Counter
from collections.abc import Callable

from csi_fluid.metrics import catalogue
from csi_fluid.metrics.values import Gauges
from recover.seamless.client import Status

_RESULTS = ("served", "walked_again", "refused", "failed", "killed")
_STATES = ("live", "held", "served")


def gauges(ask: Callable[[], Status] | None) -> Gauges:
    """Return the present values; none where nothing is ever held, or the holder does not answer."""
    status = None if ask is None else ask()
    if status is None or status.problem:
        return {}
    held = status.sources.values()
    states = Counter(state for each in held for state in each.connections.values())

    def total(name: str) -> float:
        return float(sum(each.counts.get(name, 0) for each in held))

    return {
        catalogue.HELD_CONNECTIONS: {(state,): float(states[state]) for state in _STATES},
        catalogue.HELD_WAITING: {(): total("waiting")},
        catalogue.HOLDS: {(): total("holds")},
        catalogue.HELD_REQUESTS: {(result,): total(result) for result in _RESULTS},
        catalogue.HELD_BYTES: {(): total("read_bytes")},
        catalogue.HELD_LONGEST: {
            (): max((each.counts.get("longest_s", 0.0) for each in held), default=0.0)
        },
    }
