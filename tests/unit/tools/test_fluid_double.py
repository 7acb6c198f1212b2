"""The stand-in for Fluid names things as Fluid does; the values are those of a real cluster."""

import copy
import json

import pytest

from tests.cluster import fluidobjects, objects
from tests.cluster.fluid import application, injected
from tests.cluster.fluidobjects import Spec
from tests.cluster.fluidruntimes import KINDS

JINDO = Spec("default", "demo-dataset")


def test_a_jindo_volume_says_what_fluids_own_says():
    volume = fluidobjects.volume(JINDO)

    assert volume["metadata"]["name"] == "default-demo-dataset"
    assert volume["metadata"]["labels"] == {
        "fluid.io/dataset-id": "default-demo-dataset",
        "fluid.io/s-default-demo-dataset": "true",
    }
    assert volume["spec"]["csi"] == {
        "driver": "fuse.csi.fluid.io",
        "volumeHandle": "default-demo-dataset",
        "volumeAttributes": {
            "fluid_path": "/runtime-mnt/jindo/default/demo-dataset/jindofs-fuse",
            "mount_pod_node_selector_key": "fluid.io/f-default-demo-dataset",
            "mount_type": "jindo",
            "runtime_name": "demo-dataset",
            "runtime_namespace": "default",
        },
    }


def test_a_jindo_client_is_found_by_role_and_release_and_mounts_below_jfs():
    made = fluidobjects.fuse_daemonset(JINDO)

    (container,) = made["spec"]["template"]["spec"]["containers"]
    labels = made["spec"]["template"]["metadata"]["labels"]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    assert made["metadata"]["name"] == "demo-dataset-jindofs-fuse"
    assert (labels["role"], labels["release"]) == ("jindofs-fuse", "demo-dataset")
    assert container["name"] == "jindofs-fuse"
    assert variables["FLUID_FUSE_MOUNTPOINT"] == "/jfs/jindofs-fuse"
    assert container["volumeMounts"][0]["mountPropagation"] == "Bidirectional"


def test_the_longest_label_has_62_characters():
    name = "x" * (62 - len("fluid.io/f-n-"))

    assert len(Spec("n", name, uid="uid").fuse_label) == 62
    assert Spec("n", f"{name}x", uid="uid").fuse_label == "fluid.io/f-uid"


def test_a_reference_has_its_own_names_and_the_physical_handle():
    pv, pvc = fluidobjects.reference(JINDO, Spec("other", "alias"), "dir/a")

    assert pv["metadata"]["name"] == "other-alias"
    assert pv["spec"]["claimRef"]["namespace"] == "other"
    assert pv["spec"]["csi"]["volumeHandle"] == "default-demo-dataset"
    assert pv["spec"]["csi"]["volumeAttributes"]["fluid_sub_path"] == "dir/a"
    assert pvc["metadata"]["labels"]["fluid.io/dataset.referring-name"] == "demo-dataset"


def test_an_efc_volume_has_no_label_of_its_own_but_the_session_managers_folder():
    attributes = fluidobjects.volume_attributes(Spec("default", "demo", "efc"))

    assert "mount_pod_node_selector_key" not in attributes
    assert attributes["efc_sessmgr_workdir"] == "/runtime-mnt/efc-sock"


@pytest.mark.parametrize("runtime", KINDS)
def test_every_kind_of_runtime_mounts_where_its_volume_says(runtime: str):
    spec = Spec("default", "demo", runtime)
    pod = fluidobjects.fuse_daemonset(spec)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    point = {entry["name"]: entry["value"] for entry in container["env"]}["FLUID_FUSE_MOUNTPOINT"]
    inside = container["volumeMounts"][0]["mountPath"]
    on_node = pod["volumes"][0]["hostPath"]["path"]

    assert point.replace(inside, on_node, 1) == spec.fluid_path


@pytest.mark.parametrize("runtime", KINDS)
def test_the_plugin_finds_every_mount_by_what_its_volume_says_of_it(runtime: str):
    spec = Spec("n", "d", runtime)
    (container,) = fluidobjects.fuse_daemonset(spec)["spec"]["template"]["spec"]["containers"]
    told = {entry["name"]: entry["value"] for entry in container["env"]}

    assert spec.kind.mount_type in f"{spec.fluid_path} {told.get('FUSE_FSNAME', '')}"


def test_a_volume_of_an_old_release_does_not_name_its_label():
    attributes = fluidobjects.volume_attributes(Spec("n", "d", names_label=False))

    assert set(attributes) == {"fluid_path", "mount_type", "runtime_namespace", "runtime_name"}


# Of each kind: its FUSE mount, what the PV says of its mount, and its DaemonSet.
KNOWN = {
    "jindo": ("/runtime-mnt/jindo/n/d/jindofs-fuse", "jindo", "d-jindofs-fuse"),
    "alluxio": ("/runtime-mnt/alluxio/n/d/alluxio-fuse", "fuse.alluxio-fuse", "d-fuse"),
    "juicefs": ("/runtime-mnt/juicefs/n/d/juicefs-fuse", "JuiceFS", "d-fuse"),
    "thin": ("/runtime-mnt/thin/n/d/thin-fuse", "fuse", "d-fuse"),
    "efc": ("/runtime-mnt/efc/n/d/efc-fuse", "alifuse.aliyun-alinas-efc", "d-fuse"),
    "vineyard": ("/runtime-mnt/vineyard/n/d/vineyard-fuse", "vineyard-fuse", "d-fuse"),
    "cache": ("/runtime-mnt/cache/n/d/cache-fuse", "cache", "d-client"),
}


def test_every_kind_of_runtime_has_the_names_that_fluid_gives_it():
    found = {}
    for runtime in KINDS:
        spec = Spec("n", "d", runtime)
        told = fluidobjects.volume_attributes(spec)
        name = fluidobjects.fuse_daemonset(spec)["metadata"]["name"]
        found[runtime] = (told["fluid_path"], told["mount_type"], name)

    assert found == KNOWN


def test_only_a_cache_client_has_the_mounts_own_directory():
    for runtime in KINDS:
        spec = Spec("n", "d", runtime)
        pod = fluidobjects.fuse_daemonset(spec)["spec"]["template"]["spec"]

        is_leaf = pod["volumes"][0]["hostPath"]["path"] == spec.fluid_path
        assert is_leaf == (runtime == "cache"), runtime


def test_only_the_claims_of_juicefs_and_cache_number_their_client():
    key = "fuse.runtime.fluid.io/generation"
    claims = {kind: fluidobjects.claim(Spec("n", "d", kind)) for kind in KINDS}

    numbers = {kind: claim["metadata"]["labels"].get(key) for kind, claim in claims.items()}
    assert {kind: n for kind, n in numbers.items() if n} == {"juicefs": "1", "cache": "1"}


@pytest.mark.parametrize(
    ("runtime", "policy", "shown"),
    [
        ("juicefs", "OnFuseChanged", ["/runtime-mnt/juicefs/n/d/.meta/fuse"]),
        ("juicefs", "OnDemand", []),
        ("cache", "OnFuseChanged", []),
    ],
)
def test_only_juicefs_shows_its_number_on_the_node_and_only_for_one_policy(
    runtime: str, policy: str, shown: list[str]
):
    spec = Spec("n", "d", runtime, clean_policy=policy)
    pod = fluidobjects.fuse_daemonset(spec)["spec"]["template"]["spec"]

    names = {v["name"] for v in pod["volumes"] if "downwardAPI" in v}
    mounts = pod["containers"][0]["volumeMounts"]
    assert [m["mountPath"] for m in mounts if m["name"] in names] == shown


def test_the_number_is_no_part_of_the_daemonsets_selector():
    made = fluidobjects.fuse_daemonset(Spec("n", "d", "juicefs"))["spec"]

    key = "fuse.runtime.fluid.io/generation"
    assert made["template"]["metadata"]["labels"][key] == "1"
    assert key not in made["selector"]["matchLabels"]


def test_only_an_efc_volume_waits_for_any_claim():
    without = {k for k in KINDS if "claimRef" not in fluidobjects.volume(Spec("n", "d", k))["spec"]}

    assert without == {"efc"}


def test_a_symlink_is_asked_for_at_the_runtime_and_told_by_the_volume():
    spec = Spec("n", "d", symlink=True)
    runtime, volume = fluidobjects.runtime(spec), fluidobjects.volume(spec)

    (entry,) = json.loads(runtime["metadata"]["annotations"]["data.fluid.io/metadataList"])
    label = {"fluid.io/node-publish-method": "symlink"}
    assert (entry["labels"], entry["selector"]["kind"]) == (label, "PersistentVolume")
    assert label.items() <= volume["metadata"]["labels"].items()
    assert volume["spec"]["csi"]["volumeAttributes"]["node_publish_method"] == "symlink"


@pytest.mark.parametrize(
    ("physical", "virtual", "mode"),
    [
        ("ReadOnlyMany", "ReadWriteMany", "ReadOnlyMany"),
        ("ReadWriteMany", "ReadWriteOnce", "ReadWriteOnce"),
        ("ReadWriteMany", "ReadOnlyMany", "ReadOnlyMany"),
    ],
)
def test_what_refers_to_a_read_only_dataset_is_read_only(physical: str, virtual: str, mode: str):
    made = fluidobjects.reference(
        Spec("n", "d", access_mode=physical), Spec("o", "alias", access_mode=virtual)
    )

    assert [part["spec"]["accessModes"] for part in made] == [[mode], [mode]]


def test_a_reference_with_a_long_name_is_marked_with_its_own_uid():
    virtual = Spec("other", "x" * 60, uid="its-uid")

    for part in fluidobjects.reference(JINDO, virtual):
        assert part["metadata"]["labels"]["fluid.io/s-its-uid"] == "true"


SERVERFUL = {"fuse.serverful.fluid.io/inject": "true"}


def two_claims() -> objects.Object:
    """Return a pod with a dataset and a claim of another kind."""
    made = objects.pod(
        "app",
        labels=SERVERFUL,
        volumes=[objects.claim("a", "demo"), objects.claim("b", "disk")],
        mounts=[objects.mount("a", "/a"), objects.mount("b", "/b")],
    )
    (main,) = made["spec"]["containers"]
    made["spec"]["initContainers"] = [copy.deepcopy(main)]
    return made


def test_injection_changes_only_the_mounts_of_datasets_outside_init_containers():
    before = two_claims()
    made = injected(before, {"demo"})

    (main,), (init,) = made["spec"]["containers"], made["spec"]["initContainers"]
    assert [m.get("mountPropagation") for m in main["volumeMounts"]] == ["HostToContainer", None]
    assert init == before["spec"]["initContainers"][0]
    assert made["metadata"]["annotations"] == {"fluid.io/datasets-in-use": "demo"}
    assert before == two_claims()


def test_injection_leaves_a_propagation_that_the_pod_chose():
    made = application("app", "demo", propagation="None", labels=SERVERFUL)

    assert made["spec"]["containers"][0]["volumeMounts"][0]["mountPropagation"] == "None"


@pytest.mark.parametrize("label", ["fluid.io/enable-injection", "done.sidecar.fluid.io/inject"])
def test_injection_leaves_pods_alone_that_say_so(label: str):
    pod = two_claims()
    pod["metadata"]["labels"][label] = "false" if "enable" in label else "true"

    assert injected(pod, {"demo"}) == pod


def test_injection_leaves_pods_alone_that_do_not_ask_or_have_no_dataset():
    bare = objects.pod("app", labels=SERVERFUL)
    del bare["spec"]["volumes"]
    silent = two_claims()
    silent["metadata"]["labels"] = {}

    assert injected(bare, {"demo"}) == bare
    assert injected(silent, {"demo"}) == silent
    assert "annotations" not in injected(two_claims(), {"other"})["metadata"]
