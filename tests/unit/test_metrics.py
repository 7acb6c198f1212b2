"""Metrics: what is counted is shown, in a form that Prometheus' own parser reads."""

import math
import socket
import threading
import urllib.error
import urllib.request

import pytest
from hypothesis import given, strategies as st
from prometheus_client import parser

from csi_fluid.metrics import catalogue
from csi_fluid.metrics.meter import Meter
from csi_fluid.metrics.observer import MetricsObserver
from csi_fluid.metrics.server import Server
from csi_fluid.metrics.values import Values
from recover import events
from recover.linux.probe import Prober
from recover.rows import Publication
from recover.store import Store

A = Publication("/t/a", "v", "/s")
B = Publication("/t/b", "v", "/s")
C = Publication("/t/c", "w", "/other")
HEALED = events.Healed("/s", (A, B), "namespace", copies=5, layers=1, latency_s=0.004, outage_s=1.5)


def parsed(text: bytes) -> dict[str, float]:
    """Return every sample, its labels in the name."""
    found = {}
    for family in parser.text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def watching(*publications: Publication) -> MetricsObserver:
    store = Store()
    for publication in publications:
        store.put_publication(publication)
    return MetricsObserver(store, Prober())


def samples(observer: MetricsObserver) -> dict[str, float]:
    return parsed(observer.values.text())


def state(observer: MetricsObserver, name: str) -> float:
    return samples(observer)[f"csi_fluid_publications{{state={name}}}"]


def test_every_metric_is_announced_with_its_help_and_type():
    families = parser.text_string_to_metric_families(watching().values.text().decode())
    found = {family.name: family for family in families}

    for metric in catalogue.METRICS:
        family = found[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.help)


def test_names_are_unique_and_follow_prometheus_rules():
    names = [metric.name for metric in catalogue.METRICS]

    assert len(names) == len(set(names))
    for metric in catalogue.METRICS:
        assert metric.name.startswith("csi_fluid_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert bool(metric.buckets) == (metric.kind == "histogram")
        assert list(metric.buckets) == sorted(set(metric.buckets))


@given(st.text())
def test_any_label_value_survives(value):
    values = Values(dict)
    values.count(catalogue.WAKEUPS, value)
    families = parser.text_string_to_metric_families(values.text().decode())
    shown = [s.labels["source"] for family in families for s in family.samples]

    assert shown == [value.encode("utf-8", "backslashreplace").decode()]


@given(st.lists(st.floats(0, 100), min_size=1))
def test_a_histogram_counts_each_value_once_in_every_bucket_above_it(given_values):
    values = Values(dict)
    for value in given_values:
        values.observe(catalogue.HEAL_SECONDS, value, "namespace")
    found = parsed(values.text())

    for bound in (*catalogue.HEAL_SECONDS.buckets, math.inf):
        name = f"csi_fluid_heal_seconds_bucket{{le={'+Inf' if bound == math.inf else f'{bound:g}'}"
        assert found[f"{name},strategy=namespace}}"] == sum(v <= bound for v in given_values)
    assert found["csi_fluid_heal_seconds_count{strategy=namespace}"] == len(given_values)
    assert found["csi_fluid_heal_seconds_sum{strategy=namespace}"] == pytest.approx(
        sum(given_values)
    )


def test_counting_from_many_threads_loses_nothing():
    values = Values(dict)

    def count():
        for _ in range(2_000):
            values.count(catalogue.WAKEUPS, "tick")
            values.observe(catalogue.RPC_SECONDS, 0.001, "Probe", "OK")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = parsed(values.text())

    assert found["csi_fluid_wakeups_total{source=tick}"] == 8_000
    assert found["csi_fluid_rpc_seconds_count{code=OK,method=Probe}"] == 8_000


def test_publications_are_healthy_until_something_else_is_told():
    observer = watching(A, B, C)

    assert state(observer, "healthy") == 3
    assert not [name for name in samples(observer) if "broken_since" in name]


def test_a_break_shows_until_the_heal_and_keeps_its_beginning():
    observer = watching(A, B, C)
    observer.tell(events.Broken("/s", (A, B), since=100.0))
    observer.tell(events.HealFailed("/s", (A,), "/t/a", "EBUSY", 0.1))
    broken = samples(observer)
    observer.tell(HEALED)
    healed = samples(observer)

    assert broken["csi_fluid_broken_since_timestamp_seconds{source=/s}"] == 100.0
    assert broken["csi_fluid_publications{state=broken}"] == 1
    assert broken["csi_fluid_publications{state=failing}"] == 1
    assert broken["csi_fluid_publications{state=healthy}"] == 1
    assert healed["csi_fluid_publications{state=healthy}"] == 3
    assert "csi_fluid_broken_since_timestamp_seconds{source=/s}" not in healed


def test_a_heal_is_counted_with_its_latency_outage_copies_and_layers():
    observer = watching(A, B)
    observer.tell(HEALED)
    found = samples(observer)

    assert found["csi_fluid_heals_total{result=healed,strategy=namespace}"] == 1
    assert found["csi_fluid_healed_copies_total{strategy=namespace}"] == 5
    assert found["csi_fluid_heal_seconds_sum{strategy=namespace}"] == 0.004
    assert found["csi_fluid_outage_seconds_sum{strategy=namespace}"] == 1.5
    assert found["csi_fluid_layers{source=/s}"] == 1


def test_an_outage_that_nobody_saw_begin_has_no_length():
    observer = watching(A)
    observer.tell(events.Healed("/s", (A,), "namespace", 1, 1, 0.004, None))

    assert not [name for name in samples(observer) if "outage" in name]


@pytest.mark.parametrize(
    ("event", "name"),
    [
        (events.Hung("/s", (A,), 1.0), "hung"),
        (events.Broken("/s", (A,), 1.0), "broken"),
        (events.Skipped("/s", (A,), "/t/a", "writable"), "skipped"),
        (events.HealFailed("/s", (A,), "/t/a", "EBUSY", 0.1), "failing"),
    ],
)
def test_each_bad_state_ends_when_the_source_answers_again(event, name):
    observer = watching(A)
    observer.tell(event)
    during = state(observer, name)
    observer.tell(events.Answering("/s", (A,)))

    assert (during, state(observer, "healthy")) == (1, 1)


def test_failures_and_skips_are_counted_with_the_strategy_of_this_plugin():
    observer = watching(A)
    observer.strategy = "propagation"
    observer.tell(events.HealFailed("/s", (A,), "/t/a", "EBUSY", 0.1))
    observer.tell(events.Skipped("/s", (A,), "/t/a", "writable"))
    found = samples(observer)

    assert found["csi_fluid_heals_total{result=failed,strategy=propagation}"] == 1
    assert found["csi_fluid_heals_total{result=skipped,strategy=propagation}"] == 1


def test_the_first_heal_is_an_increase():
    observer = watching(A)
    observer.strategy = "namespace"
    before = samples(observer)

    assert before["csi_fluid_heals_total{result=healed,strategy=namespace}"] == 0
    assert before["csi_fluid_healed_copies_total{strategy=namespace}"] == 0
    assert before["csi_fluid_heal_seconds_count{strategy=namespace}"] == 0
    assert before["csi_fluid_outage_seconds_count{strategy=namespace}"] == 0


def test_what_is_unpublished_is_no_longer_counted():
    store = Store()
    store.put_publication(A)
    observer = MetricsObserver(store, Prober())
    observer.tell(events.Broken("/s", (A,), 1.0))
    observer.tell(HEALED)
    observer.tell(events.Broken("/s", (A,), 1.0))
    store.remove_publication(A.target)
    found = samples(observer)

    assert found["csi_fluid_publications{state=broken}"] == 0
    assert not [name for name in found if "source=/s" in name]


def test_connections_that_were_ended_are_counted():
    observer = watching()
    observer.tell(events.Aborted("/s", (A,), "0:61", 300.0))
    observer.tell(events.AbortFailed("/s", (A,), "not permitted"))
    found = samples(observer)

    assert found["csi_fluid_aborts_total{result=aborted}"] == 1
    assert found["csi_fluid_aborts_total{result=failed}"] == 1


def test_wake_ups_are_counted_by_their_source():
    observer = watching()
    observer.tell(events.Woken("fanotify"))

    assert samples(observer)["csi_fluid_wakeups_total{source=fanotify}"] == 1


@pytest.fixture
def server():
    made = Server(("127.0.0.1", 0), lambda: b"x 1\n", lambda: True)
    made.start()
    yield made
    made.stop()


def get(server: Server, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def talk(server: Server, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as link:
        link.sendall(request)
        link.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: link.recv(4096), b""))


def test_metrics_and_health_are_served_over_http(server):
    assert get(server, "/metrics") == (200, b"x 1\n")
    assert get(server, "/metrics?name[]=x") == (200, b"x 1\n")
    assert get(server, "/healthz") == (200, b"ok\n")
    assert get(server, "/")[0] == 404


def test_readiness_is_what_probe_says_and_no_question_of_life():
    ready: list[bool] = []
    made = Server(("127.0.0.1", 0), lambda: b"", lambda: bool(ready))
    made.start()
    try:
        before = get(made, "/readyz")[0], get(made, "/healthz")[0]
        ready.append(True)

        assert before == (503, 200)
        assert get(made, "/readyz") == (200, b"ready\n")
    finally:
        made.stop()


def test_registration_is_a_gauge_only_where_the_plugin_registers_itself():
    observer = watching()
    without = samples(observer)
    observer.registered = lambda: True

    assert "csi_fluid_registered{}" not in without
    assert samples(observer)["csi_fluid_registered{}"] == 1


@pytest.mark.parametrize(
    "request_", [b"", b"\r\n", b"POST /metrics HTTP/1.1\r\n\r\n", b"\xff" * 9000]
)
def test_what_is_no_get_is_refused(server, request_):
    assert talk(server, request_).startswith(b"HTTP/1.1 405")


def test_a_client_that_says_nothing_does_not_keep_others_waiting(server):
    with socket.create_connection(("127.0.0.1", server.port)):
        assert get(server, "/healthz")[0] == 200


def test_a_server_that_was_stopped_no_longer_listens():
    made = Server(("127.0.0.1", 0), lambda: b"", lambda: True)
    made.start()
    port = made.port
    made.stop()

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.expects_log("no metrics at 127.0.0.1:[0-9]+: Address already in use")
def test_a_port_that_is_taken_is_a_warning_and_no_more(server):
    meter = Meter(("127.0.0.1", server.port), Store(), Prober(), lambda: True)
    meter.start()
    meter.stop()


def test_no_address_means_no_server():
    meter = Meter(None, Store(), Prober(), lambda: True)
    meter.start()
    meter.stop()
