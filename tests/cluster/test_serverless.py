"""Serverless pods on a node without the node plugin: their agents heal them."""

import json
from typing import Any

import pytest

from tests.cluster.admission import RANDOM_SUFFIX, FluidWebhook
from tests.cluster.cluster import Cluster
from tests.cluster.recovery import Recovery
from tests.cluster.serverlesspods import AGENT, SIDECAR, Serverless, application
from tests.cluster.waiting import ClusterError, wait_for
from tests.harness.fluidwebhook import INJECT

UNTIL_TOLD = "until [ -e /tmp/over ]; do sleep 0.1; done"


@pytest.mark.parametrize("dead", ["unmount", "stack", "refuse"])
def test_an_application_reads_on_whatever_its_client_does_about_a_dead_mount(
    serverless: Serverless, dead: str
):
    serverless.dataset(environment={"FUSE_DEAD": dead})
    pod = serverless.start("app", "demo")
    first = pod.see()
    assert first.listing == ("hello",)

    pod.crash(SIDECAR)
    second = pod.await_heal(first)
    pod.kill("main")  # it comes back with a copy of the second daemon's mount
    pod.crash(AGENT)
    pod.crash(SIDECAR)
    third = pod.await_heal(second)
    pod.crash(AGENT, SIDECAR)
    fourth = pod.await_heal(third)
    pod.crash(SIDECAR)
    pod.await_heal(fourth)

    assert pod.restarts("main") == 1


def test_ten_crashes_leave_no_more_than_two_layers_in_the_application(
    cluster: Cluster, serverless: Serverless
):
    serverless.dataset(environment={"FUSE_DEAD": "stack"})
    pod = serverless.start("app", "demo")
    view = pod.see()

    for _ in range(10):
        pod.kill(SIDECAR)
        view = pod.await_heal(view)

    assert pod.restarts("main") == pod.restarts(AGENT) == 0
    (row,) = (row for row in status_of(cluster) if f"{pod.namespace}/app" in row["users"])
    assert (row["state"], row["dataset"]) == ("healthy", f"{pod.namespace}/demo")
    assert 1 <= row["layers"] <= 2
    assert row["last_heal"]["ok"]


def status_of(cluster: Cluster) -> list[dict[str, Any]]:
    """Return what `kubectl csi-fluid status` says, in a cluster without the node plugin."""
    config = f"--kubeconfig={cluster.place.secrets}/admin.conf"
    said = cluster.enter("kubectl-csi_fluid", "status", "-o", "json", config)
    return list(json.loads(said))


def test_two_datasets_of_a_pod_heal_apart_from_each_other(serverless: Serverless):
    serverless.dataset("demo")
    serverless.dataset("more", runtime="juicefs", environment={"FUSE_FSNAME": "/JuiceFS"})
    pod = serverless.start("app", "demo", "more")
    demo, more = pod.see("/data"), pod.see("/data1")
    assert (demo.listing, more.listing) == (("hello",), ("hello",))

    pod.crash("fluid-fuse-1")
    healed = pod.await_heal(more, path="/data1")
    assert pod.see("/data") == demo
    pod.crash("fluid-fuse-0", "fluid-fuse-1")

    pod.await_heal(demo, path="/data")
    pod.await_heal(healed, path="/data1")
    assert pod.restarts("main") == 0


def test_pods_with_random_host_paths_heal_one_without_the_other(serverless: Serverless):
    serverless.dataset()
    first = serverless.start("first", "demo", annotations=RANDOM_SUFFIX)
    second = serverless.start("second", "demo", annotations=RANDOM_SUFFIX)
    before, other = first.see(), second.see()

    first.crash(SIDECAR)
    first.await_heal(before)

    assert second.see() == other


def test_pods_that_share_a_host_path_all_read_on(serverless: Serverless):
    serverless.dataset()
    pods = [serverless.start(name, "demo") for name in ("first", "second")]
    before = [pod.see() for pod in pods]

    for pod in pods:
        pod.crash(SIDECAR)

    # A dead mount between two live ones stays where it is until one of them goes.
    for pod, view in zip(pods, before, strict=True):
        pod.await_heal(view, layers=4)
        assert pod.restarts("main") == 0

    first, second = pods
    listing = second.see().listing
    first.delete()  # its client unmounts what is topmost there, whose ever that is
    second.await_listing(listing)
    second.kill("main")

    second.await_listing(listing)


def test_native_sidecars_heal_too(serverless: Serverless, injector: FluidWebhook):
    injector.native = True
    serverless.dataset()
    pod = serverless.start("app", "demo")
    before = pod.see()

    pod.crash(SIDECAR)
    pod.await_heal(before)

    pod.delete()
    assert serverless.traces() == []


def test_an_application_that_reads_only_is_healed_read_only(serverless: Serverless):
    serverless.dataset(access_mode="ReadWriteMany")  # the daemon itself lets write
    pod = serverless.start("app", "demo", read_only=True)
    before = pod.see()
    assert "ro" in before.flags[-1]

    pod.crash(SIDECAR)
    after = pod.await_heal(before)

    assert all("ro" in flags for flags in after.flags)
    with pytest.raises(ClusterError, match="Read-only file system"):
        pod.execute("main", "touch", "/data/new")


def test_a_dataset_that_can_be_written_to_is_left_alone_and_that_is_told(serverless: Serverless):
    serverless.dataset(access_mode="ReadWriteMany")
    pod = serverless.start("app", "demo")

    pod.crash(SIDECAR)

    wait_for(lambda: "--recover-writable" in pod.log(AGENT), "the agent's reason", 30)
    assert pod.see().is_broken


def test_a_dataset_that_can_be_written_to_heals_where_its_pod_says_so(serverless: Serverless):
    serverless.dataset(access_mode="ReadWriteMany")
    wanted = {"fuse.csi.fluid.io/recover-writable": "true"}
    pod = serverless.start("app", "demo", annotations=wanted)
    before = pod.see()

    pod.crash(SIDECAR)
    pod.await_heal(before)

    pod.execute("main", "touch", "/data/hello")


@pytest.mark.parametrize(("state", "grace_s"), [("alive", 30), ("alive", 1), ("dead", 30)])
def test_a_deleted_pod_ends_in_time_and_leaves_nothing_on_the_node(
    serverless: Serverless, state: str, grace_s: int
):
    serverless.dataset(environment={"FUSE_DEAD": "refuse"})
    pod = serverless.start("app", "demo", grace_s=grace_s)
    before = pod.see()
    pod.crash(SIDECAR)
    pod.await_heal(before)
    if state == "dead":
        pod.execute(SIDECAR, "sh", "-c", "kill 1", check=False)  # it may end with it

    pod.delete()

    assert serverless.traces() == []


def test_a_job_reads_on_and_completes_when_fluid_ends_its_sidecars(serverless: Serverless):
    serverless.dataset()
    pod = serverless.start_job("job", "demo", restart_policy="OnFailure", command=UNTIL_TOLD)
    before = pod.see()

    pod.crash(AGENT)
    pod.crash(SIDECAR)
    pod.await_heal(before)
    pod.execute("main", "touch", "/tmp/over")
    pod.await_end("main")
    pod.end_sidecars()

    serverless.await_complete("job")
    assert pod.restarts("main") == 0
    assert serverless.traces() == []


def test_a_job_whose_sidecars_are_native_may_never_restart_its_application(
    serverless: Serverless, injector: FluidWebhook
):
    injector.native = True
    serverless.dataset()
    pod = serverless.start_job("job", "demo", restart_policy="Never", command=UNTIL_TOLD)
    before = pod.see()

    pod.crash(AGENT, SIDECAR)
    pod.await_heal(before)
    pod.execute("main", "touch", "/tmp/over")

    serverless.await_complete("job")
    assert serverless.traces() == []


def test_a_pod_with_its_policy_off_gets_no_agent(serverless: Serverless):
    serverless.dataset()

    pod = serverless.start("app", "demo", policy="off", labels={INJECT: "true"})

    assert pod.containers() == [SIDECAR, "main"]


@pytest.mark.parametrize(
    ("more", "warning"),
    [
        ({"policy": "always"}, "is 'always', which is ignored; expected auto or off"),
        ({"labels": {"unprivileged.sidecar.fluid.io/inject": "true"}}, "it is not privileged"),
        ({"labels": {"fluid.io/enable-injection": "false"}}, "keeps Fluid from adding"),
    ],
)
def test_kubectl_prints_why_a_pod_is_not_recovered(
    serverless: Serverless, recovery: Recovery, more: dict[str, Any], warning: str
):
    serverless.dataset()

    said = recovery.try_out(application("app", "demo", **more), serverless.namespace)

    assert warning in said
