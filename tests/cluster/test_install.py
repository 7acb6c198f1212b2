"""What a user installs, on a real API server: every field known, the gate turned as published."""

import json
import re

import pytest

from tests import manifests
from tests.cluster.cluster import Cluster
from tests.manifests import FOLDER

OVERLAYS = sorted(p.parent.relative_to(FOLDER).as_posix() for p in FOLDER.glob("overlays/*/k*"))
OPERATOR = "monitoring.coreos.com"  # kinds that a cluster without Prometheus' operator lacks


@pytest.fixture
def fluid_system(cluster: Cluster) -> None:
    cluster.kubectl("apply", "-f", str(FOLDER / "namespace.yaml"))


@pytest.mark.usefixtures("fluid_system")
@pytest.mark.parametrize("folder", ["base", "serverless", "serverless/monitoring", *OVERLAYS])
def test_the_api_server_takes_every_object_and_knows_every_field(cluster: Cluster, folder: str):
    objects = manifests.rendered(folder)
    known = [o for o in objects if not o["apiVersion"].startswith(OPERATOR)]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": known})

    said = cluster.kubectl(
        *("apply", "--dry-run=server", "--validate=strict", "-f", "-"), input=text
    )

    assert len(said.splitlines()) == len(known)
    assert not re.search("warning", said, re.IGNORECASE)


@pytest.mark.usefixtures("fluid_system")
def test_only_rights_that_the_cluster_knows_are_asked_for(cluster: Cluster):
    """A resource that is misspelt in a role is no error: it allows nothing."""
    known = set(cluster.kubectl("api-resources", "--no-headers", "-o", "name").split())
    core = {name for name in known if "." not in name}
    for name in ("base", "components/reset-backoff", "components/service-account"):
        (role,) = manifests.read(FOLDER / name / "clusterrole.yaml")
        rules = [rule for rule in role["rules"] if rule["apiGroups"] == [""]]

        assert {r for rule in rules for r in rule["resources"]} <= core
