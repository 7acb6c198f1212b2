"""The webhook's manifests: in step with the program, with Fluid's webhook, and with few rights."""

import re
from typing import Any

import pytest

import csi_fluid
from csi_fluid import webhook
from csi_fluid.cli import usage
from csi_fluid.cli.webhook import _parser
from csi_fluid.kube import calls
from csi_fluid.webhook import server
from tests import manifests
from tests.manifests import FOLDER, Object

SERVERLESS = FOLDER / "serverless"
FLUIDS = "fluid-pod-admission-webhook"  # the name of Fluid's own configuration


def read(name: str) -> Object:
    (found,) = manifests.read(SERVERLESS / f"{name}.yaml")
    return dict(found)


def pod() -> Object:
    return dict(read("deployment")["spec"]["template"]["spec"])


def container() -> Object:
    (found,) = pod()["containers"]
    return dict(found)


def hook() -> Object:
    (found,) = read("mutatingwebhookconfiguration")["webhooks"]
    return dict(found)


def given() -> Any:
    environ = {each["name"]: each["value"] for each in container()["env"]}
    words = [re.sub(r"\$\((\w+)\)", lambda m: environ[m[1]], word) for word in container()["args"]]
    return usage.parse(_parser(), words)


def test_every_file_is_listed():
    listed = read("kustomization")["resources"]

    assert set(listed) == {p.name for p in SERVERLESS.glob("*.yaml")} - {"kustomization.yaml"}


def test_kubectl_renders_it_with_every_name_in_fluids_namespace():
    objects = manifests.rendered("serverless")

    assert {o["metadata"].get("namespace", webhook.NAMESPACE) for o in objects} == {
        webhook.NAMESPACE
    }
    assert len(objects) == len(read("kustomization")["resources"])


def test_the_program_takes_every_argument():
    settings, words = given()

    assert container()["command"] == ["csi-fluid", "webhook"]
    assert settings.without_effect == ()
    assert words.agent_image == container()["image"]


def test_the_agent_has_the_image_of_this_version():
    assert given()[1].agent_image == f"localhost/csi-fluid:{csi_fluid.__version__}"


def test_every_name_is_the_one_that_the_program_uses_by_default():
    _, words = given()

    assert words.service_name == read("service")["metadata"]["name"]
    assert words.secret == read("secret")["metadata"]["name"]
    assert words.webhook_config == read("mutatingwebhookconfiguration")["metadata"]["name"]
    assert words.namespace == read("secret")["metadata"]["namespace"] == webhook.NAMESPACE


def test_the_api_server_asks_at_the_path_and_port_that_are_served():
    settings, words = given()
    client = hook()["clientConfig"]["service"]
    (port,) = read("service")["spec"]["ports"]
    ports = {each["name"]: each["containerPort"] for each in container()["ports"]}

    assert client == {
        "name": words.service_name,
        "namespace": words.namespace,
        "path": server.PATH,
        "port": port["port"],
    }
    assert words.listen == f":{ports[port['targetPort']]}"
    assert settings.metrics_addr == ("", ports["metrics"])


def test_fluids_webhook_is_asked_after_ours():
    """API servers ask in the order of the configurations' names, and again after a change."""
    assert webhook.CONFIGURATION < FLUIDS
    assert hook()["reinvocationPolicy"] == "IfNeeded"


def test_the_webhook_can_never_keep_a_pod_from_starting():
    assert hook()["failurePolicy"] == "Ignore"
    assert hook()["sideEffects"] == "None"
    assert hook()["timeoutSeconds"] <= 5


def test_only_pods_that_ask_are_sent():
    (condition,) = hook()["matchConditions"]
    (rule,) = hook()["rules"]

    assert set(re.findall(r"'(\S+)' in", condition["expression"])) == {
        webhook.POLICY,
        webhook.PLATFORM_POLICY,
    }
    assert (rule["resources"], rule["operations"]) == (["pods"], ["CREATE"])


def test_neither_the_clusters_nor_fluids_own_pods_wait_for_it():
    (expression,) = hook()["namespaceSelector"]["matchExpressions"]

    assert expression["operator"] == "NotIn"
    assert set(expression["values"]) == {"kube-system", webhook.NAMESPACE}


@pytest.mark.parametrize(
    ("name", "rule"), [("role", calls.WEBHOOK_SECRET), ("clusterrole", calls.WEBHOOK_TRUST)]
)
def test_each_role_allows_exactly_the_calls_that_are_made(name: str, rule: calls.Rule):
    (allowed,) = read(name)["rules"]

    assert allowed == {
        "apiGroups": [rule.group],
        "resources": list(rule.resources),
        "resourceNames": list(rule.names),
        "verbs": list(rule.verbs),
    }
    assert rule.names in {(webhook.SECRET,), (webhook.CONFIGURATION,)}


@pytest.mark.parametrize("name", ["role", "clusterrole"])
def test_each_role_is_bound_to_the_pods_account(name: str):
    binding = read(f"{name}binding")

    assert binding["roleRef"]["name"] == read(name)["metadata"]["name"]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": pod()["serviceAccountName"], "namespace": "fluid-system"}
    ]


def test_the_pods_have_no_privileges():
    security = container()["securityContext"]

    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert pod()["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert security == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert all("emptyDir" in volume for volume in pod()["volumes"])


def test_one_replica_of_two_always_stays():
    deployment, budget = read("deployment")["spec"], read("poddisruptionbudget")["spec"]

    assert deployment["replicas"] == 2
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert budget["minAvailable"] == 1


def test_every_selector_finds_the_pods():
    labels = read("deployment")["spec"]["template"]["metadata"]["labels"]

    for selector in (
        read("deployment")["spec"]["selector"]["matchLabels"],
        read("poddisruptionbudget")["spec"]["selector"]["matchLabels"],
        read("service")["spec"]["selector"],
    ):
        assert selector.items() <= labels.items()


def test_applying_again_leaves_the_certificates_alone():
    assert not {"data", "stringData"} & read("secret").keys()
    assert "caBundle" not in hook()["clientConfig"]
