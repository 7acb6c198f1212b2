"""The manifests: each object sound by itself, and all of them in step with the program."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import csi_fluid
from csi_fluid import config, driver
from csi_fluid.cli import usage
from csi_fluid.cli.start import _parser
from csi_fluid.kube import calls
from csi_fluid.kubectl import rights
from csi_fluid.kubelet import Kubelet
from tests import manifests
from tests.manifests import FOLDER, Object

OVERLAYS = sorted(p.parent.relative_to(FOLDER).as_posix() for p in FOLDER.glob("overlays/*/k*"))
DAEMONSET = "csi-nodeplugin-fluid"
DOCS = FOLDER.parent / "docs"
KUSTOMIZE = "kustomize.config.k8s.io"


def container(daemonset: Object | None = None) -> Object:
    every = (daemonset or manifests.base("daemonset"))["spec"]["template"]["spec"]["containers"]
    (found,) = (each for each in every if each["name"] not in {"holder", "reader"})
    return dict(found)


def pod() -> Object:
    return dict(manifests.base("daemonset")["spec"]["template"]["spec"])


def started(daemonset: Object) -> config.Settings:
    """Return what the program makes of a DaemonSet's arguments and environment."""
    only = container(daemonset)
    environ = {each["name"]: each.get("value", "node-1") for each in only["env"]}
    words = [re.sub(r"\$\((\w+)\)", lambda m: environ[m[1]], word) for word in only["args"]]
    return usage.parse(_parser(), words, required=("nodeid", "endpoint"))[0]


def values(tree: Any, key: str) -> Iterator[Any]:
    """Yield every value of a key, at any depth."""
    if isinstance(tree, dict):
        yield from (value for name, value in tree.items() if name == key)
        for value in tree.values():
            yield from values(value, key)
    elif isinstance(tree, list):
        for value in tree:
            yield from values(value, key)


# ---- The files


@pytest.mark.parametrize("path", manifests.files(), ids=lambda p: p.relative_to(FOLDER).as_posix())
def test_every_file_holds_one_object_or_one_patch(path: Path):
    (found,) = manifests.read(path)

    if isinstance(found, list):  # a JSON patch
        assert {step["op"] for step in found} <= {"test", "add", "replace", "remove"}
    else:
        assert found["apiVersion"]
        assert found["kind"]


def test_the_base_lists_every_file_that_lies_beside_it():
    listed = manifests.base("kustomization")["resources"]

    assert set(listed) == {p.name for p in (FOLDER / "base").iterdir()} - {"kustomization.yaml"}


@pytest.mark.parametrize("folder", ["base", *OVERLAYS])
def test_kubectl_renders_every_folder_without_an_object_twice(folder: str):
    objects = manifests.rendered(folder)
    names = [(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in objects]

    assert len(names) == len(set(names))
    assert KUSTOMIZE not in {o["apiVersion"].partition("/")[0] for o in objects}


@pytest.mark.parametrize("folder", ["base", *OVERLAYS])
def test_deleting_a_folder_keeps_the_namespace_in_which_fluid_lives(folder: str):
    assert "Namespace" not in {o["kind"] for o in manifests.rendered(folder)}


@pytest.mark.parametrize("folder", ["base", *OVERLAYS])
def test_everything_with_a_namespace_is_in_fluids(folder: str):
    namespaces = {
        o["metadata"].get("namespace", "fluid-system") for o in manifests.rendered(folder)
    }

    assert namespaces == {"fluid-system"}


def test_one_image_of_this_version_is_named_everywhere():
    images = {i for p in manifests.files() for d in manifests.read(p) for i in values(d, "image")}

    assert images == {f"localhost/csi-fluid:{csi_fluid.__version__}"}


def test_the_docs_name_the_image_of_this_version():
    text = "".join(path.read_text(encoding="utf-8") for path in DOCS.glob("*.md"))

    assert set(re.findall(r"localhost/csi-fluid:([\w.-]+)", text)) == {csi_fluid.__version__}


# ---- The DaemonSet and the program


@pytest.mark.parametrize("folder", ["base", *OVERLAYS])
def test_the_program_takes_every_argument_and_none_is_without_effect(folder: str):
    found = started(manifests.one(manifests.rendered(folder), "DaemonSet"))

    assert found.without_effect == ()


def test_every_environment_variable_is_one_that_the_program_reads():
    known = {name for option in config.OPTIONS for name in option.env}

    assert {each["name"] for each in container()["env"]} <= known


def test_kubelet_and_the_program_agree_on_every_path():
    settings = started(manifests.base("daemonset"))
    mounts = {each["name"]: each["mountPath"] for each in container()["volumeMounts"]}
    paths = {v["name"]: v["hostPath"]["path"] for v in pod()["volumes"] if "hostPath" in v}

    assert settings.endpoint == f"unix:{settings.registration}"
    assert settings.endpoint == config.settle({}, {}).endpoint  # where `status` looks
    assert mounts["kubelet-dir"] == paths["kubelet-dir"] == settings.kubelet_root
    assert mounts["fluid-src-dir"] == paths["fluid-src-dir"] == settings.mount_root
    assert paths["plugin-dir"] == str(Kubelet(settings.kubelet_root).own)


@pytest.mark.parametrize("folder", ["base", *OVERLAYS])
def test_a_command_in_the_pod_finds_the_plugin_without_flags(folder: str):
    """`kubectl exec POD -- csi-fluid status` has the environment alone."""
    daemonset = manifests.one(manifests.rendered(folder), "DaemonSet")
    told = {each["name"]: each.get("value", "node-1") for each in container(daemonset)["env"]}
    plugin, command = started(daemonset), config.settle({}, told)

    assert (command.endpoint, command.state) == (plugin.endpoint, plugin.state)
    beside_the_state = Kubelet(plugin.kubelet_root).own / "holder/socket"
    assert plugin.holder in {None, beside_the_state}


def test_mounts_travel_where_they_must():
    mounts = {each["name"]: each.get("mountPropagation") for each in container()["volumeMounts"]}

    assert mounts["kubelet-dir"] == "Bidirectional"
    assert mounts["fluid-src-dir"] == "HostToContainer"
    assert {v for k, v in mounts.items() if k not in {"kubelet-dir", "fluid-src-dir"}} == {None}
    assert pod()["hostPID"] is True


def test_no_probe_asks_what_a_hung_daemon_could_keep_waiting():
    probes = {kind: container()[f"{kind}Probe"]["httpGet"] for kind in PROBES}

    assert {kind: probe["path"] for kind, probe in probes.items()} == PROBES
    assert {probe["port"] for probe in probes.values()} == {"metrics"}
    (port,) = container()["ports"]
    assert started(manifests.base("daemonset")).metrics_addr == ("", port["containerPort"])


PROBES = {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}


def test_every_volume_is_mounted_and_every_mount_has_its_volume():
    mounted = {each["name"] for each in container()["volumeMounts"]}

    assert mounted == {each["name"] for each in pod()["volumes"]}


def test_the_selector_finds_the_pods():
    spec = manifests.base("daemonset")["spec"]

    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


# ---- The gate


def sed(text: str) -> str:
    """Do what the published walk-through does to the DaemonSet."""
    command = ("sed", "s/FuseRecovery=false/FuseRecovery=true/g")
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def test_the_walk_through_turns_recovery_on_and_changes_nothing_else():
    text = (FOLDER / "base/daemonset.yaml").read_text(encoding="utf-8")
    before, after = text.splitlines(), sed(text).splitlines()

    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]

    assert [b.strip() for _, b in changed] == ["- --feature-gates=FuseRecovery=true"]
    assert not started(manifests.base("daemonset")).recovery


def test_the_recovery_overlay_is_the_walk_through():
    base, overlay = manifests.rendered("base"), manifests.rendered("overlays/recovery")
    name = "--feature-gates=FuseRecovery="
    daemonset = manifests.one(base, "DaemonSet")
    args = container(daemonset)["args"]
    args[args.index(f"{name}false")] = f"{name}true"

    assert overlay == base
    assert started(daemonset).recovery


# ---- What Kubernetes is told


def test_the_csi_driver_is_the_plugins():
    found = manifests.base("csidriver")

    assert found["metadata"]["name"] == driver.NAME
    assert found["spec"] == {
        "attachRequired": False,
        "podInfoOnMount": True,
        "fsGroupPolicy": "None",
        "requiresRepublish": False,
        "seLinuxMount": False,
    }


def test_the_role_is_bound_to_the_account_that_the_pods_run_under():
    account, binding = manifests.base("serviceaccount"), manifests.base("clusterrolebinding")
    metadata = account["metadata"]
    subject = {"kind": "ServiceAccount", **{k: metadata[k] for k in ("name", "namespace")}}

    assert binding["subjects"] == [subject]
    assert binding["roleRef"]["name"] == manifests.base("clusterrole")["metadata"]["name"]
    assert pod()["serviceAccountName"] == metadata["name"]


def granted(role: Object) -> set[tuple[str, str, str]]:
    """Return what a role allows, as group, resource and verb."""
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def called(rules: tuple[calls.Rule, ...]) -> set[tuple[str, str, str]]:
    return {
        (r.group, resource, verb) for r in rules for resource in r.resources for verb in r.verbs
    }


def test_the_role_allows_exactly_the_calls_that_the_plugin_makes():
    assert granted(manifests.base("clusterrole")) == called(calls.ACCOUNT)


@pytest.mark.parametrize(
    ("name", "rules"),
    [("reset-backoff", calls.RESET_BACKOFF), ("service-account", calls.NODE)],
)
def test_a_component_adds_the_calls_of_its_feature_for_the_same_account(
    name: str, rules: tuple[calls.Rule, ...]
):
    (role,) = manifests.read(FOLDER / "components" / name / "clusterrole.yaml")
    (binding,) = manifests.read(FOLDER / "components" / name / "clusterrolebinding.yaml")

    assert granted(role) == called(rules)
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == manifests.base("clusterrolebinding")["subjects"]


def test_back_off_is_reset_only_where_the_overlay_says_so():
    base = started(manifests.base("daemonset"))
    overlay = started(manifests.one(manifests.rendered("overlays/reset-backoff"), "DaemonSet"))

    assert base.reset_backoff_s is None
    assert overlay.reset_backoff_s
    assert overlay.recovery


def test_without_kubelets_credential_nothing_of_it_is_mounted():
    daemonset = manifests.one(manifests.rendered("overlays/service-account"), "DaemonSet")

    assert "kubelet.conf" not in str(daemonset)
    assert started(daemonset).kube == started(manifests.base("daemonset")).kube


def test_every_component_is_explained_where_people_install():
    text = (DOCS / "install.md").read_text(encoding="utf-8")
    components = {folder.name for folder in (FOLDER / "components").iterdir()}

    assert {name for name in components if f"| `{name}` |" not in text} == set()


def test_every_mount_of_the_node_is_explained():
    text = (DOCS / "security.md").read_text(encoding="utf-8")
    paths = {v["hostPath"]["path"] for v in pod()["volumes"] if "hostPath" in v}

    assert {path for path in paths if f"`{path}`" not in text} == set()


def test_the_page_of_the_cluster_command_asks_for_exactly_its_rights():
    text = (DOCS / "kubectl.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    role, cluster_role = yaml.safe_load_all(block)

    assert granted(role) == called(rights.PLUGINS)
    assert granted(cluster_role) == called(rights.CLUSTER)


def test_only_the_daemonset_gets_the_accounts_token():
    assert manifests.base("serviceaccount")["automountServiceAccountToken"] is False
    assert pod()["automountServiceAccountToken"] is True
