"""What the webhook's agent cannot heal, and who is told why."""

import json
from typing import Any

import pytest

from csi_fluid.webhook import rules
from tests.unit import webhooks
from tests.unit.webhooks import (
    ECI,
    IMAGE,
    INJECT,
    INSIDE,
    ON_NODE,
    agents,
    app,
    injected,
    mounts_of,
    pod,
    warnings,
)


def test_where_kubelet_does_not_start_a_sidecar_again_there_is_no_agent_and_it_is_told():
    found = injected(pod("demo-dataset"))
    found["spec"]["restartPolicy"] = "Never"

    assert agents(webhooks.patched(found)) == []
    assert warnings(found) == (
        "FUSE mounts of this pod will not be recovered: container fluid-fuse-0: "
        "with restartPolicy Never, kubelet does not start it again"
    )


def test_where_kubelet_starts_a_sidecar_again_after_failures_only_that_is_told():
    found = injected(pod("demo-dataset"))
    found["spec"]["restartPolicy"] = "OnFailure"

    assert len(agents(webhooks.patched(found))) == 1
    assert "limited: container fluid-fuse-0: with restartPolicy OnFailure" in warnings(found)


@pytest.mark.parametrize("policy", ["OnFailure", "Never"])
def test_a_native_sidecar_is_started_again_whatever_the_pod_says(policy: str):
    found = injected(pod("demo-dataset"), native=True)
    found["spec"]["restartPolicy"] = policy

    assert len(agents(webhooks.patched(found))) == 1
    assert warnings(found) == ""


def test_an_ordinary_sidecar_may_have_a_restart_policy_of_its_own():
    found = injected(pod("demo-dataset"))
    found["spec"]["restartPolicy"] = "Never"
    found["spec"]["containers"][0]["restartPolicy"] = "Always"

    assert len(agents(webhooks.patched(found))) == 1
    assert warnings(found) == ""


def test_an_unprivileged_sidecar_gets_no_agent_and_the_reason_is_told():
    labels = ECI | {"unprivileged.sidecar.fluid.io/inject": "true"}
    found = injected(pod("demo-dataset", labels=labels))

    assert agents(webhooks.patched(found)) == []
    assert "not privileged" in warnings(found)


def test_a_sidecar_that_is_not_root_gets_no_agent():
    found = injected(pod("demo-dataset"))
    found["spec"]["securityContext"] = {"runAsUser": 1000}

    assert agents(webhooks.patched(found)) == []
    assert "user 1000" in warnings(found)


@pytest.mark.parametrize("whose", ["pod", "sidecar"])
def test_where_kubelet_would_refuse_an_agent_that_is_root_there_is_none_and_it_is_told(whose: str):
    found = injected(pod("demo-dataset"))
    sidecar = found["spec"]["containers"][0]
    holder = found["spec"] if whose == "pod" else sidecar
    holder["securityContext"] = holder.get("securityContext", {}) | {"runAsNonRoot": True}

    assert agents(webhooks.patched(found)) == []
    assert "container fluid-fuse-0: with runAsNonRoot, kubelet starts no agent" in warnings(found)


def test_a_sidecar_that_may_be_root_where_the_pod_says_otherwise_has_an_agent_that_may():
    found = injected(pod("demo-dataset"))
    found["spec"]["securityContext"] = {"runAsUser": 1000, "runAsNonRoot": True}
    found["spec"]["containers"][0]["securityContext"] |= {"runAsUser": 0, "runAsNonRoot": False}

    (agent,) = agents(webhooks.patched(found))

    assert agent["securityContext"]["runAsUser"] == 0
    assert agent["securityContext"]["runAsNonRoot"] is False
    assert warnings(found) == ""


def test_a_sub_path_is_told_and_gets_no_agent_by_itself():
    found = injected(pod("part"))

    assert agents(webhooks.patched(found)) == []
    assert "/data is a directory in the FUSE mount" in warnings(found)


def test_a_sub_path_beside_the_whole_volume_is_told_as_a_limit():
    apps = [app("demo-dataset"), app("demo-dataset", name="part", subPath="2026")]
    found = injected(pod("demo-dataset", containers=apps))

    assert len(agents(webhooks.patched(found))) == 1
    assert "limited: container part:" in warnings(found)


def test_a_mount_that_nothing_propagates_to_is_told():
    found = injected(pod("demo-dataset"))
    found["spec"]["containers"][1]["volumeMounts"][0]["mountPropagation"] = "None"

    assert agents(webhooks.patched(found)) == []
    assert "mountPropagation None" in warnings(found)


def test_a_dataset_that_nobody_mounts_is_told():
    found = injected(pod("demo-dataset"))
    found["spec"]["containers"][1]["volumeMounts"] = []

    assert "no container mounts its FUSE mount" in warnings(found)


def test_a_sidecar_without_a_shared_directory_is_told():
    found = injected(pod("demo-dataset"))
    for mount in found["spec"]["containers"][0]["volumeMounts"]:
        mount.pop("mountPropagation", None)

    assert "shares no hostPath volume" in warnings(found)


@pytest.mark.parametrize("spec", [{}, {"hostNetwork": True}, {"hostname": "one-for-all"}])
def test_the_agent_is_told_the_uid_of_its_pod_whose_host_name_may_be_anothers(spec: dict[str, Any]):
    found = injected(pod("demo-dataset"))
    found["spec"] |= spec

    (agent,) = agents(webhooks.patched(found))

    assert agent["env"] == [
        {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
    ]
    assert warnings(found) == ""


def test_an_agent_asks_for_nothing_where_the_pod_has_resources_of_its_own():
    found = injected(pod("demo-dataset"))
    assert agents(webhooks.patched(found))[0]["resources"]["limits"]

    found["spec"]["resources"] = {"requests": {"memory": "1Gi"}}

    assert "resources" not in agents(webhooks.patched(found))[0]


def test_a_directory_that_a_sidecar_may_not_write_to_is_none_to_mount_in():
    found = injected(pod("demo-dataset"))
    for mount in found["spec"]["containers"][0]["volumeMounts"]:
        mount["readOnly"] = True

    assert "shares no hostPath volume" in warnings(found)


def test_an_init_container_that_ends_is_no_sidecar_whatever_its_name():
    found = pod("demo-dataset", labels={INJECT: "true"})
    found["spec"]["initContainers"] = [{"name": "fluid-fuse-0", "image": "x"}]

    assert rules.decide(found, IMAGE) == rules.Decision("awaited")


def test_where_shared_directories_lie_in_each_other_the_nearest_one_counts():
    found = injected(pod("demo-dataset", "juice"))
    (around,) = [v for v in found["spec"]["volumes"] if v["name"] == "juicefs-fuse-mount-1"]
    around["hostPath"]["path"] = "/runtime-mnt"

    (agent,) = agents(webhooks.patched(found))

    assert f"--mount={INSIDE}/jindofs-fuse={ON_NODE}/jindofs-fuse" in mounts_of(agent)
    assert f"={ON_NODE}" not in {word.removesuffix("/jindofs-fuse") for word in mounts_of(agent)}
    assert "container fluid-fuse-0" not in warnings(found)  # it is no user of the other's mount


def test_a_path_that_would_be_read_as_another_argument_is_not_passed_on():
    found = json.loads(json.dumps(injected(pod("demo-dataset"))).replace("/runtime-mnt/", "/a:ro/"))

    assert agents(webhooks.patched(found)) == []
    assert "cannot be told to the agent" in warnings(found)


def test_one_of_two_datasets_is_guarded_where_the_other_cannot_be():
    found = injected(pod("demo-dataset", "juice"))
    for each in found["spec"]["containers"]:
        if each["name"] == "fluid-fuse-0":
            each["securityContext"] = {"privileged": False}

    (agent,) = agents(webhooks.patched(found))

    assert len(mounts_of(agent)) == 1
    assert "/juicefs-fuse" in mounts_of(agent)[0]
    assert "limited: container fluid-fuse-0" in warnings(found)


def test_a_users_volume_of_the_agents_name_is_not_taken():
    found = injected(pod("demo-dataset"))
    found["spec"]["volumes"].append({"name": "fluid-fuse-recovery-tmp", "emptyDir": {}})

    assert agents(webhooks.patched(found)) == []
    assert "name that otherwise" in warnings(found)
