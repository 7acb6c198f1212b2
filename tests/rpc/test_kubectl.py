"""`kubectl csi-fluid` against a server that answers as the API server does, up to 1,000 nodes."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from csi_fluid import kubectl
from csi_fluid.kube.calls import Rule
from csi_fluid.kubectl import rights
from csi_fluid.kubectl.plugins import SELECTOR
from tests.harness import apiserver
from tests.harness.apiserver import ACCOUNT, ApiServer
from tests.unit import test_kubectl

Report = dict[str, Any]
LABEL = dict([SELECTOR.split("=")])
NAMESPACE = "/api/v1/namespaces/fluid-system/pods"
RUNNING = [{"name": "plugins", "state": {"running": {}}}]


def dataset(name: str = "demo", **fields: Any) -> Report:
    return {
        "dataset": f"default/{name}",
        "source": f"/runtime-mnt/jindo/default/{name}/jindofs-fuse",
        "state": "healthy",
        "since": 1.0,
        "copies": 2,
        "healthy": 2,
        "layers": 1,
        "last_heal": None,
        "publications": [{"pod_namespace": "default", "pod_name": f"app-{name}"}],
        "advice": "",
    } | fields


class Fleet:
    """Nodes with a plugin each, and what each says."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.reports: dict[str, Report] = {}
        self.slow: set[str] = set()
        self.release = threading.Event()
        self.at_once = 0
        self.most = 0
        self._lock = threading.Lock()
        server.run = self._run
        server.rules[ACCOUNT] = (*rights.PLUGINS, *rights.CLUSTER)
        self.config = str(server.account_config())

    def add(self, node: str, *reports: Report, state: Report | None = None, **more: Any) -> None:
        self.reports[f"plugin-{node}"] = {"datasets": list(reports), "problems": []} | more
        status = [{"name": "plugins", "state": state}] if state else RUNNING
        self.server.put(
            f"{NAMESPACE}/plugin-{node}",
            "v1",
            "Pod",
            metadata={"labels": LABEL},
            spec={
                "nodeName": node,
                "hostPID": True,
                "containers": [
                    {
                        "name": "plugins",
                        "image": "csi-fluid:1",
                        "args": ["--feature-gates=FuseRecovery=true"],
                    }
                ],
            },
            status={"phase": "Running", "containerStatuses": status},
        )

    def _run(self, pod: str, command: list[str]) -> tuple[str, int]:
        with self._lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        if pod in self.slow:
            self.release.wait(30)
        with self._lock:
            self.at_once -= 1
        if command[:2] == ["csi-fluid", "status"]:
            return json.dumps(self.reports[pod]), 0
        if command[:2] == ["csi-fluid", "doctor"]:
            found = {"what": "/dev/fuse", "verdict": "ok", "seen": "is there", "follows": ""}
            return json.dumps([found]), 0
        return "", 127

    def main(self, *words: str) -> int:
        return kubectl.main([*words, f"--kubeconfig={self.config}"])


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with apiserver.running(tmp_path) as server:
        made = Fleet(server)
        yield made
        made.release.set()


def lines(text: str) -> list[list[str]]:
    """Return the cells of a table's lines, told apart by two blanks or more."""
    return [line.strip().split("  ") for line in text.splitlines()]


# ---- status


def test_what_needs_a_person_stands_first_and_what_is_well_is_put_together(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
):
    fleet.add("node-a", dataset(), dataset("other"))
    fleet.add("node-b", dataset())
    fleet.add("node-c", dataset("other", state="hung: FUSE does not answer", advice="look at it"))

    assert fleet.main("status") == 0

    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in shown[1:4]] == [
        ["default/other", "node-c"],
        ["default/demo", "2"],
        ["default/other", "node-a"],
    ]
    assert "4/4" in shown[2]
    assert shown[-1] == "default/other on node-c: look at it"


def test_a_node_that_does_not_answer_is_a_row(fleet: Fleet, capsys: pytest.CaptureFixture[str]):
    fleet.add("node-a", dataset())
    fleet.add("node-b", dataset())
    fleet.add("node-c", dataset(), state={"waiting": {"reason": "ImagePullBackOff"}})
    fleet.slow = {"plugin-node-b"}

    assert fleet.main("status", "--timeout=5s") == 0

    shown = capsys.readouterr().out
    assert "node-b: no answer within 5 s" in shown
    assert "node-c: the plugin does not run: ImagePullBackOff" in shown
    assert "node-a  healthy" in shown


def test_a_plugin_that_is_not_ours_says_why_it_tells_nothing(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
):
    fleet.add("node-a")
    fleet.server.run = lambda pod, command: ("sh: csi-fluid: not found", 127)

    assert fleet.main("status") == 0
    assert "node-a: sh: csi-fluid: not found" in capsys.readouterr().out


def test_rows_are_chosen_by_namespace_dataset_and_node(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
):
    fleet.add("node-a", dataset(), dataset("other"))
    fleet.add("node-b", dataset())

    def chosen(*words: str) -> list[tuple[str, list[str]]]:
        assert fleet.main("status", "-o", "json", *words) == 0
        rows = json.loads(capsys.readouterr().out)
        return [(row["dataset"], row["nodes"]) for row in rows]

    assert chosen("--dataset", "other") == [("default/other", ["node-a"])]
    assert chosen("--dataset", "default/demo", "--node", "node-b") == [("default/demo", ["node-b"])]
    assert chosen("-n", "elsewhere") == []


@pytest.mark.timeout(180)
def test_a_thousand_nodes_are_asked_side_by_side(fleet: Fleet, capsys: pytest.CaptureFixture[str]):
    """How long it takes is for the benchmark; that it waits for a slow one only once is here."""
    for number in range(1000):
        fleet.add(f"node-{number}", dataset())
    fleet.slow = {f"plugin-node-{number}" for number in range(0, 1000, 100)}
    begun = time.monotonic()

    assert fleet.main("status", "--timeout=15s", "--at-once=50") == 0

    shown = capsys.readouterr().out
    assert "990 nodes" in shown
    assert "and 7 more: no answer within 15 s" in shown
    assert 10 < fleet.most <= 50 + len(fleet.slow)
    assert time.monotonic() - begun < 50


def test_the_table_can_be_watched_while_the_api_server_comes_and_goes(fleet: Fleet):
    fleet.add("node-a", dataset())
    fleet.server.stop()
    command = (sys.executable, "-c", "from csi_fluid import kubectl; kubectl.main()")
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        words = ("status", "--watch", f"--kubeconfig={fleet.config}")
        watch = subprocess.Popen((*command, *words), stdout=theirs)
        os.close(theirs)
        shown = b""
        while b"does not answer" not in shown:
            shown += screen.read(4096)
        fleet.server.start()
        while b"default/demo" not in shown:
            shown += screen.read(4096)
        watch.send_signal(signal.SIGINT)
        assert watch.wait(20) == 0


# ---- Rights


def without(fleet: Fleet, resource: str, verb: str = "") -> None:
    def less(rule: Rule) -> Rule:
        if resource not in rule.resources:
            return rule
        verbs = tuple(each for each in rule.verbs if verb and each != verb)
        rest = tuple(each for each in rule.resources if each != resource)
        return Rule(rule.group, rest, rule.verbs) if not verbs else Rule(rule.group, rest, verbs)

    fleet.server.rules[ACCOUNT] = tuple(map(less, fleet.server.rules[ACCOUNT]))


def test_a_right_that_is_missing_is_said_with_the_rule_that_would_give_it(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
):
    fleet.add("node-a", dataset())
    without(fleet, "pods")

    assert fleet.main("status") == 1
    assert capsys.readouterr().err == (
        "csi-fluid: you may not list pods in namespace fluid-system; a Role with this rule, bound "
        'to you, allows it: {apiGroups: [""], resources: [pods], verbs: [list]}\n'
    )


def test_who_may_not_run_commands_is_told_so_for_each_node(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
):
    fleet.add("node-a", dataset())
    without(fleet, "pods/exec")

    assert fleet.main("status") == 0
    shown = capsys.readouterr().out
    assert "you may not create pods/exec in namespace fluid-system" in shown
    assert "resources: [pods/exec], verbs: [create]}" in shown


def test_who_may_look_at_the_plugins_alone_sees_the_nodes(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
):
    def refuse(handler: Any) -> bool:
        is_cluster_wide: bool = handler.path.startswith("/api/v1/pods")
        if is_cluster_wide:
            handler.answer(403, {"kind": "Status", "message": "forbidden"})
        return is_cluster_wide

    fleet.add("node-a", dataset())
    fleet.server.fault = refuse

    assert fleet.main("status") == 0

    shown = capsys.readouterr().out
    assert re.search(r"default/demo +node-a +healthy", shown)
    assert "serverless pods: you may not list pods; a ClusterRole with this rule" in shown


def test_a_cluster_without_the_plugin_says_where_it_was_looked_for(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
):
    assert fleet.main("status", "--fluid-namespace=other") == 1
    assert "in namespace other; say with --fluid-namespace" in capsys.readouterr().err


def test_a_kubeconfig_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert kubectl.main(["status", f"--kubeconfig={tmp_path}/none"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


# ---- doctor


def test_doctor_shows_what_differs_and_what_is_not_registered(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
):
    storage = "/apis/storage.k8s.io/v1"
    for node, drivers in (("node-a", [{"name": "fuse.csi.fluid.io"}]), ("node-b", None)):
        fleet.add(node)
        info = {"kernelVersion": f"6.1-{node}", "kubeletVersion": "v1.37.2"}
        fleet.server.put(f"/api/v1/nodes/{node}", "v1", "Node", status={"nodeInfo": info})
        fleet.server.put(f"{storage}/csinodes/{node}", "v1", "CSINode", spec={"drivers": drivers})
    del fleet.server.objects[f"/api/v1/nodes/{apiserver.NODE}"]

    assert fleet.main("doctor", "-o", "json") == 1

    found = json.loads(capsys.readouterr().out)
    wrong = {each["what"]: each["nodes"] for each in found if each["verdict"] != "ok"}
    assert wrong == {"registration with kubelet": ["node-b"], "CSIDriver fuse.csi.fluid.io": []}
    kernels = {each["seen"] for each in found if each["what"] == "kernel"}
    assert kernels == {"6.1-node-a", "6.1-node-b"}
    (device,) = (each for each in found if each["what"] == "/dev/fuse")
    assert device["nodes"] == ["node-a", "node-b"]


def test_doctor_knows_where_k0s_has_kubelet(fleet: Fleet, capsys: pytest.CaptureFixture[str]):
    fleet.add("node-a", state={"waiting": {"reason": "ContainerCreating"}})
    info = {"kernelVersion": "6.1", "kubeletVersion": "v1.37.2+k0s"}
    fleet.server.put("/api/v1/nodes/node-a", "v1", "Node", status={"nodeInfo": info})

    assert fleet.main("doctor") == 1
    assert "set csi.kubelet.rootDir=/var/lib/k0s/kubelet" in capsys.readouterr().out


# ---- explain


def test_the_story_of_a_serverless_pod_is_that_of_its_agent(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
):
    pod = test_kubectl.serverless()
    fleet.server.put("/api/v1/namespaces/default/pods/app", "v1", "Pod", **pod)
    fleet.server.logs["app"] = test_kubectl.BROKEN + test_kubectl.HEALED

    assert fleet.main("explain", "app") == 0

    told = capsys.readouterr().out
    assert "FUSE sidecar of dataset default/demo, healed by the agent in this pod" in told
    assert "healthy" in told
    assert "3.7 ms, " in told


def test_a_pod_that_is_not_there_says_where_it_was_looked_for(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
):
    assert fleet.main("explain", "app", "-n", "elsewhere") == 1
    assert "in namespace elsewhere; say with -n in which it is" in capsys.readouterr().err


# ---- bundle

PLANTED = "planted-secret-value"


def test_no_secret_is_in_a_bundle(fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    fleet.add("node-a", dataset(advice=f"token={PLANTED}"))
    fluid = apiserver.FLUID_PATH
    fleet.server.put(
        f"{fluid}/namespaces/default/datasets/demo",
        "data.fluid.io/v1alpha1",
        "Dataset",
        spec={"mounts": [{"options": {"fs.oss.accessKeySecret": PLANTED}}]},
        metadata={
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": PLANTED},
            "managedFields": [{"fieldsV1": PLANTED}],
        },
    )
    fleet.server.put(
        "/api/v1/persistentvolumes/default-demo",
        "v1",
        "PersistentVolume",
        spec={"csi": {"driver": "fuse.csi.fluid.io", "volumeAttributes": {"secret-key": PLANTED}}},
    )
    fleet.server.put("/api/v1/namespaces/default/secrets/keys", "v1", "Secret", data={"a": PLANTED})
    fleet.server.put(
        "/api/v1/namespaces/default/pods/demo-fuse-1",
        "v1",
        "Pod",
        metadata={"labels": {"fluid.io/managed-by": "fluid"}},
        spec={"containers": [{"env": [{"name": "AWS_SECRET_ACCESS_KEY", "value": PLANTED}]}]},
    )
    fleet.server.logs["plugin-node-a"] = f"GET https://user:{PLANTED}@host/ Bearer {PLANTED}\n"

    assert fleet.main("bundle", "-o", str(tmp_path / "b.tar.gz")) == 0

    with tarfile.open(tmp_path / "b.tar.gz") as archive:
        texts = {
            "/".join(each.name.split("/")[1:]): archive.extractfile(each).read().decode()  # type: ignore[union-attr]
            for each in archive
        }
    assert [name for name, text in texts.items() if PLANTED in text] == []
    assert "GET https://(redacted)@host/" in texts["nodes/node-a/log.txt"]
    assert "default/demo" in texts["nodes/node-a/status.json"]
    assert json.loads(texts["objects/datasets.json"])[0]["metadata"]["name"] == "demo"
    assert not [path for _, _, path in fleet.server.asked if "secrets" in path]
    said = capsys.readouterr()
    assert "KiB, 1 nodes" in said.out


def test_a_bundle_says_what_is_not_in_it(fleet: Fleet, tmp_path: Path):
    fleet.add("node-a", dataset())
    fleet.add("node-b", state={"waiting": {"reason": "CrashLoopBackOff"}})
    without(fleet, "datasets")

    assert fleet.main("bundle", "-o", str(tmp_path / "b.tar.gz")) == 0

    with tarfile.open(tmp_path / "b.tar.gz") as archive:
        (entry,) = (each for each in archive if each.name.endswith("MISSING.txt"))
        missing = archive.extractfile(entry).read().decode()  # type: ignore[union-attr]
    assert "nodes/node-b: the plugin does not run: CrashLoopBackOff" in missing
    assert "objects/datasets.json: you may not list datasets.data.fluid.io" in missing


def test_a_bundle_overwrites_nothing(fleet: Fleet, tmp_path: Path):
    fleet.add("node-a", dataset())
    path = tmp_path / "b.tar.gz"
    path.write_text("mine")

    assert fleet.main("bundle", "-o", str(path)) == 1
    assert path.read_text() == "mine"
