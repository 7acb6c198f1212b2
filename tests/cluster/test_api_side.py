"""The API side against a real API server: the same calls as in tests/rpc, for real.

Node authorizer, NodeRestriction and RBAC are on, with the role of the manifests.
"""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from csi_fluid import telling
from csi_fluid._pb import csi_pb2
from csi_fluid.errors import Unavailable
from csi_fluid.kube import Volume, calls
from csi_fluid.kube.access import Access
from csi_fluid.kube.backoff import BackoffReset
from csi_fluid.kube.cluster import Cluster as Api
from csi_fluid.kube.eventsender import EventSender
from csi_fluid.kube.helper import Helper
from csi_fluid.kube.subjects import Subjects
from csi_fluid.rpc.client import Client
from csi_fluid.testbed.waiting import until
from recover import events
from recover.rows import Publication
from recover.store import Store
from tests import manifests
from tests.cluster import objects
from tests.cluster.cluster import Cluster
from tests.cluster.fluid import Fluid
from tests.cluster.settings import NODE_NAME
from tests.cluster.waiting import wait_for
from tests.rpc.serving import capability

SYSTEM = "fluid-system"
KUBELET = f"system:node:{NODE_NAME}"
ACCOUNT = f"system:serviceaccount:{SYSTEM}:fluid-csi"


@dataclasses.dataclass
class World:
    """A cluster with what Fluid brings, and the API side in front of it."""

    cluster: Cluster
    namespace: str
    access: Access
    helper: Helper
    results: Counter[str]
    sender: EventSender
    started: int

    @property
    def api(self) -> Api:
        return Api(self.helper, NODE_NAME)

    @property
    def row(self) -> Publication:
        """Return the publication of the dataset demo in a pod named app."""
        uid = self.cluster.get("pod", "app", self.namespace)["metadata"]["uid"]
        pv = f"{self.namespace}-demo"
        return Publication(
            target=f"/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~csi/{pv}/mount",
            volume_id=pv,
            source=f"/runtime-mnt/jindo/{self.namespace}/demo/jindofs-fuse",
            runtime_namespace=self.namespace,
            runtime_name="demo",
            pod_namespace=self.namespace,
            pod_name="app",
            pod_uid=uid,
        )

    def asked(self, user: str) -> list[str]:
        """Return what a user asked of the API server since this test began."""
        entries = list(self.cluster.audit_entries())[self.started :]
        return [
            f"{entry['verb']} {entry['objectRef']['resource']}"
            for entry in entries
            if entry["user"]["username"] == user
            and entry["stage"] == "ResponseComplete"
            and entry.get("userAgent", "").startswith("csi-fluid/")
        ]

    def has_sent(self, count: int) -> bool:
        return self.results["sent"] == count

    def labels(self) -> dict[str, str]:
        found: dict[str, str] = self.cluster.get("node", NODE_NAME)["metadata"]["labels"]
        return {key: value for key, value in found.items() if key.startswith("fluid.io/")}

    def events(self, kind: str) -> list[dict[str, object]]:
        return [
            event
            for event in self.cluster.list("events", self.namespace)
            if event["involvedObject"]["kind"] == kind
            and event["source"].get("component") == "FuseRecover"
        ]


def dataset(namespace: str, name: str, policy: str = "") -> list[objects.Object]:
    """Return what Fluid makes of a Jindo dataset."""
    fluid = f"{calls.FLUID}/v1alpha1"
    pv = f"{namespace}-{name}"
    meta = {"name": name, "namespace": namespace}
    attributes = {
        "fluid_path": f"/runtime-mnt/jindo/{namespace}/{name}/jindofs-fuse",
        "mount_pod_node_selector_key": f"fluid.io/f-{pv}",
        "runtime_namespace": namespace,
        "runtime_name": name,
    }
    common = {"accessModes": ["ReadOnlyMany"], "storageClassName": "fluid"}
    return [
        {"apiVersion": fluid, "kind": "Dataset", "metadata": meta},
        {
            "apiVersion": fluid,
            "kind": "JindoRuntime",
            "metadata": meta,
            "spec": {"fuse": {"cleanPolicy": policy}},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": pv, "labels": {f"fluid.io/s-{pv}": "true"}},
            "spec": {
                **common,
                "capacity": {"storage": "100Pi"},
                "claimRef": meta,
                "csi": {
                    "driver": "fuse.csi.fluid.io",
                    "volumeHandle": pv,
                    "volumeAttributes": attributes,
                },
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": meta | {"labels": {f"fluid.io/s-{pv}": "true"}},
            "spec": {
                **common,
                "volumeName": pv,
                "resources": {"requests": {"storage": "100Pi"}},
            },
        },
    ]


def make_dataset(cluster: Cluster, namespace: str, name: str, policy: str = "") -> None:
    cluster.apply(*dataset(namespace, name, policy))
    runtime = {"name": name, "namespace": namespace, "type": "jindo"}
    status = json.dumps({"status": {"phase": "Bound", "runtimes": [runtime]}})
    cluster.kubectl(
        *("patch", "dataset", name, "-n", namespace, "--subresource=status"),
        *("--type=merge", "-p", status),
    )


@pytest.fixture(scope="session")
def installed(cluster: Cluster, fluid: Fluid) -> Cluster:
    """Make Fluid's kinds and the plugin's account with its role."""
    cluster.kubectl("apply", "-f", str(manifests.FOLDER / "namespace.yaml"))
    for name in ("serviceaccount", "clusterrole", "clusterrolebinding"):
        cluster.kubectl("apply", "-f", str(manifests.FOLDER / "base" / f"{name}.yaml"))
    return cluster


@pytest.fixture
def world(installed: Cluster, namespace: str, folder: Path) -> Iterator[World]:
    make_dataset(installed, namespace, "demo")
    access = credentials(installed, folder)
    results: Counter[str] = Counter()
    helper = Helper(access, lambda *_: None, lambda: None, idle_s=2)
    api = Api(helper, NODE_NAME)
    sender = EventSender(
        helper,
        Subjects(helper, api, NODE_NAME),
        NODE_NAME,
        lambda result: results.update([result]),
    )
    started = len(list(installed.audit_entries()))
    try:
        yield World(installed, namespace, access, helper, results, sender, started)
    finally:
        sender.stop(2)
        helper.close()
        for key in installed.get("node", NODE_NAME)["metadata"]["labels"]:
            if key.startswith("fluid.io/"):
                installed.kubectl("label", "node", NODE_NAME, f"{key}-")
        installed.kubectl("delete", "pv", f"{namespace}-demo", "--wait=false")


def credentials(cluster: Cluster, folder: Path) -> Access:
    """Write kubelet's credential and a token of the ServiceAccount for this side of the network."""
    secrets = cluster.place.secrets
    token = cluster.kubectl("create", "token", "fluid-csi", "-n", SYSTEM, "--duration=1h").strip()
    pem = str(secrets / "kubelet-client.pem")
    users = {
        "node.conf": {"client-certificate": pem, "client-key": pem},
        "account.conf": {"token": token},
    }
    server = {
        "server": f"https://{cluster.node.ip}",
        "certificate-authority": str(secrets / "ca.crt"),
    }
    for name, user in users.items():
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": server}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        (folder / name).write_text(yaml.safe_dump(config))
    return Access(str(folder / "node.conf"), str(folder / "account.conf"))


def soon(seconds: float = 15.0) -> float:
    return time.monotonic() + seconds


# ---- Stage and unstage


def test_kubelets_credential_labels_its_own_node_and_no_other(world: World):
    key = f"fluid.io/f-{world.namespace}-demo"
    world.api.label_node(key, soon())
    world.api.label_node(key, soon())
    assert world.labels() == {key: "true"}

    world.api.unlabel_node(key, soon())
    world.api.unlabel_node(key, soon())
    assert world.labels() == {}

    world.cluster.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "another"}})
    try:
        with pytest.raises(Unavailable, match=r"answered 403 .*not allowed to modify node"):
            Api(world.helper, "another").label_node(key, soon())
    finally:
        world.cluster.kubectl("delete", "node", "another")
    assert world.asked(KUBELET) == ["patch nodes"] * 5


@pytest.mark.parametrize("policy", ["", "OnDemand"])
def test_the_account_may_read_all_that_unstage_needs(world: World, policy: str):
    if policy:
        make_dataset(world.cluster, world.namespace, "demo", policy)

    fuse = world.api.fuse_of(f"{world.namespace}-demo", soon())

    assert fuse is not None
    assert fuse.policy == (policy or "OnRuntimeDeleted")
    assert fuse.runtime == ("jindo", world.namespace, "demo")
    assert world.asked(ACCOUNT) == ["get persistentvolumes", "get datasets", "get jindoruntimes"]


def test_what_is_gone_is_told_apart_from_what_is_forbidden(world: World):
    assert world.api.fuse_of("no-such-volume", soon()) is None
    world.cluster.kubectl("delete", "jindoruntime", "demo", "-n", world.namespace)
    assert world.api.fuse_of(f"{world.namespace}-demo", soon()) is None

    world.cluster.kubectl("delete", "clusterrolebinding", "fluid-csi-plugin")
    try:
        with pytest.raises(Unavailable, match="answered 403"):
            world.api.fuse_of(f"{world.namespace}-demo", soon())
    finally:
        binding = manifests.FOLDER / "base" / "clusterrolebinding.yaml"
        world.cluster.kubectl("apply", "-f", str(binding))


def test_an_old_volume_is_followed_by_its_claim(world: World):
    spec = {"csi": {"driver": "fuse.csi.fluid.io", "volumeHandle": "old"}}
    old = dataset(world.namespace, "old")[2:]
    old[0]["spec"] |= spec
    world.cluster.apply(*old)
    try:
        label = world.api.label_of(Volume(f"{world.namespace}-old"), soon())
    finally:
        world.cluster.kubectl("delete", "pv", f"{world.namespace}-old", "--wait=false")

    assert label == f"fluid.io/f-{world.namespace}-old"


# ---- Events


def test_describe_shows_what_happened_to_dataset_and_pod(world: World):
    world.cluster.apply(objects.pod("app"), namespace=world.namespace)
    row = world.row
    world.sender.start()
    for count in (2, 4):
        world.sender.record(telling.BROKEN, row, "Fuse mount x is broken")
        wait_for(partial(world.has_sent, count), "the events are sent")

    for kind in ("dataset/demo", "pod/app"):
        said = world.cluster.kubectl("describe", kind, "-n", world.namespace)
        line = next(line for line in said.splitlines() if "FuseBroken" in line)
        assert line.split()[:2] == ["Warning", "FuseBroken"]
        assert "(x2 over" in line
        assert line.rstrip().endswith("Fuse mount x is broken")
    assert world.asked(ACCOUNT).count("create events") == 2
    assert world.asked(ACCOUNT).count("patch events") == 2


def test_a_pod_that_an_earlier_plugin_served_is_found_with_kubelets_credential(world: World):
    world.cluster.apply(objects.pod("app"), namespace=world.namespace)
    world.cluster.wait_ready("app", world.namespace)
    row = dataclasses.replace(
        world.row, pod_namespace="", pod_name="", pod_uid="", runtime_name="", adopted=True
    )
    world.sender.start()
    world.sender.record(telling.HUNG, row, "it hangs")
    wait_for(lambda: world.results["sent"] == 2, "both events are sent")

    assert len(world.events("Pod")) == len(world.events("Dataset")) == 1
    assert world.asked(KUBELET) == ["list pods"]


@pytest.mark.expects_log("events are kept and sent later")
def test_events_wait_while_the_api_server_is_away(world: World):
    world.cluster.apply(objects.pod("app"), namespace=world.namespace)
    row = world.row
    world.cluster.stop_apiserver()
    try:
        started = time.monotonic()
        world.sender.start()
        world.sender.record(telling.BROKEN, row, "it broke")
        assert time.monotonic() - started < 2  # the machine may be busy
        with pytest.raises(Unavailable):
            world.api.label_node("fluid.io/f-x", soon(3))
    finally:
        world.cluster.start_apiserver()
    wait_for(lambda: world.results["sent"] == 2, "both events are sent", 70)

    assert len(world.events("Dataset")) == 1


@pytest.mark.expects_log("events are kept and sent later")
def test_events_wait_while_the_api_server_hangs(world: World):
    world.cluster.apply(objects.pod("app"), namespace=world.namespace)
    row = world.row
    world.cluster.freeze_apiserver()
    try:
        started = time.monotonic()
        world.sender.start()
        world.sender.record(telling.BROKEN, row, "it broke")
        with pytest.raises(Unavailable):
            world.api.label_node("fluid.io/f-x", soon(2))
        assert time.monotonic() - started < 9
        wait_for(lambda: world.sender._problem, "the sender gives up for now")
    finally:
        world.cluster.thaw_apiserver()
    wait_for(lambda: world.results["sent"] == 2, "both events are sent", 70)


# ---- Back-off


class Listener:
    def __init__(self) -> None:
        self.told: list[str] = []

    def record(self, reason: telling.Reason, publication: Publication, message: str) -> None:
        self.told.append(reason.name)


def test_a_fuse_pod_in_crash_loop_back_off_makes_way_for_a_fresh_one(world: World):
    component = manifests.FOLDER / "components/reset-backoff"
    for name in ("clusterrole", "clusterrolebinding"):
        world.cluster.kubectl("apply", "-f", str(component / f"{name}.yaml"))
    labels = {"role": "jindofs-fuse", "release": "demo", "fluid.io/managed-by": "fluid"}
    spec = objects.pod("x", "exit 1")["spec"]
    spec["containers"][0]["command"] = ["false"]
    other = labels | {"release": "bystander"}
    for name, its in (("demo-jindofs-fuse", labels), ("bystander-jindofs-fuse", other)):
        world.cluster.apply(objects.daemonset(name, its, spec), namespace=world.namespace)
    world.cluster.apply(objects.pod("app"), namespace=world.namespace)

    def uids(release: str) -> set[str]:
        pods = world.cluster.list("pods", world.namespace, f"release={release}")
        return {
            pod["metadata"]["uid"] for pod in pods if not pod["metadata"].get("deletionTimestamp")
        }

    wait_for(lambda: uids("demo") and uids("bystander"), "the pods are there")
    before = uids("demo"), uids("bystander")
    store, listener, row = Store(), Listener(), world.row
    store.put_publication(row)
    watcher = BackoffReset(world.helper, store, listener, NODE_NAME, 1.0, 600)
    watcher.start()
    try:
        watcher.tell(events.Broken(row.source, (row,), time.time()))
        wait_for(lambda: listener.told, "a pod is deleted", 60)
        wait_for(lambda: uids("demo") and not uids("demo") & before[0], "a fresh one is there", 60)
    finally:
        watcher.stop()

    assert listener.told == ["FuseBackoffReset"]
    assert uids("bystander") == before[1]
    assert world.asked(ACCOUNT).count("delete pods") == 1


# ---- The whole plugin


@contextlib.contextmanager
def plugin(world: World, folder: Path) -> Iterator[tuple[int, Client]]:
    socket = folder / "csi.sock"
    command = [
        *(sys.executable, "-m", "csi_fluid", "start", f"--nodeid={NODE_NAME}"),
        *(f"--endpoint=unix://{socket}", f"--state={folder}/state.db", "--metrics-addr=0"),
        *(f"--kubelet-kube-config={world.access.node}", f"--kubeconfig={world.access.account}"),
        "--feature-gates=FuseRecovery=true",
    ]
    places = {"KUBELET_ROOTDIR": str(folder), "MOUNT_ROOT": str(folder)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | places, stderr=log)
    client = Client(socket)
    try:
        until(socket.exists, "the plugin serves")
        yield process.pid, client
    finally:
        client.close()
        process.terminate()
        process.wait(10)


def resident_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def helpers(pid: int) -> list[str]:
    """Return the children of a process that make calls to the API server; one asks daemons."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    children = [child for each in lists for child in each.read_text(encoding="ascii").split()]
    return [child for child in children if "csi_fluid.kube.child" in command_of(child)]


def command_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        return ""


def test_the_plugin_asks_when_it_stages_and_never_else(world: World, folder: Path):
    make_dataset(world.cluster, world.namespace, "demo", "OnDemand")
    volume_id = f"{world.namespace}-demo"
    with plugin(world, folder) as (pid, client):
        client.node.NodeStageVolume(
            csi_pb2.NodeStageVolumeRequest(
                volume_id=volume_id, staging_target_path="/s", volume_capability=capability()
            ),
            timeout=30,
        )
        assert world.labels() == {f"fluid.io/f-{volume_id}": "true"}
        client.node.NodeUnstageVolume(
            csi_pb2.NodeUnstageVolumeRequest(volume_id=volume_id, staging_target_path="/s"),
            timeout=30,
        )
        assert world.labels() == {}
        assert resident_mib(pid) < 46
        asked = len(world.asked(ACCOUNT)), len(world.asked(KUBELET))
        assert len(helpers(pid)) == 1
        wait_for(lambda: not helpers(pid), "the idle helper ends", 40)  # ticks of the period too
        assert (len(world.asked(ACCOUNT)), len(world.asked(KUBELET))) == asked == (4, 2)
