"""A release of the chart with the real Helm, and `kubectl csi-fluid`: their pages, typed."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import manifests
from tests.cluster.cluster import Cluster
from tests.cluster.credentials import ADMIN_TOKEN
from tests.cluster.fluid import Fluid
from tests.cluster.fluidobjects import Spec
from tests.cluster.page import Page
from tests.cluster.plugin import Plugin
from tests.cluster.recovery import Recovery
from tests.cluster.settings import ROOT
from tests.cluster.waiting import wait_for
from tests.cluster.walk import WALKTHROUGH, Walk, as_fluid_has_it, events_of_the_app

INSTALL, KUBECTL = ROOT / "docs/install.md", ROOT / "docs/kubectl.md"
WEBHOOK = "deployment/csi-fluid-webhook"
OURS = re.compile(r"csi-fluid|fluid-csi|csi-nodeplugin-fluid|fuse\.csi\.fluid\.io")
KINDS = (
    "daemonsets,deployments,services,serviceaccounts,secrets,configmaps,roles,rolebindings,pods,"
    "clusterroles,clusterrolebindings,csidrivers,mutatingwebhookconfigurations,poddisruptionbudgets"
)


@pytest.fixture
def bare(cluster: Cluster, image: Plugin) -> Iterator[Cluster]:
    """Return a cluster in which nothing of ours is installed, and put back a webhook that was."""
    had_webhook = bool(cluster.kubectl("get", WEBHOOK, "-n", "fluid-system", "--ignore-not-found"))
    folders = [f"overlays/{name}" for name in ("reset-backoff", "service-account")] + ["serverless"]
    for folder in folders:
        where = ("-k", str(manifests.FOLDER / folder), "--ignore-not-found", "--timeout=60s")
        cluster.kubectl("delete", *where, timeout_s=70)
    wait_for(lambda: not objects(cluster), "nothing of ours")
    yield cluster
    cluster.enter("helm", *kubeconfig(cluster), "uninstall", "csi-fluid", *HERE, check=False)
    wait_for(lambda: not objects(cluster), "the end of the release", 60)
    if had_webhook:
        Recovery(cluster).deploy()


HERE = ("-n", "fluid-system")


def kubeconfig(cluster: Cluster) -> tuple[str]:
    return (f"--kubeconfig={cluster.place.secrets}/admin.conf",)


def objects(cluster: Cluster) -> list[str]:
    """Return what is ours in the cluster, without the events about it."""
    found = cluster.kubectl("get", KINDS, "-A", "--no-headers", "-o", "name").splitlines()
    return [name for name in found if OURS.search(name)]


def helm(cluster: Cluster, *words: str) -> str:
    chart = ("csi-fluid", str(manifests.CHART), *HERE, "--create-namespace")
    return cluster.enter("helm", *kubeconfig(cluster), words[0], *chart, *words[1:])


@pytest.mark.usefixtures("fluid")
def test_a_release_goes_as_the_page_says_and_leaves_what_it_says(
    bare: Cluster,
    image: Plugin,
    fluid: Fluid,
    walked: Spec,
    folder: Path,
):
    (folder / "manifests").symlink_to(ROOT / "manifests")
    install, kubectl = Page(INSTALL), Page(KUBECTL)
    walk = Walk(bare, install, folder, str)

    assert "STATUS: deployed" in walk.type("helm install csi-fluid")
    walk.type("rollout status")
    image.await_rollout()
    assert "fuse.csi.fluid.io" in walk.type("get csinode")
    assert "recovery      on\n" in walk.type("helm upgrade csi-fluid")
    walk.type("rollout status")
    image.await_rollout()
    assert re.search(r"Phase: +Succeeded", walk.type("helm test csi-fluid"))
    told = ask_the_whole_cluster(bare, fluid, walked, folder, kubectl)
    assert "Rollback was a success" in walk.type("helm rollback csi-fluid 1")
    image.await_rollout()
    assert 'release "csi-fluid" uninstalled' in walk.type("helm uninstall csi-fluid")

    assert walk.left == []
    wait_for(lambda: not objects(bare), "the end of every object", 60)
    assert left_on_the_node(bare) == NAMED
    if os.environ.get("WRITE_WALKTHROUGH"):
        install.write([(command, once(command, said)) for command, said in walk.told])
        kubectl.write(told)


def once(command: str, said: str) -> str:
    """Return what Helm said; its notes, which it repeats each time, at the installation alone."""
    return said if "install" in command.split() else said.partition("NOTES:\n")[0]


# What docs/install.md says is left on a node.
NAMED = {
    "/etc/updatedb.conf.backup",
    "/var/lib/kubelet/csi-plugins/fuse.csi.fluid.io",
    "/var/lib/kubelet/plugins/csi-fluid-plugin",
    "/var/lib/kubelet/plugins/kubernetes.io/csi/fuse.csi.fluid.io",
}


def left_on_the_node(cluster: Cluster) -> set[str]:
    """Return what is ours on the node: not what lies below such a directory, nor mounts."""
    names = ("*csi-fluid*", "*fluid.io*", "updatedb.conf.backup")
    tests = " -o ".join(f"-name '{name}'" for name in names)
    where = "/var/lib/kubelet /etc /runtime-mnt"
    found = cluster.enter("sh", "-c", f"find {where} -xdev \\( {tests} \\) -prune -print")
    return set(found.splitlines())


def ask_the_whole_cluster(
    cluster: Cluster, fluid: Fluid, spec: Spec, folder: Path, page: Page
) -> list[tuple[str, str]]:
    """Crash the walk-through's dataset, and type the page of `kubectl csi-fluid`."""
    files = Walk(cluster, Page(WALKTHROUGH), folder, as_fluid_has_it)
    for name in ("secret", "dataset", "app"):
        cluster.kubectl("create", "-f", str(folder / f"{name}.yaml"))
        if name == "dataset":
            fluid.reconcile(spec)
    cluster.wait_ready("demo-app", "default")
    cluster.execute(fluid.fuse_pod(spec), "kill", "1", namespace="default", check=False)
    wait_for(lambda: "FuseRecoverSucceed" in events_of_the_app(cluster), "the heal", 60)
    assert files.left  # its files are what is wanted of it

    walk = Walk(cluster, page, folder, str)
    said = walk.type("status")
    assert re.search(r"default/demo-dataset +node1 +healthy .* 1 +(\d)/\1 +\d +[\d.]+ m?s, ", said)
    said = walk.type("doctor")
    assert re.search(r"FuseRecovery +ok +node1 +on", said)
    assert re.search(r"kernel +ok +node1 +\d", said)
    said = walk.type("explain demo-app")
    for expected in (
        r"volume data-vol: dataset default/demo-dataset, read-only",
        r"FUSE pod    demo-dataset-jindofs-fuse-\w+: running, 1 restarts",
        r"FuseBroken on the pod: Fuse mount",
        r"demo at /data: errors until FUSE is back, then the data again",
        r"generation 0:\d+, which the pod has too",
    ):
        assert re.search(expected, said), said
    assert re.search(r"csi-fluid.tar.gz: \d+ KiB, 1 nodes", walk.type("bundle"))
    assert "nodes/node1/log.txt" in walk.type("tar tzf")
    secret = ("demo-access-key", "demo-secret-key")
    whole = cluster.enter("sh", "-c", f"tar xzOf {folder}/csi-fluid.tar.gz")
    assert [text for text in secret if text in whole] == []
    assert "FuseRecoverSucceed" in whole

    assert walk.left == []
    assert what_a_reader_lacks(cluster, folder, page) == "nothing\n"
    where = ("pod/demo-app", "-n", "default", "--timeout=60s")
    cluster.kubectl("delete", *where, timeout_s=70)
    return walk.told


def what_a_reader_lacks(cluster: Cluster, folder: Path, page: Page) -> str:
    """Return what is not in a bundle that is made with no other rights than those of the page."""
    (folder / "rights.yaml").write_text(page.files["csi-fluid-reader.yaml"])
    cluster.kubectl("apply", "-f", str(folder / "rights.yaml"))
    account = "--serviceaccount=default:default"
    for kind, role, where in (
        ("rolebinding", "role", HERE),
        ("clusterrolebinding", "clusterrole", ()),
    ):
        command = ("create", kind, "reader", f"--{role}=csi-fluid-reader", account, *where)
        cluster.kubectl(*command)
    token = cluster.kubectl("create", "token", "default", "-n", "default").strip()
    config = (cluster.place.secrets / "admin.conf").read_text().replace(ADMIN_TOKEN, token)
    (folder / "reader.conf").write_text(config)
    bundle = f"{folder}/reader.tar.gz"
    command = ("kubectl-csi_fluid", "bundle", f"--kubeconfig={folder}/reader.conf", "-o", bundle)
    cluster.enter(*command)
    for kind, where in (("rolebinding", HERE), ("clusterrolebinding", ())):
        cluster.kubectl("delete", kind, "reader", *where)
    cluster.kubectl("delete", "-f", str(folder / "rights.yaml"))
    return cluster.enter("sh", "-c", f"tar xzOf {bundle} --wildcards '*/MISSING.txt'")


def test_an_upgrade_leaves_the_webhooks_certificates_where_they_are(bare: Cluster):
    webhook = Recovery(bare)
    alone = ("--set=csi.enabled=false", "--set=webhook.enabled=true", "--wait", "--timeout=90s")
    helm(bare, "install", *alone)
    wait_for(webhook.answers, "an answer of the webhook")
    before = webhook.bundle()
    secret = bare.get("secret", "csi-fluid-webhook-certificates", "fluid-system")["data"]

    helm(bare, "upgrade", *alone, "--set=webhook.replicas=1")

    assert webhook.bundle() == before
    after = bare.get("secret", "csi-fluid-webhook-certificates", "fluid-system")
    assert after["data"] == secret
    assert webhook.answers()


def test_the_api_server_knows_every_field_of_the_chart(bare: Cluster):
    """Also where a value is set that the defaults leave out."""
    values = ["imagePullSecrets[0].name=x", "csi.hostNetwork=true", "csi.resetBackoff=20s"]
    values += ["csi.useNodeAuthorization=false", "webhook.enabled=true", "csi.maxUnavailable=10%"]
    values += ["csi.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring"]
    text = manifests.helm(*(f"--set={value}" for value in values)).stdout
    bare.kubectl("apply", "-f", str(manifests.FOLDER / "namespace.yaml"))

    said = bare.kubectl(*("apply", "--dry-run=server", "--validate=strict", "-f", "-"), input=text)

    assert not re.search("warning", said, re.IGNORECASE)
    assert "pod/csi-fluid-trial created" in said
