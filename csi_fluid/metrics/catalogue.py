"""The numbers that the plugin shows to Prometheus: every metric, in one list."""

from dataclasses import dataclass
from typing import Literal

_HEAL_BUCKETS = (
    *(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)
_OUTAGE_BUCKETS = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800)
_RPC_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 30, 120)
_ADMISSION_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5)
STATES = ("healthy", "broken", "hung", "failing", "skipped")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; a histogram has buckets, whose upper ends are in its unit."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


PUBLICATIONS = Metric(
    "csi_fluid_publications",
    "gauge",
    "publications",
    f"Published volumes by state: {', '.join(STATES)}.",
    ("state",),
)
BROKEN_SINCE = Metric(
    "csi_fluid_broken_since_timestamp_seconds",
    "gauge",
    "Unix time in seconds",
    "When a FUSE mount was found broken or hung; absent while it is well.",
    ("source",),
)
HEALS = Metric(
    "csi_fluid_heals_total",
    "counter",
    "heals",
    "Heals by result (healed, failed, skipped) and strategy.",
    ("result", "strategy"),
)
COPIES = Metric(
    "csi_fluid_healed_copies_total",
    "counter",
    "mounts",
    "Mounts replaced by heals, in all mount namespaces.",
    ("strategy",),
)
HEAL_SECONDS = Metric(
    "csi_fluid_heal_seconds",
    "histogram",
    "seconds",
    "From the moment the new FUSE mount answered to the last copy seen to work.",
    ("strategy",),
    _HEAL_BUCKETS,
)
OUTAGE_SECONDS = Metric(
    "csi_fluid_outage_seconds",
    "histogram",
    "seconds",
    "From the moment a break was noticed to the last copy seen to work.",
    ("strategy",),
    _OUTAGE_BUCKETS,
)
ABORTS = Metric(
    "csi_fluid_aborts_total",
    "counter",
    "connections",
    "FUSE connections ended because their daemon did not answer, by result (aborted, failed).",
    ("result",),
)
HELD_CONNECTIONS = Metric(
    "csi_fluid_held_connections",
    "gauge",
    "connections",
    "FUSE connections kept by the holder: of a live daemon, held (callers wait), served.",
    ("state",),
)
HELD_WAITING = Metric(
    "csi_fluid_held_waiting",
    "gauge",
    "requests",
    "Requests to dead FUSE daemons that wait now.",
)
HOLDS = Metric(
    "csi_fluid_holds_total",
    "counter",
    "holds",
    "Times that callers of a dead FUSE daemon were kept waiting for the next one.",
)
HELD_REQUESTS = Metric(
    "csi_fluid_held_requests_total",
    "counter",
    "requests",
    "Requests to dead FUSE daemons by what became of them: served, walked_again, refused (the "
    "file changed), failed (at the deadline), killed (their callers).",
    ("result",),
)
HELD_BYTES = Metric(
    "csi_fluid_held_read_bytes_total",
    "counter",
    "bytes",
    "File data given to readers of dead FUSE daemons.",
)
HELD_LONGEST = Metric(
    "csi_fluid_held_longest_wait_seconds",
    "gauge",
    "seconds",
    "The longest that a request to a dead FUSE daemon has waited for its answer.",
)
LAYERS = Metric(
    "csi_fluid_layers",
    "gauge",
    "mounts",
    "Most mounts stacked on one path of a FUSE mount's copies after its last heal.",
    ("source",),
)
ABANDONED_PROBES = Metric(
    "csi_fluid_abandoned_probes",
    "gauge",
    "threads",
    "Probes that were given up and still wait for a FUSE daemon that does not answer.",
)
RPC_SECONDS = Metric(
    "csi_fluid_rpc_seconds",
    "histogram",
    "seconds",
    "Time taken by CSI calls, by method and gRPC code.",
    ("method", "code"),
    _RPC_BUCKETS,
)
WAKEUPS = Metric(
    "csi_fluid_wakeups_total",
    "counter",
    "wake-ups",
    "What made recovery look: mount table events, exits of FUSE daemons, the period.",
    ("source",),
)
STATE_PROBLEM = Metric(
    "csi_fluid_state_problem",
    "gauge",
    "0 or 1",
    "1 while the state file cannot be used as it should; healing goes on from memory.",
)
REGISTERED = Metric(
    "csi_fluid_registered",
    "gauge",
    "0 or 1",
    "1 when kubelet last said that it registered the plugin, which registers itself.",
)

API_CALLS = Metric(
    "csi_fluid_api_calls_total",
    "counter",
    "calls",
    "Calls to the API server by method, resource and HTTP status (none: no answer).",
    ("verb", "resource", "code"),
)
API_HELPERS = Metric(
    "csi_fluid_api_helper_starts_total",
    "counter",
    "processes",
    "Starts of the helper process that talks to the API server.",
)
EVENTS = Metric(
    "csi_fluid_api_events_total",
    "counter",
    "events",
    "Events by what became of them: sent, merged, dropped, refused, unaddressed.",
    ("result",),
)
EVENTS_WAITING = Metric(
    "csi_fluid_api_events_waiting",
    "gauge",
    "events",
    "Events that wait to be sent to the API server.",
)

ADMISSIONS = Metric(
    "csi_fluid_admissions_total",
    "counter",
    "pods",
    "Admission reviews by result: unasked, translated, awaited, added, present, impossible, error, "
    "malformed.",
    ("result",),
)
ADMISSION_SECONDS = Metric(
    "csi_fluid_admission_seconds",
    "histogram",
    "seconds",
    "Time taken by admission reviews.",
    (),
    _ADMISSION_BUCKETS,
)
CERTIFICATE_EXPIRY = Metric(
    "csi_fluid_certificate_expiry_timestamp_seconds",
    "gauge",
    "Unix time in seconds",
    "When the certificate that the webhook serves ends; absent while it serves none.",
)

METRICS: tuple[Metric, ...] = (
    PUBLICATIONS,
    BROKEN_SINCE,
    HEALS,
    COPIES,
    HEAL_SECONDS,
    OUTAGE_SECONDS,
    ABORTS,
    HELD_CONNECTIONS,
    HELD_WAITING,
    HOLDS,
    HELD_REQUESTS,
    HELD_BYTES,
    HELD_LONGEST,
    LAYERS,
    ABANDONED_PROBES,
    RPC_SECONDS,
    WAKEUPS,
    STATE_PROBLEM,
    REGISTERED,
    API_CALLS,
    API_HELPERS,
    EVENTS,
    EVENTS_WAITING,
)
"""The metrics of the plugin and the agent."""

WEBHOOK_METRICS: tuple[Metric, ...] = (
    ADMISSIONS,
    ADMISSION_SECONDS,
    CERTIFICATE_EXPIRY,
    API_CALLS,
    API_HELPERS,
)
"""The metrics of the webhook."""
