"""The Helm chart: the same objects as kustomize's, every value with an effect, typos refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import csi_fluid
from csi_fluid import config, optiontypes
from tests import manifests
from tests.manifests import CHART, FOLDER, Object
from tests.unit.test_manifests import container, started

RECOVERY = "csi.featureGates=FuseRecovery=true"
WEBHOOK = ("csi.enabled=false", "webhook.enabled=true")
DAEMONSET = "csi-nodeplugin-fluid"


def described() -> dict[str, Any]:
    return dict(yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8")))


def values() -> dict[str, Any]:
    return dict(yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8")))


def by_name(objects: list[Object]) -> dict[tuple[str, str], Object]:
    return {(o["kind"], o["metadata"]["name"]): o for o in objects}


# ---- One source of truth


@pytest.mark.parametrize(
    ("settings", "folders"),
    [
        ((), ["base"]),
        ((RECOVERY,), ["overlays/recovery"]),
        ((RECOVERY, "csi.resetBackoff=20s"), ["overlays/reset-backoff"]),
        ((RECOVERY, "csi.useNodeAuthorization=false"), ["overlays/service-account"]),
        ((f"{RECOVERY}\\,SeamlessRecovery=true",), ["overlays/seamless"]),
        (("monitoring.enabled=true",), ["overlays/monitoring"]),
        (WEBHOOK, ["serverless"]),
        ((*WEBHOOK, "monitoring.enabled=true"), ["serverless", "serverless/monitoring"]),
    ],
)
def test_the_chart_makes_the_objects_that_kustomize_makes(
    settings: tuple[str, ...], folders: list[str]
):
    theirs = by_name([each for folder in folders for each in manifests.rendered(folder)])
    ours = by_name(manifests.charted(*settings))

    assert ours == theirs


def test_every_component_and_overlay_is_compared():
    """A folder that is new must find its way into the test above."""
    assert {path.name for path in (FOLDER / "components").iterdir()} == {
        *("monitoring", "recovery", "reset-backoff", "seamless", "service-account")
    }
    assert {path.name for path in (FOLDER / "overlays").iterdir()} == {
        *("monitoring", "recovery", "reset-backoff", "seamless", "service-account")
    }


def test_chart_and_image_have_the_version_of_the_program():
    chart = described()

    assert chart["version"] == chart["appVersion"] == csi_fluid.__version__


def test_the_drop_in_is_what_its_page_says():
    text = (manifests.DROP_IN / "values.yaml").read_text(encoding="utf-8")
    page = (FOLDER.parent / "docs/install.md").read_text(encoding="utf-8")
    found = yaml.safe_load(text)

    assert text.partition("\ncsi:")[2] in page
    assert found["csi"]["plugins"]["imageTag"] == csi_fluid.__version__
    assert optiontypes.parse_gates(found["csi"]["featureGates"])["FuseRecovery"]


# ---- Values


def leaves(tree: dict[str, Any], *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each value with its path; what a user puts in whole is one value."""
    for name, value in tree.items():
        if isinstance(value, dict) and value and name not in WHOLE:
            yield from leaves(value, *path, name)
        else:
            yield (*path, name), value


WHOLE = {"resources", "affinity", "nodeSelector"}
EXACT = {  # another value than the default, where a mark of ours would be refused or mean nothing
    "image.pullPolicy": "Always",
    "csi.featureGates": "FuseRecovery=true",
    "csi.resetBackoff": "77s",
    "csi.metricsPort": 7777,
    "csi.maxUnavailable": "7%",
    "webhook.replicas": 7,
    "monitoring.interval": "17s",
}


def other(path: tuple[str, ...], default: Any) -> Any:
    """Return a value that is not the default, with a mark to be found again."""
    name, mark = ".".join(path), "-".join(("mark", *path)).lower()
    if name in EXACT:
        return EXACT[name]
    if path[-1] == "extraArgs":
        return [f"--{mark}"]
    match default:
        case bool():
            return not default
        case list():
            return [{"name": mark}]
        case dict():
            return {mark: mark}
        case _:
            return f"/{mark}"


def test_every_value_has_an_effect(tmp_path: Path):
    """Change one value after the other, everything else enabled, and look for a difference."""
    full = values()
    for group in ("webhook", "monitoring"):
        full[group]["enabled"] = True

    def render(path: tuple[str, ...] = (), value: Any = None) -> str:
        changed = json.loads(json.dumps(full))
        if path:
            place = changed
            for name in path[:-1]:
                place = place[name]
            place[path[-1]] = value
        file = tmp_path / "values.json"
        file.write_text(json.dumps(changed))
        done = manifests.helm(f"--values={file}")
        assert done.returncode == 0, done.stderr
        return done.stdout

    before = render()
    idle = [
        ".".join(path)
        for path, default in leaves(full)
        if render(path, other(path, default)) == before
    ]

    assert idle == []


@pytest.mark.parametrize(
    "setting",
    [
        "csi.featureGate=FuseRecovery=true",
        "csi.featureGates=FuseRecover=true",
        "csi.featureGates=FuseRecovery",
        "csi.hostPID=yes",
        "csi.kubelet.rootDir=var/lib/kubelet",
        "csi.resetBackoff=20",
        "hostPID=true",
        "webhook.replicas=0",
        "image.pullPolicy=Sometimes",
    ],
)
def test_a_typo_is_refused_with_its_place(setting: str):
    done = manifests.helm(f"--set={setting}")

    assert done.returncode != 0
    assert "values don't meet the specifications of the schema" in done.stderr
    assert setting.partition("=")[0].rpartition(".")[2] in done.stderr


@pytest.mark.parametrize("gate", [*optiontypes.GATES, "AllBeta"])
def test_every_gate_is_accepted(gate: str):
    daemonset = manifests.one(manifests.charted(f"csi.featureGates={gate}=true"), "DaemonSet")

    assert (
        started(daemonset).gates[gate] if gate in optiontypes.GATES else started(daemonset).recovery
    )


def environment(daemonset: Object) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container(daemonset)["env"]}


def test_distributions_have_their_own_directories():
    found = {}
    for path in sorted((CHART / "distributions").iterdir()):
        objects = [each for each in yaml.safe_load_all(manifests.helm(f"-f={path}").stdout) if each]
        daemonset = manifests.one(objects, "DaemonSet")
        told = environment(daemonset)
        assert config.settle({}, told).endpoint == started(daemonset).endpoint  # `csi-fluid status`
        found[path.stem] = told["KUBELET_ROOTDIR"], told["MOUNT_ROOT"]
        assert "kubelet.conf" not in str(objects)  # names of their own, often for 127.0.0.1

    assert found == {
        "k0s": ("/var/lib/k0s/kubelet", "/runtime-mnt"),
        "k3s": ("/var/lib/kubelet", "/runtime-mnt"),
        "microk8s": ("/var/snap/microk8s/common/var/lib/kubelet", "/runtime-mnt"),
        "rke2": ("/var/lib/kubelet", "/runtime-mnt"),
        "talos": ("/var/lib/kubelet", "/var/runtime-mnt"),
    }


def test_another_directory_of_kubelet_is_meant_everywhere():
    kubelet = ("csi.kubelet.rootDir=/data/kubelet", "csi.kubelet.certDir=/data/kubelet/pki")
    objects = manifests.charted(*kubelet, "runtime.mountRoot=/data/mnt")
    daemonset = manifests.one(objects, "DaemonSet")
    found = started(daemonset)

    assert "/var/lib/kubelet" not in str(daemonset)
    assert "/runtime-mnt" not in str(daemonset)
    assert found.endpoint == f"unix:{found.registration}"
    assert found.endpoint.startswith("unix:/data/kubelet/")
    within = config.settle({}, environment(daemonset))  # `kubectl exec ... csi-fluid status`
    assert (within.endpoint, within.kubelet_root) == (found.endpoint, "/data/kubelet")


def test_kubelets_certificates_are_there_also_where_its_directory_is_another():
    """kubelet keeps them at /var/lib/kubelet/pki whatever --root-dir says."""
    settings = ["csi.kubelet.rootDir=/data/kubelet"]
    only = container(manifests.one(manifests.charted(*settings), "DaemonSet"))
    settings.append("csi.useNodeAuthorization=false")
    without = manifests.one(manifests.charted(*settings), "DaemonSet")

    (mount,) = (each for each in only["volumeMounts"] if each["name"] == "kubelet-cert-dir")
    assert mount == {
        "name": "kubelet-cert-dir",
        "mountPath": "/var/lib/kubelet/pki",
        "readOnly": True,
    }
    assert "pki" not in str(without)


def test_who_may_reach_the_metrics_can_be_said():
    peer = "csi.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring"
    objects = manifests.charted(peer)
    policy = manifests.one(objects, "NetworkPolicy")["spec"]
    pod = manifests.one(objects, "DaemonSet")["spec"]["template"]

    assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert policy["ingress"] == [
        {
            "from": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
            "ports": [{"port": "metrics", "protocol": "TCP"}],
        }
    ]
    (listens,) = container(manifests.one(objects, "DaemonSet"))["ports"]
    assert listens["name"] == "metrics"


def test_a_node_whose_etc_cannot_be_written_to_needs_nothing_of_it():
    daemonset = manifests.one(manifests.charted("csi.pruneFs="), "DaemonSet")

    assert "updatedb" not in str(daemonset)
    assert not [word for word in container(daemonset)["args"] if word.startswith("--prune")]


def test_certificates_of_ones_own_take_the_place_of_the_webhooks():
    objects = manifests.charted(*WEBHOOK, "webhook.certificateSecret=mine")
    deployment = manifests.one(objects, "Deployment")

    assert "--cert-dir=/certificates" in container(deployment)["args"]
    assert {"Secret", "Role", "RoleBinding"}.isdisjoint({each["kind"] for each in objects})


def test_another_namespace_is_meant_everywhere():
    done = manifests.helm("--namespace=elsewhere", "--set=webhook.enabled=true")

    assert "fluid-system" not in done.stdout
    assert "--namespace=elsewhere" in done.stdout
