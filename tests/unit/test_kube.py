"""The pure parts of the API side."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from csi_fluid import telling
from csi_fluid.errors import NotFound
from csi_fluid.kube import ON_DEMAND, ON_RUNTIME_DELETED, access, crashloop, labels, objects, wire
from csi_fluid.kube.access import IN_CLUSTER, Access
from csi_fluid.kube.cluster import place
from csi_fluid.kube.objects import Name
from csi_fluid.kube.queue import Queue, Rates, Waiting
from csi_fluid.kube.wire import Request, Response
from csi_fluid.volumes import generation
from recover.rows import Publication

NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,60}[a-z0-9])?", fullmatch=True)
UID = "7f3c9d0e-8f1e-4a55-9d0c-1f2e3d4c5b6a"


# ---- Labels


@given(NAMES, NAMES)
def test_a_label_is_one_that_kubernetes_takes(namespace: str, name: str):
    label = labels.fuse_label(namespace, name, UID)

    prefix, _, rest = label.partition("/")
    assert prefix == "fluid.io"
    assert len(rest) <= 63
    assert (
        label == f"fluid.io/f-{UID if labels.is_long(namespace, name) else f'{namespace}-{name}'}"
    )


@pytest.mark.parametrize(("length", "is_long"), [(51, False), (52, True)])
def test_a_name_gives_way_to_the_uid_where_fluid_does_it(length: int, is_long: bool):
    """Fluid counts the prefix in: 11 characters and 51 are 62, the most that it leaves alone."""
    name = "n" * (length - len("ns-"))

    assert labels.is_long("ns", name) is is_long
    assert (UID in labels.fuse_label("ns", name, UID)) is is_long


def test_a_long_label_is_not_made_up_without_the_uid():
    with pytest.raises(ValueError, match="UID"):
        labels.fuse_label("n" * 40, "d" * 40)


# ---- Objects


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "metadata",
                        "spec",
                        "status",
                        "labels",
                        "claimRef",
                        "csi",
                        "runtimes",
                        "fuse",
                        "cleanPolicy",
                        "volumeAttributes",
                    ]
                ),
                inner,
            )
        ),
    )
)
def test_an_object_of_any_form_is_read_without_an_error(thing: object):
    found = (
        thing if isinstance(thing, dict) else {"spec": thing, "status": thing, "metadata": thing}
    )

    objects.claim_of(found)
    objects.runtime_name(found)
    objects.is_fluids(found)
    objects.runtime_of(found)
    assert isinstance(objects.clean_policy("jindo", found), str)
    assert crashloop.waiting_since(found, Name("ns", "demo"), "node1") is None


def test_a_runtime_that_says_no_clean_policy_keeps_its_daemon():
    assert objects.clean_policy("jindo", {"spec": {"fuse": {}}}) == ON_RUNTIME_DELETED
    assert (
        objects.clean_policy("jindo", {"spec": {"fuse": {"cleanPolicy": ON_DEMAND}}}) == ON_DEMAND
    )


def test_a_cache_runtime_says_its_clean_policy_for_its_client():
    spec = {"fuse": {"cleanPolicy": "x"}, "client": {"cleanPolicy": ON_DEMAND}}

    assert objects.clean_policy("cache", {"spec": spec}) == ON_DEMAND


@pytest.mark.parametrize(
    ("claim_labels", "is_fluids"),
    [
        ({"fluid.io/s-default-demo": "true"}, True),
        ({"fluid.io/managed-by": "fluid"}, True),
        ({"fluid.io/wrapped-by": "x"}, True),
        ({"app": "db"}, False),
        ({}, False),
    ],
)
def test_a_claim_is_fluids_by_its_labels(claim_labels: dict[str, str], is_fluids: bool):
    assert objects.is_fluids({"metadata": {"labels": claim_labels}}) is is_fluids


@pytest.mark.parametrize("part", ["..", "a/b", "a?b", "", "A", "a" * 254, "-a", "a b"])
def test_what_is_no_name_makes_no_path(part: str):
    with pytest.raises(NotFound, match="no name"):
        place("default", "datasets", part)


# ---- Credentials


def test_kubelets_credential_makes_the_nodes_calls_and_the_account_all_others(tmp_path: Path):
    kubelet, token = tmp_path / "kubelet.conf", tmp_path / "token"
    kubelet.touch()
    token.touch()

    def found(kube: str, kubeconfig: str = "") -> tuple[str, str]:
        access_ = access.find(kube, str(kubelet), kubeconfig, str(token))
        return access_.of("node"), access_.of("account")

    assert found("auto") == (str(kubelet), IN_CLUSTER)
    assert found("auto", "/k") == (str(kubelet), "/k")
    assert found("account") == (IN_CLUSTER, IN_CLUSTER)
    assert found("none", "/k") == ("", "")
    token.unlink()
    assert found("auto") == (str(kubelet), str(kubelet))
    kubelet.unlink()
    assert found("auto") == ("", "")


def test_no_credential_is_said_in_words():
    assert "no credential" in Access().described()
    assert "the ServiceAccount" in Access(account=IN_CLUSTER).described()


# ---- The wire


@given(st.binary(), st.integers(1, 7))
def test_lines_come_out_as_they_went_in_however_they_are_cut(data: bytes, size: int):
    lines = data.split(b"\n")
    buffer = bytearray()
    out: list[bytes] = []
    whole = b"".join(line + b"\n" for line in lines)
    for start in range(0, len(whole), size):
        buffer += whole[start : start + size]
        out += wire.lines(buffer)

    assert out == lines


def test_a_request_and_an_answer_survive_the_wire():
    request = Request("node", "PATCH", "/x", {"a": None}, wire.STRATEGIC)
    answer = Response(404, {"kind": "Status"}, "")

    assert wire.unpack(wire.pack(7, 2.5, request)) == (7, 2.5, request)
    assert wire.unpack_response(wire.pack_response(7, answer)) == (7, answer)


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"{", b'{"id": 1}', b'{"id": 1, "status": 2, "x": 3}']
)
def test_what_is_no_answer_is_refused(line: bytes):
    with pytest.raises(wire.Garbled):
        wire.unpack_response(line)


# ---- The queue of events


def waiting(target: str = "/t", message: str = "m", at: float = 1.0) -> Waiting:
    row = Publication(target=target, volume_id="v", source="/s")
    return Waiting(telling.BROKEN, row, message, at, at)


def test_equal_events_that_wait_are_one_with_a_count():
    queue = Queue(10)
    queue.put(waiting(at=1))

    assert queue.put(waiting(at=5)) == (True, None)
    (only,) = queue
    assert (only.count, only.first, only.last) == (2, 1, 5)


def test_an_event_that_is_half_sent_is_not_counted_up():
    """Who has it already would miss the second one."""
    queue = Queue(10)
    first = waiting(at=1)
    queue.put(first)
    first.done.add("uid")

    queue.put(waiting(at=5))

    (only,) = queue
    assert (only.count, only.first, only.done) == (1, 5, set())
    queue.remove(first)
    assert len(queue) == 1


def test_a_full_queue_drops_its_oldest_and_says_so():
    queue = Queue(2)
    first = waiting("/1")
    queue.put(first)
    queue.put(waiting("/2"))

    assert queue.put(waiting("/3")) == (False, first)
    assert [w.publication.target for w in queue] == ["/2", "/3"]


def test_each_object_has_a_burst_and_then_a_rate():
    rates = Rates(burst=2, refill_per_s=1)

    took = [rates.take("a", now) for now in (0, 0, 0, 0.5, 1.0, 1.0)]

    assert took == [True, True, False, False, True, False]
    assert rates.take("b", 1.0)


# ---- Whose pod may be deleted


def fuse_pod() -> dict[str, object]:
    return {
        "kind": "Pod",
        "metadata": {
            "name": "demo-jindofs-fuse-x",
            "namespace": "ns",
            "uid": "u1",
            "resourceVersion": "7",
            "labels": {
                "role": "jindofs-fuse",
                "release": "demo",
                "fluid.io/managed-by": "fluid",
            },
            "ownerReferences": [{"kind": "DaemonSet", "controller": True}],
        },
        "spec": {"nodeName": "node1"},
        "status": {
            "containerStatuses": [
                {
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": {"finishedAt": "2026-01-01T00:00:10Z"}},
                }
            ]
        },
    }


def test_a_fuse_pod_waits_since_its_container_ended():
    assert crashloop.waiting_since(fuse_pod(), Name("ns", "demo"), "node1") == 1767225610


def test_a_fuse_pod_waits_before_kubelet_calls_it_by_its_name():
    """For up to a minute the state is what kubelet saw last: that the container ended."""
    pod = json.loads(json.dumps(fuse_pod()))
    ended = {"exitCode": 137, "reason": "Error", "finishedAt": "2026-01-01T00:00:20Z"}
    pod["status"]["containerStatuses"] = [{"state": {"terminated": ended}}]

    assert crashloop.waiting_since(pod, Name("ns", "demo"), "node1") == 1767225620


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("metadata", "labels", "role"), "jindofs-worker"),
        (("metadata", "labels", "release"), "other"),
        (("metadata", "labels", "fluid.io/managed-by"), "somebody"),
        (("metadata", "namespace"), "other"),
        (("metadata", "deletionTimestamp"), "2026-01-01T00:00:10Z"),
        (("metadata", "ownerReferences"), [{"kind": "ReplicaSet", "controller": True}]),
        (("metadata", "ownerReferences"), [{"kind": "DaemonSet"}]),
        (("spec", "nodeName"), "node2"),
        (("status", "containerStatuses"), [{"state": {"running": {}}}]),
        (("status", "containerStatuses"), [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_any_other_pod_is_left_alone(path: tuple[str, ...], value: object):
    pod = json.loads(json.dumps(fuse_pod()))
    place_ = pod
    for key in path[:-1]:
        place_ = place_[key]
    place_[path[-1]] = value

    assert crashloop.waiting_since(pod, Name("ns", "demo"), "node1") is None


# ---- Generations


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('app="x"\nfuse.runtime.fluid.io/generation="3"\n', "3"),
        ('fuse.runtime.fluid.io/generation="a=b"', "a=b"),
        ('fuse.runtime.fluid.io/generation-of="3"', ""),
        ("fuse.runtime.fluid.io/generation", ""),
        ("", ""),
    ],
)
def test_a_generation_is_read_from_labels_of_the_downward_api(text: str, found: str):
    assert generation.parse(text) == found


def test_each_reason_of_an_event_is_named_once():
    assert max(Counter(reason.name for reason in telling.REASONS).values()) == 1
