"""What `kubectl csi-fluid` makes of objects and reports, and what it never shows."""

import json
import subprocess
import sys
from typing import Any

import pytest

from csi_fluid import kubectl
from csi_fluid.kubectl import agents, datasets, findings, journal, redact, story
from csi_fluid.kubectl.datasets import Row
from csi_fluid.kubectl.story import Mount, Reach, Volume
from recover.states import State


@pytest.mark.parametrize("verb", kubectl.VERBS)
def test_it_runs_where_no_node_plugin_could(verb: str):
    """On a laptop: nothing of the kernel, of gRPC or of SQLite is imported."""
    code = (
        "import sys; before = set(sys.modules); "  # coverage brings SQLite
        f"import csi_fluid.kubectl.{verb}; print(*sys.modules.keys() - before)"
    )
    done = subprocess.run(
        (sys.executable, "-c", code), capture_output=True, text=True, check=True, timeout=60
    )

    assert {
        name
        for name in done.stdout.split()
        if name.startswith("recover.linux") or name in {"grpc", "sqlite3", "google.protobuf"}
    } == set()


# ---- Rows


def test_every_state_of_a_source_has_its_place():
    assert {state.value for state in State} | {datasets.AWAY} == set(datasets._ORDER)


def test_a_state_of_a_newer_plugin_comes_first():
    found = [Row("d", ("a",), state) for state in (State.HEALTHY, State.HUNG, "on fire")]

    assert [row.state for row in datasets.table(found)][:2] == ["on fire", State.HUNG]
    assert datasets.table(found)[-1].state == "healthy"


def test_of_two_that_are_broken_the_older_one_comes_first():
    found = [Row("new", ("a",), State.WAITING, since=2.0)]
    found += [Row("old", ("b",), State.WAITING, since=1.0)]

    assert [row.dataset for row in datasets.table(found)] == ["old", "new"]


def test_fields_of_another_version_are_no_error():
    heal = {"source": "/s", "at": 1.0, "strategy": "anchor", "ok": True, "copies": 1}
    heal |= {"healed": 1, "layers": 1, "latency_s": 0.1, "outage_s": None, "new": "field"}
    (row,) = datasets.rows(
        "node", {"datasets": [{"dataset": "d", "state": "healthy", "more": 1, "last_heal": heal}]}
    )

    assert row.last_heal is not None
    assert row.since is None


def test_findings_that_are_alike_are_one_with_all_their_nodes():
    report = [{"what": "CAP_SYS_ADMIN", "verdict": "missing", "seen": "not held"}]
    well = [{"what": "CAP_SYS_ADMIN", "verdict": "ok", "seen": "held"}]
    every = [
        each
        for node, said in (("c", report), ("a", well), ("b", report))
        for each in findings.of_node(node, said)
    ]

    found = findings.together(every)

    assert [(each.verdict, each.nodes) for each in found] == [
        ("missing", ("b", "c")),
        ("ok", ("a",)),
    ]


# ---- Agents

HOST = "/runtime-mnt/jindo/default/demo/jindofs-fuse"
INSIDE = "/fluid/jindofs-fuse-mount-0/jindofs-fuse"
BROKEN = (
    f"2026-11-26T02:56:22.743Z WARNING Fuse mount {INSIDE} is broken: {HOST} answers errors until "
    f"its FUSE daemon mounts again reason=FuseBroken target={HOST} source={INSIDE} pod=app\n"
)
HEALED = (
    f"2026-11-26T02:56:25.198Z INFO    Fuse recover {HOST} succeed reason=FuseRecoverSucceed "
    f"target={HOST} source={INSIDE} pod=app\n"
    f"2026-11-26T02:56:25.198Z INFO    healed source={INSIDE} strategy=anchor volumes=1 copies=1 "
    "layers=2 latency_ms=3.66 outage_s=2.455\n"
)


def serverless(**states: Any) -> dict[str, Any]:
    running = {"agent": {"running": {}}, "sidecar": {"running": {}}} | states
    return {
        "metadata": {"namespace": "default", "name": "app"},
        "spec": {
            "nodeName": "virtual",
            "containers": [
                {"name": "fluid-fuse-0"},
                {"name": "fluid-fuse-recovery", "args": [f"--mount={INSIDE}={HOST}:ro"]},
                {"name": "main"},
            ],
        },
        "status": {
            "phase": "Running",
            "startTime": "2026-11-26T02:56:00Z",
            "containerStatuses": [
                {"name": "fluid-fuse-0", "state": running["sidecar"]},
                {"name": "fluid-fuse-recovery", "state": running["agent"]},
            ],
        },
    }


def test_an_agent_that_has_healed_is_a_row_like_a_nodes():
    (row,) = agents.rows_of(serverless(), BROKEN + HEALED)

    assert (row.dataset, row.nodes, row.state) == ("default/demo", ("virtual",), "healthy")
    assert (row.layers, row.users, row.source) == (2, ("default/app",), HOST)
    assert row.last_heal is not None
    assert row.last_heal.latency_s == pytest.approx(0.00366)
    assert row.last_heal.outage_s == pytest.approx(2.455)
    assert row.is_well


@pytest.mark.parametrize(
    ("pod", "log", "state", "word"),
    [
        (serverless(), HEALED + BROKEN, State.WAITING, "is broken"),
        (
            serverless(sidecar={"waiting": {"reason": "CrashLoopBackOff"}}),
            HEALED,
            State.WAITING,
            "fluid-fuse-0 of pod default/app does not run: CrashLoopBackOff",
        ),
        (
            serverless(agent={"waiting": {"reason": "ErrImagePull", "message": "no such"}}),
            "",
            datasets.AWAY,
            "the agent of pod default/app does not run: ErrImagePull: no such",
        ),
    ],
)
def test_an_agents_trouble_is_told(pod: dict[str, Any], log: str, state: str, word: str):
    (row,) = agents.rows_of(pod, log)

    assert row.state == state
    assert word in row.advice
    assert not row.is_well


def test_a_log_is_read_as_it_was_written():
    text = '2026-01-02T03:04:05.500Z INFO    said so path="/a b/\\"c\\"" n=1\nTraceback\n'
    (line,) = journal.lines(text)

    assert (line.level, line.message) == ("INFO", "said so")
    assert line.fields == {"path": '/a b/"c"', "n": "1"}
    assert line.at == 1767323045.5


# ---- What a pod would see


def volume(*mounts: Mount, read_only: bool = True) -> Volume:
    name = ("default", "demo")
    return Volume("data", "demo", name, name, HOST, read_only, False, mounts)


PASSED_ON = Mount("main", "/data", "HostToContainer", "")
PRIVATE = Mount("side", "/data", "None", "")
PART = Mount("part", "/data", "HostToContainer", "sub")


@pytest.mark.parametrize(
    ("reach", "healed"),
    [
        (Reach(True, True, False), ["main", "side", "part"]),
        (Reach(True, False, False), ["main"]),
        (Reach(False, True, False), []),
    ],
)
def test_the_outlook_says_which_container_would_heal(reach: Reach, healed: list[str]):
    told = story.outlook(volume(PASSED_ON, PRIVATE, PART), reach)

    assert [line.split()[0] for line in told if "then the data again" in line] == healed


def test_a_volume_that_can_be_written_to_is_left_alone_unless_that_is_asked_for():
    (told,) = story.outlook(volume(PASSED_ON, read_only=False), Reach(True, True, False))
    (asked,) = story.outlook(volume(PASSED_ON, read_only=False), Reach(True, True, True))

    assert "--recover-writable" in told
    assert "then the data again" in asked


def test_a_daemon_that_was_out_of_memory_is_told_with_its_limit():
    pod = {
        "spec": {"containers": [{"name": "fuse", "resources": {"limits": {"memory": "1Gi"}}}]},
        "status": {
            "containerStatuses": [
                {"name": "fuse", "lastState": {"terminated": {"reason": "OOMKilled"}}}
            ]
        },
    }
    (told,) = story.memory_advice(pod)

    assert "its limit is 1Gi" in told


def test_the_topmost_mount_is_the_generation_that_is_seen():
    table = "1 0 0:5 / /a\\040b rw - fuse x rw\n2 1 0:7 / /a\\040b rw - fuse x rw\n"

    assert story.superblocks(table, ["/a b", "/c"]) == ["0:7", ""]


# ---- Secrets

SECRET = "hunter2-secret-value"


@pytest.mark.parametrize(
    "found",
    [
        {"fs.oss.accessKeySecret": SECRET},
        {"password": SECRET},
        {"options": {"s3.secret-key": SECRET}},
        [{"name": "AWS_SECRET_ACCESS_KEY", "value": SECRET}],
        {"args": [f"--secret-key={SECRET}", f"-o passwd={SECRET}"]},
        {"note": json.dumps({"deep": {"token": SECRET}})},
        {"metaurl": f"redis://:{SECRET}@host:6379/1"},
        {"kubectl.kubernetes.io/last-applied-configuration": SECRET},
        f"Authorization: Bearer {SECRET}",
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----",
        f'{{"access_key": "{SECRET}"',
        f'level=info secretKey="{SECRET} and more"',
        f"https://bucket/x?Signature={SECRET}&b=1",
        f"mount --secret-key {SECRET} /mnt",
        f"eyJhbGciOi.{SECRET}.c2ln",
    ],
)
def test_no_secret_is_shown(found: Any):
    assert SECRET not in json.dumps(redact.tree(found))


@pytest.mark.parametrize(
    "found",
    [
        {"secretKeyRef": {"name": "mysecret", "key": "accessKeyId"}},
        {"secretName": "mysecret"},
        {"automountServiceAccountToken": True},
        {"mount": "312 30 0:91 / /runtime-mnt/jindo ro - fuse bindfs ro,user_id=0,group_id=0"},
        {"state": "healthy", "advice": "the FUSE daemon of /rt is gone. Look at the FUSE pod"},
    ],
)
def test_what_is_no_secret_stays(found: Any):
    assert redact.tree(found) == found


def test_a_datasets_event_about_another_pod_is_left_out():
    mine, other = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
    event = {"message": f"Fuse recover /var/lib/kubelet/pods/{mine}/volumes/x/mount succeed"}

    assert story.is_about(event, mine)
    assert not story.is_about(event, other)
    assert story.is_about({"message": "Fuse pod was deleted"}, other)
    assert story.shortened(event["message"]) == "Fuse recover .../volumes/x/mount succeed"
