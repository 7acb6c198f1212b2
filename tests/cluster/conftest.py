"""One cluster for the session, a new namespace for each test."""

import contextlib
import itertools
import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from csi_fluid.testbed.objectstore import ObjectStore
from tests import sandbox
from tests.cluster.admission import FluidWebhook
from tests.cluster.cluster import Cluster, scratch
from tests.cluster.fluid import Datasets, Fluid
from tests.cluster.fluidobjects import Spec
from tests.cluster.plugin import DAEMONSET, NAMESPACE, Plugin
from tests.cluster.recovery import Recovery
from tests.cluster.scene import Scene
from tests.cluster.serverlesspods import Serverless
from tests.cluster.settings import BIN

NAME = os.environ.get("CLUSTER_NAME", "test")
_numbers = itertools.count(1)
_TOLD = 12_000  # characters of each that a failure is reported with


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Bring a cluster up for the session; CLUSTER_KEEP=1 uses one that is up, and leaves it up."""
    tools = (
        "ctr",
        "runc",
        "openssl",
        "busybox",
        "mmdebstrap",
        "/usr/lib/cni/ptp",
        str(BIN / "kube"),
    )
    sandbox.require("root", *tools)
    made = Cluster(NAME)
    keep = bool(os.environ.get("CLUSTER_KEEP"))
    if not keep:
        made.down()
    made.up()
    yield made
    if not keep:
        made.down()


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """Make a namespace of the test's own, and remove it with everything in it afterwards."""
    name = f"test-{os.getpid()}-{next(_numbers)}"
    cluster.kubectl("create", "namespace", name)
    cluster.await_service_account(name)
    yield name
    cluster.delete_namespace(name)


@pytest.fixture(scope="session")
def fluid(cluster: Cluster) -> Fluid:
    """Define Fluid's kinds."""
    return Fluid(cluster)


@pytest.fixture(scope="session")
def image(cluster: Cluster, fluid: Fluid) -> Plugin:
    """Load the plugin's image, for a test that deploys it in its own way."""
    plugin = Plugin(cluster)
    plugin.load()
    return plugin


@pytest.fixture
def plugin(image: Plugin) -> Plugin:
    """Deploy the plugin with recovery on; a test before may have left it otherwise, or down.

    Ask for it before ``namespace``: pods cannot end without it.
    """
    image.deploy()
    return image


@pytest.fixture
def dataset(cluster: Cluster, fluid: Fluid, plugin: Plugin, namespace: str) -> Iterator[Datasets]:
    """Return what makes a dataset, of a directory on the node that holds the file ``hello``.

    dataset(NAME) and any field of Spec. When the test is over, its pods go first.
    """
    made: list[Spec] = []

    def make(name: str = "demo", **fields: Any) -> Spec:
        source = f"/var/lib/data/{namespace}/{name}"
        cluster.enter("mkdir", "-p", f"{source}/sub")
        for path in ("hello", "sub/deep"):
            cluster.write(f"{source}/{path}", f"{path} of {name}\n")
        spec = Spec(**{"namespace": namespace, "name": name, "source": source} | fields)
        made.append(fluid.dataset(spec))
        return made[-1]

    yield make
    plugin.await_rollout()  # without it no pod ends
    selector = "fluid.io/managed-by!=fluid"  # a client that goes first leaves dead mounts
    for kinds in ("deployments", "pods"):
        where = ("-n", namespace, f"--selector={selector}", "--timeout=240s")
        cluster.kubectl("delete", kinds, *where, timeout_s=250)
    for spec in made:
        fluid.remove(spec)


@pytest.fixture
def scene(cluster: Cluster, fluid: Fluid, dataset: Datasets) -> Scene:
    """Return a dataset with a daemon that comes with the first application."""
    return Scene(cluster, fluid, dataset())


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder that the node sees too."""
    made = scratch()
    yield made
    shutil.rmtree(made)


@pytest.fixture
def bucket(cluster: Cluster, folder: Path) -> Iterator[ObjectStore]:
    """Serve the bucket that the walk-throughs' dataset names."""
    store = ObjectStore(folder, "demo-bucket", cluster.node.host_ip)
    with contextlib.closing(store):
        for parent in ("dir/", "dir/sub/"):
            store.put(parent, b"")
        for name in ("hello.txt", "model.bin", "sub/readme.txt"):
            store.put(f"dir/{name}", b"some bytes\n" * 100)
        yield store


@pytest.fixture
def walked(cluster: Cluster, fluid: Fluid, bucket: ObjectStore) -> Iterator[Spec]:
    """Return what the stand-in for Fluid is to make of the page's dataset."""
    told = {
        "FUSE_KIND": "s3fs",
        "FUSE_SOURCE": "demo-bucket:/dir",
        "FUSE_ENDPOINT": bucket.url,
        "FUSE_DELAY": "1.5",  # as a client written in Java; s3fs is back before the loop sees it
    }
    made = Spec("default", "demo-dataset", secret="mysecret", environment=told)
    yield made
    gone = ("-n", "default", "--ignore-not-found", "--timeout=60s")
    cluster.kubectl("delete", "pod/demo-app", "secret/mysecret", *gone, timeout_s=70)
    fluid.remove(made)


@pytest.fixture(scope="session")
def injector(cluster: Cluster) -> Iterator[FluidWebhook]:
    """Serve what Fluid's webhook does."""
    with FluidWebhook(cluster) as webhook:
        yield webhook


@pytest.fixture(scope="session")
def recovery(cluster: Cluster, image: Plugin) -> Recovery:
    """Deploy the webhook that gives serverless pods their agent."""
    made = Recovery(cluster)
    made.deploy()
    return made


@pytest.fixture
def serverless(
    cluster: Cluster,
    fluid: Fluid,
    image: Plugin,
    injector: FluidWebhook,
    recovery: Recovery,
    namespace: str,
) -> Iterator[Serverless]:
    """Return what makes datasets and pods of a namespace on a node without the node plugin."""
    image.remove()
    made = Serverless(cluster, fluid, injector, namespace)
    yield made
    injector.native = False
    made.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the cluster's programs said last to the report of a failure."""
    report = yield
    if report.failed and "cluster" in getattr(item, "fixturenames", ()):
        cluster = Cluster(NAME)
        if cluster.node.is_up:
            report.sections += _said_last(cluster)
    return report


def _said_last(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """Yield what its programs said last; their files go with the cluster."""
    columns = "AT:.metadata.creationTimestamp,OF:.involvedObject.name,IS:.reason,SAID:.message"
    events = ("-A", "--sort-by=.metadata.creationTimestamp", "-o", f"custom-columns={columns}")
    plugin = ("-n", NAMESPACE, "-l", f"app={DAEMONSET}", "--all-containers", "--prefix")
    for title, *command in (
        ("pods", "get", "pods", "-A", "-owide"),
        ("events", "get", "events", *events),
        ("the plugin's log", "logs", *plugin, "--tail=100"),
    ):
        yield title, cluster.kubectl(*command, check=False)[-_TOLD:]
