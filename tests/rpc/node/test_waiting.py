"""Publishes that wait, that are given up, and many at once."""

import threading
import time
from concurrent import futures
from typing import Any

import grpc
import pytest

from csi_fluid.testbed.waiting import until
from tests.rpc.node.world import SKIP_CHECK, World
from tests.rpc.serving import refusal


@pytest.mark.expects_log("NodePublishVolume UNAVAILABLE")
def test_a_deadline_is_answered_before_it_ends_with_what_is_missing(world: World):
    with refusal(grpc.StatusCode.UNAVAILABLE) as refused:
        world.publish(
            timeout=3, attributes={SKIP_CHECK: "", "fluid_path": str(world.source / "absent")}
        )

    assert "absent does not exist: no FUSE daemon has mounted there yet" in refused.message
    assert refused.seconds > 1.5
    assert world.everything() == []


@pytest.mark.expects_log("NodePublishVolume UNAVAILABLE: nothing is mounted at")
@pytest.mark.usefixtures("hurried")
def test_a_plain_directory_is_not_taken_for_a_fuse_mount(world: World):
    with refusal(grpc.StatusCode.UNAVAILABLE):
        world.publish(attributes={SKIP_CHECK: "None"})

    assert world.everything() == []


@pytest.mark.expects_log("NodePublishVolume ABORTED: another operation", "ABORTED: .*unpublished")
def test_a_second_publish_of_a_target_is_aborted_and_unpublish_ends_the_first(
    world: World, pool: futures.Executor
):
    first = world.publish_later(pool)
    with refusal(grpc.StatusCode.ABORTED) as refused:
        world.publish()
    assert "try again when it has ended" in refused.message

    world.unpublish()
    with refusal(grpc.StatusCode.ABORTED):
        first.result(5)
    assert (world.everything(), world.plugin.store.publications()) == ([], ())


@pytest.mark.expects_log("UNAVAILABLE: 4 publishes wait for FUSE mounts already", "ABORTED")
def test_waiting_publishes_never_use_up_the_server(world: World, pool: futures.Executor):
    calls = [world.publish_later(pool, target_path=f"{world.pods}/{n}") for n in range(4)]
    with refusal(grpc.StatusCode.UNAVAILABLE) as refused:
        world.publish(
            target_path=f"{world.pods}/5",
            attributes={SKIP_CHECK: "", "fluid_path": str(world.source / "absent")},
        )

    assert refused.seconds < 1
    assert world.client.ready()
    world.publish()
    world.unpublish()
    for n, call in enumerate(calls):
        world.unpublish(world.pods / str(n))
        with refusal(grpc.StatusCode.ABORTED):
            call.result(5)


@pytest.mark.expects_log("NodePublishVolume ABORTED: the caller gave up")
def test_a_caller_that_gives_up_frees_its_place(world: World):
    attributes = {SKIP_CHECK: "", "fluid_path": str(world.source / "absent")}
    call = world.node.NodePublishVolume.future(world.request(attributes=attributes), timeout=20)
    until(lambda: world.waiting, "the publish waits")
    call.cancel()

    until(lambda: not world.waiting, "the publish gave up")
    until(lambda: world.plugin.calls, "the call ended")
    world.publish()


@pytest.mark.expects_log("NodePublishVolume ABORTED: .*unpublished")
def test_unpublish_wins_over_a_publish_that_is_about_to_begin(world: World, pool: futures.Executor):
    target, claims = str(world.target), world.plugin.claims._held
    with world.plugin.locks.hold(target):  # as a heal would
        publish = pool.submit(world.publish)
        until(lambda: target in claims, "the publish is under way")
        unpublish = pool.submit(world.unpublish)
        until(lambda: claims[target].revoked, "the unpublish takes its place")
    with refusal(grpc.StatusCode.ABORTED):
        publish.result(5)
    unpublish.result(5)

    assert (world.everything(), world.plugin.store.publications()) == ([], ())


@pytest.mark.expects_log("NodePublishVolume ABORTED: the caller gave up")
def test_stopping_ends_a_publish_that_waits(world: World, pool: futures.Executor):
    call = world.publish_later(pool)
    started = time.monotonic()
    world.plugin.server.stop(0.2)

    assert time.monotonic() - started < 1
    assert isinstance(call.exception(5), grpc.RpcError)
    until(lambda: not world.waiting, "the publish gave up")
    assert world.everything() == []


def test_many_targets_are_published_and_unpublished_at_once(world: World, pool: futures.Executor):
    places = [world.pods / str(n) for n in range(100)]
    list(pool.map(lambda place: world.publish(target_path=str(place)), places))
    assert len(world.plugin.store.publications()) == 100

    list(pool.map(world.unpublish, places))
    assert (world.everything(), world.plugin.store.publications()) == ([], ())


@pytest.mark.expects_log("NodePublishVolume ABORTED")
def test_publish_and_unpublish_of_one_target_at_once_leave_one_truth(
    world: World, pool: futures.Executor
):
    barrier = threading.Barrier(8)

    def attempt(number: int) -> grpc.StatusCode:
        barrier.wait()
        call: Any = None
        try:
            world.publish() if number % 2 else world.unpublish()
        except grpc.RpcError as error:
            call = error
        return call.code() if call else grpc.StatusCode.OK

    for _ in range(20):
        results = set(pool.map(attempt, range(8)))
        assert results <= {grpc.StatusCode.OK, grpc.StatusCode.ABORTED}
        rows = [row.target for row in world.plugin.store.publications()]
        assert world.everything() == rows
