"""One cluster for the session, a new namespace for each test."""

import itertools
import os
from collections.abc import Generator, Iterator

import pytest

from tests import sandbox
from tests.cluster.cluster import Cluster
from tests.cluster.settings import BIN

NAME = os.environ.get("CLUSTER_NAME", "test")
_numbers = itertools.count(1)


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the cluster's programs said last to the report of a failure."""
    report = yield
    if report.failed and "cluster" in getattr(item, "fixturenames", ()):
        cluster = Cluster(NAME)
        if cluster.node.is_up:
            pods = cluster.kubectl("get", "pods,events", "-A", "-owide", check=False)
            report.sections.append(("the cluster", pods[-6000:]))
            report.sections.append(("its logs", f"in {cluster.place.logs}"))
    return report
