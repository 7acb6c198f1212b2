"""The admission webhook as it is deployed: asked by a real API server, certificates its own."""

import json

from tests.cluster.cluster import Cluster, Object
from tests.cluster.recovery import NAMESPACE, SECRET, Recovery
from tests.cluster.serverless import AGENT, SIDECAR, Serverless, application
from tests.cluster.waiting import wait_for


def test_a_dry_run_shows_the_pod_as_it_would_be_and_makes_nothing(
    cluster: Cluster, serverless: Serverless
):
    serverless.dataset()

    said = cluster.kubectl(
        *("create", "--dry-run=server", "-ojson", "-n", serverless.namespace, "-f", "-"),
        input=json.dumps(application("app", "demo")),
    )

    assert [c["name"] for c in json.loads(said)["spec"]["containers"]] == [SIDECAR, AGENT, "main"]
    assert cluster.list("pods", serverless.namespace) == []


def test_applying_the_manifests_again_keeps_the_certificates(cluster: Cluster, recovery: Recovery):
    def certificates() -> Object:
        return dict(cluster.get("secret", SECRET, NAMESPACE)["data"])

    before = certificates(), recovery.bundle()

    recovery.deploy()

    assert (certificates(), recovery.bundle()) == before
    assert set(before[0]) == {"ca.crt", "ca.key", "tls.crt", "tls.key"}


def test_a_bundle_that_another_tool_took_away_is_put_back(recovery: Recovery):
    right = recovery.bundle()

    recovery.forget_bundle()

    wait_for(lambda: recovery.bundle() == right, "the bundle of before", 90)
    wait_for(recovery.answers, "an answer of the webhook")


def test_while_no_replica_serves_pods_are_made_without_an_agent(
    serverless: Serverless, recovery: Recovery
):
    """Recovery must never keep a pod from starting."""
    serverless.dataset()
    recovery.scale(0)
    try:
        pod = serverless.start("app", "demo", labels={"serverless.fluid.io/inject": "true"})
        assert pod.containers() == [SIDECAR, "main"]
    finally:
        recovery.scale(2)
