"""The webhook's decision: which pods get an agent, what it is like, and who is told why not."""

import copy
import dataclasses
import sys
from typing import Any

import pytest
from hypothesis import given, strategies as st

from csi_fluid.cli import agent as cli
from csi_fluid.webhook import rules
from tests.harness import jsonpatch
from tests.unit import webhooks
from tests.unit.webhooks import (
    ECI,
    IMAGE,
    INJECT,
    INSIDE,
    ON_NODE,
    OURS,
    PLATFORMS,
    admitted,
    agents,
    app,
    injected,
    mounts_of,
    names,
    pod,
    warnings,
)

# ---- Who asks


@pytest.mark.parametrize("key", [OURS, PLATFORMS])
def test_either_annotation_asks(key: str):
    decision = rules.decide(pod("demo-dataset", annotations={key: "auto"}), IMAGE)

    assert decision.outcome == "translated"
    assert decision.warnings == ()


@pytest.mark.parametrize("annotations", [{}, {OURS: "off"}, {PLATFORMS: "off"}])
def test_a_pod_that_does_not_ask_is_left_alone(annotations: dict[str, str]):
    assert rules.decide(pod("demo-dataset", annotations=annotations), IMAGE) == rules.Decision(
        "unasked"
    )


@pytest.mark.parametrize("value", ["", "Auto", "yes", "x" * 500])
def test_an_unknown_policy_is_a_warning_and_asks_for_nothing(value: str):
    decision = rules.decide(pod("demo-dataset", annotations={PLATFORMS: value}), IMAGE)

    (warning,) = decision.warnings
    assert decision.operations == ()
    assert PLATFORMS in warning
    assert "expected auto or off" in warning


@pytest.mark.parametrize(("ours", "outcome"), [("auto", "translated"), ("off", "unasked")])
def test_where_the_annotations_disagree_ours_decides_and_it_is_told(ours: str, outcome: str):
    other = "off" if ours == "auto" else "auto"

    decision = rules.decide(pod("x", annotations={OURS: ours, PLATFORMS: other}), IMAGE)

    assert decision.outcome == outcome
    assert "disagree" in decision.warnings[0]


def test_an_unknown_policy_leaves_the_other_annotation_in_force():
    decision = rules.decide(pod("x", annotations={OURS: "maybe", PLATFORMS: "auto"}), IMAGE)

    assert decision.outcome == "translated"
    assert len(decision.warnings) == 1


# ---- The first pass


def test_the_platforms_label_becomes_fluids():
    made = webhooks.patched(pod("demo-dataset"))

    assert made["metadata"]["labels"] == {**ECI, INJECT: "true"}
    assert made["spec"] == pod("demo-dataset")["spec"]


def test_a_pod_for_which_fluid_is_asked_already_is_silently_awaited():
    decision = rules.decide(pod("demo-dataset", labels={INJECT: "true"}), IMAGE)

    assert decision == rules.Decision("awaited")


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ({}, "no label"),
        ({"alibabacloud.com/fluid-sidecar-target": "other"}, "no label"),
        (ECI | {INJECT: "false"}, f"{INJECT}: false"),
        (ECI | {"fluid.io/enable-injection": "false"}, "fluid.io/enable-injection"),
        ({INJECT: "true", "done.sidecar.fluid.io/inject": "true"}, "has handled the pod"),
    ],
)
def test_a_pod_that_will_get_no_sidecar_is_told_why(labels: dict[str, str], why: str):
    decision = rules.decide(pod("demo-dataset", labels=labels), IMAGE)

    assert decision.outcome == "impossible"
    assert decision.operations == ()
    assert why in decision.warnings[0]


def test_a_pod_without_labels_gets_none_of_its_own():
    found = pod("demo-dataset")
    del found["metadata"]["labels"]

    assert rules.decide(found, IMAGE).outcome == "impossible"


def test_a_pod_that_the_node_plugin_heals_needs_no_agent_and_no_warning():
    labels = {"fuse.serverful.fluid.io/inject": "true"}

    assert rules.decide(pod("demo-dataset", labels=labels), IMAGE) == rules.Decision("unasked")


# ---- The agent


def test_the_walk_through_gets_an_agent_between_sidecar_and_application():
    made = admitted(pod("demo-dataset"))
    (agent,) = agents(made)

    assert names(made) == ["fluid-fuse-0", "fluid-fuse-recovery", "demo"]
    (mount,) = mounts_of(agent)
    assert mount == f"--mount={INSIDE}/jindofs-fuse={ON_NODE}/jindofs-fuse"
    assert agent["image"] == IMAGE
    assert agent["securityContext"] == {"privileged": True, "readOnlyRootFilesystem": True}
    assert agent["volumeMounts"] == [
        {"name": "fluid-fuse-recovery-tmp", "mountPath": "/tmp"},
        {
            "name": "jindofs-fuse-mount-0",
            "mountPath": "/fluid/jindofs-fuse-mount-0",
            "mountPropagation": "Bidirectional",
        },
    ]


def test_every_mount_of_the_agent_has_its_volume():
    made = admitted(pod("demo-dataset", "juice"))
    volumes = [each["name"] for each in made["spec"]["volumes"]]

    assert len(volumes) == len(set(volumes))
    assert {m["name"] for m in agents(made)[0]["volumeMounts"]} <= set(volumes)


@pytest.mark.parametrize("suffix", ["", "demo-app/1764122400000000-0a1b2c3d"])
@pytest.mark.parametrize("native", [False, True])
def test_the_program_takes_the_arguments_for_every_dataset(suffix: str, native: bool):
    made = admitted(pod("demo-dataset", "other", "juice"), native=native, suffix=suffix)
    (agent,) = agents(made)

    targets = cli._targets([word.removeprefix("--mount=") for word in mounts_of(agent)])

    paths = [claim.spec.kind.directory("/runtime-mnt", "walk2", claim.spec.name) for claim in CASES]
    leaves = [claim.spec.kind.leaf for claim in CASES]
    tail = f"/{suffix}" if suffix else ""
    assert {t.host_path for t in targets} == {
        f"{path}{tail}/{leaf}" for path, leaf in zip(paths, leaves, strict=True)
    }
    assert len({t.mount_point for t in targets}) == 3
    shown = {m["mountPath"] for m in agent["volumeMounts"]}
    assert {t.mount_point.rpartition("/")[0] for t in targets} <= shown


CASES = [webhooks.CLAIMS[name] for name in ("demo-dataset", "other", "juice")]


def test_every_argument_of_the_agent_is_one_that_the_program_takes():
    (agent,) = agents(admitted(pod("demo-dataset")))
    given = cli._parser().parse_args(agent["args"])
    leaving = agent["lifecycle"]["preStop"]["exec"]["command"]

    assert agent["command"] == leaving[:2] == ["csi-fluid", "agent"]
    assert agent["livenessProbe"]["exec"]["command"] == ["test", "-e", str(given.health_file)]
    leaver = cli._parser().parse_args(leaving[2:])
    assert leaver.leave
    assert (leaver.mount, leaver.health_file) == (given.mount, given.health_file)


def test_native_sidecars_get_a_native_agent_that_ends_after_them():
    made = admitted(pod("demo-dataset", "juice"), native=True)
    (agent,) = agents(made)

    assert names(made, "initContainers")[0] == "fluid-fuse-recovery"
    assert len(names(made, "initContainers")) == 3
    assert agent["restartPolicy"] == "Always"
    assert names(made) == ["demo"]


def test_an_init_container_that_uses_the_dataset_comes_after_a_native_agent():
    found = pod("demo-dataset")
    found["spec"]["initContainers"] = [app("demo-dataset", name="prepare")]

    made = admitted(found, native=True)

    assert names(made, "initContainers") == ["fluid-fuse-recovery", "fluid-fuse-0", "prepare"]


def test_the_sleeping_init_container_of_fluid_is_no_sidecar():
    found = pod("demo-dataset")
    found["spec"]["initContainers"] = [app("demo-dataset", name="prepare")]

    made = admitted(found)

    assert names(made, "initContainers") == ["init-fluid-fuse-0", "prepare"]
    assert names(made) == ["fluid-fuse-0", "fluid-fuse-recovery", "demo"]


def test_a_sidecar_that_does_not_name_its_mount_point_is_guarded_all_the_same():
    found = injected(pod("demo-dataset"))
    for variable in found["spec"]["containers"][0]["env"]:
        variable.pop("value", None)

    assert mounts_of(agents(webhooks.patched(found))[0]) == mounts_of(
        agents(admitted(pod("demo-dataset")))[0]
    )


def test_a_mount_point_that_is_named_may_lie_deeper():
    found = injected(pod("demo-dataset"))
    sidecar, application = found["spec"]["containers"]
    (named,) = [e for e in sidecar["env"] if e["name"] == "FLUID_FUSE_MOUNTPOINT"]
    named["value"] = "/jfs/deep/fuse"
    volume = application["volumeMounts"][0]["name"]
    (data,) = [v for v in found["spec"]["volumes"] if v["name"] == volume]
    data["hostPath"]["path"] = "/runtime-mnt/jindo/walk2/demo-dataset/deep/fuse/"

    (agent,) = agents(webhooks.patched(found))

    (mount,) = mounts_of(agent)
    assert mount == f"--mount={INSIDE}/deep/fuse={ON_NODE}/deep/fuse"


def test_a_volume_that_is_mounted_read_only_is_guarded_as_such():
    found = pod("demo-dataset", containers=[app("demo-dataset", readOnly=True)])

    (agent,) = agents(admitted(found))

    assert mounts_of(agent)[0].endswith(":ro")


def test_a_volume_that_one_container_may_write_to_is_told_to_become_read_only():
    reader, writer = app("demo-dataset", readOnly=True), app("demo-dataset", name="writer")
    found = injected(pod("demo-dataset", containers=[reader, writer]))

    (agent,) = agents(webhooks.patched(found))

    assert mounts_of(agent)[0].endswith(":ro")
    assert "read-only for container writer too" in warnings(found)


def test_the_sidecars_security_context_is_the_agents_limit():
    found = injected(pod("demo-dataset"))
    sidecar = found["spec"]["containers"][0]
    sidecar["securityContext"] |= {"seccompProfile": {"type": "RuntimeDefault"}, "runAsUser": 0}

    (agent,) = agents(webhooks.patched(found))

    assert agent["securityContext"] == sidecar["securityContext"] | {"readOnlyRootFilesystem": True}


def test_nothing_but_the_image_is_taken_from_the_webhooks_settings():
    one, two = (agents(webhooks.patched(injected(pod("juice")), image))[0] for image in "ab")

    assert one | {"image": "b"} == two


@pytest.mark.parametrize(("value", "has_it"), [("true", True), ("false", False), ("", False)])
def test_an_annotation_has_writable_volumes_healed_too(value: str, has_it: bool):
    annotations = {OURS: "auto", "fuse.csi.fluid.io/recover-writable": value}
    (agent,) = agents(admitted(pod("demo-dataset", annotations=annotations)))

    assert cli._parser().parse_args(agent["args"]).mount
    assert ("--recover-writable" in agent["args"]) is has_it


# ---- Large pods


def crowded(number: int) -> webhooks.Object:
    """Return a pod of so many sidecars, whose directories lie in each other, and applications."""
    found = pod()
    deep = "/".join(f"d{n}" for n in range(20))
    sidecars: list[webhooks.Object] = [
        {"name": f"fluid-fuse-{n}", "securityContext": PRIVILEGED} for n in range(number)
    ]
    found["spec"]["volumes"] = [
        {"name": f"v{n}", "hostPath": {"path": f"/{deep[: n % 60]}/s{n}"}} for n in range(number)
    ] + [
        {"name": f"a{n}", "hostPath": {"path": f"/{deep[: n % 60]}/s{n}/fuse"}}
        for n in range(number)
    ]
    for n, sidecar in enumerate(sidecars):
        mount = {"name": f"v{n}", "mountPath": "/jfs", "mountPropagation": "Bidirectional"}
        sidecar["volumeMounts"] = [mount]
    mounts = [
        {"name": f"a{n}", "mountPath": f"/data{n}", "mountPropagation": "HostToContainer"}
        for n in range(number)
    ]
    found["spec"]["containers"] = [*sidecars, {"name": "app", "volumeMounts": mounts}]
    return found


PRIVILEGED = {"privileged": True}


def calls_for(found: webhooks.Object) -> int:
    """Return how many functions are called to decide about a pod, those in C included."""
    called = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal called
        called += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        decision = rules.decide(found, IMAGE)
    finally:
        sys.setprofile(None)
    assert decision.outcome == "added"
    return called


def test_deciding_about_twice_the_pod_is_twice_the_work():
    assert calls_for(crowded(400)) < 2.1 * calls_for(crowded(200))


def test_an_agent_guards_so_many_mounts_as_fit_its_command_line_and_the_rest_is_told():
    found = crowded(100)

    (agent,) = agents(webhooks.patched(found))

    assert len(mounts_of(agent)) == 64
    assert "guards 64 FUSE mounts, and it has 100" in warnings(found)


@pytest.mark.parametrize("key", ["volumes", "initContainers", "containers"])
def test_a_pod_with_too_many_parts_is_not_looked_at_and_told(key: str):
    found = injected(pod("demo-dataset"))
    found["spec"][key] = [*found["spec"].get(key, ()), *({} for _ in range(10_000))]

    assert "above 10000 none is looked at" in warnings(found)


@pytest.mark.parametrize("key", ["volumeMounts", "env"])
def test_a_container_with_too_many_parts_is_not_looked_at_and_told(key: str):
    found = injected(pod("demo-dataset"))
    found["spec"]["containers"][0][key] += [{} for _ in range(10_000)]

    assert "above 10000 none is looked at" in warnings(found)


def test_a_pod_that_does_not_ask_may_have_as_many_parts_as_it_likes():
    found = pod(annotations={}, containers=[{} for _ in range(20_000)])

    assert rules.decide(found, IMAGE) == rules.Decision("unasked")


def test_a_name_too_long_to_be_one_is_repeated_in_no_message():
    found = injected(pod("part", containers=[app("part", name="x" * 100_000)]))

    assert len(warnings(found)) < 1000


@pytest.mark.parametrize("path", ["/" + "a" * 4095, "/a/" + "é" * 2047, "/a/../b", "b"])
def test_a_path_that_no_node_has_is_no_shared_directory(path: str):
    found = injected(pod("demo-dataset"))
    for volume in found["spec"]["volumes"]:
        if volume["name"] == "jindofs-fuse-mount-0":
            volume["hostPath"]["path"] = path

    assert "shares no hostPath volume" in warnings(found)


# ---- Whatever comes


POSSIBLE = st.fixed_dictionaries(
    {
        "claims": st.lists(st.sampled_from(sorted(webhooks.CLAIMS)), min_size=1, unique=True),
        "native": st.booleans(),
        "suffix": st.sampled_from(["", "pod/17-ab"]),
        "mount": st.fixed_dictionaries(
            {}, optional={"readOnly": st.booleans(), "subPath": st.just("a")}
        ),
        "labels": st.sampled_from([ECI, {INJECT: "true"}, {}]),
        "others": st.lists(st.sampled_from(["one", "fluid-fuse-9", "fluid-fuse-x"]), unique=True),
    }
)


@given(POSSIBLE)
def test_deciding_twice_is_deciding_once_and_no_other_container_is_touched(case):
    others = [{"name": name, "image": "x"} for name in case["others"]]
    first = app(*case["claims"], **case["mount"])
    before = pod(*case["claims"], containers=[first, *others], labels=dict(case["labels"]))
    seen = injected(before, native=case["native"], suffix=case["suffix"])

    once = webhooks.patched(seen)
    twice = webhooks.patched(once)

    assert once == twice
    if agents(once):
        assert rules.decide(once, IMAGE).outcome == "present"
    rest = copy.deepcopy(once)
    for place in ("initContainers", "containers"):
        if place in rest["spec"]:
            kept = [c for c in rest["spec"][place] if c["name"] != "fluid-fuse-recovery"]
            rest["spec"][place] = kept
    kept = [v for v in rest["spec"]["volumes"] if v["name"] != "fluid-fuse-recovery-tmp"]
    rest["spec"]["volumes"] = kept
    assert rest == seen


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def keys(place: Any) -> list[Any]:
    return list(range(len(place)) if isinstance(place, list) else place)


@given(st.data())
def test_a_pod_with_any_part_replaced_by_anything_is_decided(data):
    found = injected(pod("demo-dataset", "juice"))
    place: Any = found
    for _ in range(data.draw(st.integers(0, 5))):
        inner = [key for key in keys(place) if isinstance(place[key], dict | list) and place[key]]
        if not inner:
            break
        place = place[data.draw(st.sampled_from(inner))]
    key = data.draw(st.sampled_from(keys(place)))
    place[key] = data.draw(ANYTHING)

    decision = rules.decide(found, IMAGE)

    assert dataclasses.is_dataclass(decision)
    jsonpatch.apply(found, decision.operations)


def test_ordinary_sidecars_beside_native_ones_get_an_ordinary_agent():
    found = injected(pod("demo-dataset", "juice"))
    native = found["spec"]["containers"].pop(0) | {"restartPolicy": "Always"}
    found["spec"]["initContainers"] = [native]

    made = webhooks.patched(found)

    assert names(made, "initContainers") == [native["name"]]
    assert names(made)[1] == "fluid-fuse-recovery"
