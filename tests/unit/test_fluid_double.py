"""The stand-in for Fluid names things as Fluid does; the values are those of a real cluster."""

import pytest

from tests.cluster import fluidobjects
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
