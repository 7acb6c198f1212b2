"""The admission webhook as it is deployed: asked by a real API server, certificates its own."""

import json

from tests.cluster.cluster import Cluster, Object
from tests.cluster.recovery import NAME, NAMESPACE, SECRET, Recovery
from tests.cluster.serverlesspods import AGENT, SIDECAR, Serverless, application
from tests.cluster.waiting import wait_for

ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{NAME}"
CONFIGURATIONS = "mutatingwebhookconfigurations"


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


def test_a_roll_out_leaves_no_question_without_an_answer(cluster: Cluster, recovery: Recovery):
    before = set(recovery.pods())
    cluster.kubectl("rollout", "restart", f"deployment/{NAME}", "-n", NAMESPACE)

    answers = []

    def is_rolled_out() -> bool:
        answers.append(recovery.answers())
        return not before & set(recovery.pods())

    wait_for(is_rolled_out, "the end of the replicas of before", 90)
    assert len(recovery.pods()) == 2
    assert all(answers), answers


def test_a_new_replica_has_the_shared_authority_trusted_at_once(
    cluster: Cluster, recovery: Recovery
):
    trusted = recovery.bundle()
    recovery.forget_bundle()
    wait_for(lambda: not recovery.answers(), "the API server to know of it")

    cluster.kubectl("delete", "pod", recovery.pods()[0], "-n", NAMESPACE, "--wait=false")

    wait_for(lambda: recovery.bundle() == trusted, "the same authority to be trusted again", 30)


def test_the_webhook_makes_the_calls_that_its_role_allows_and_no_others(
    cluster: Cluster, recovery: Recovery
):
    assert recovery.answers()

    asked = [e for e in cluster.audit_entries() if e["user"]["username"] == ACCOUNT]
    calls = {f"{entry['verb']} {entry['objectRef']['resource']}" for entry in asked}
    codes = {entry["responseStatus"]["code"] for entry in asked if "responseStatus" in entry}

    needed = {f"get {CONFIGURATIONS}", f"patch {CONFIGURATIONS}", "get secrets"}
    assert needed <= calls <= needed | {"update secrets"}
    assert codes <= {200, 409}
    for right in ("list secrets", "create pods", f"delete {CONFIGURATIONS}", "get pods"):
        assert may(cluster, right) == "no", right


def may(cluster: Cluster, right: str) -> str:
    ask = ("auth", "can-i", *right.split(), f"--as={ACCOUNT}", "--all-namespaces")
    return cluster.kubectl(*ask, check=False).strip()
