"""A writable volume may have lost writes: it stays dead unless its operator chose otherwise."""

import errno

import pytest

from recover import events
from recover.linux import namespaces
from tests.harness import Node, Propagation, until
from tests.privileged.healing import Healing, healing, shown

STRATEGIES = pytest.mark.parametrize("heal", ["namespace", "propagation"], indirect=True)


@STRATEGIES
def test_a_writable_volume_stays_dead_and_that_is_told_once(node: Node, heal: Healing):
    data = node.dataset("demo", read_only=False)
    target = heal.publish(node.pod(), data)
    main = node.pod().container("main", {"/data": target})

    for _ in range(2):
        data.daemon.kill()
        data.daemon.restart()
        until(lambda: heal.ear.of(events.Skipped), "the skip is told")

    reasons = {event.reason for event in heal.ear.of(events.Skipped)}
    assert len(reasons) == 1
    assert "--recover-writable" in reasons.pop()
    places = [event.where for event in heal.ear.of(events.Skipped)]
    assert len(places) == len(set(places))
    assert (main.sees.error("/data"), node.sees.error(target)) == (errno.ENOTCONN, errno.ENOTCONN)
    assert not heal.heals(data)


@pytest.mark.parametrize(
    ("setting", "attribute"), [(True, False), (False, True)], ids=["setting", "attribute"]
)
@pytest.mark.parametrize("strategy", ["namespace", "propagation"])
def test_a_writable_volume_heals_writable_on_request(
    node: Node, strategy: str, *, setting: bool, attribute: bool
):
    with healing(node, strategy=strategy, recover_writable=setting) as heal:
        data = node.dataset("demo", read_only=False)
        target = heal.publish(node.pod(), data, recover_writable=attribute)
        main = node.pod().container("main", {"/data": target})

        heal.crash(data)

        assert main.sees.write("/data/new.txt", b"2") == 0
        assert node.sees.read(target / "new.txt") == b"2"


def test_of_two_pods_only_the_read_only_one_heals(node: Node, heal: Healing):
    data = node.dataset("demo", read_only=False)
    ours, theirs = node.pod("reader"), node.pod("writer")
    reader = ours.container("main", {"/data": heal.publish(ours, data, read_only=True)})
    writer = theirs.container("main", {"/data": heal.publish(theirs, data)})

    heal.crash(data)

    assert shown(reader.sees, "/data").read_only
    assert reader.sees.write("/data/new.txt", b"2") == errno.EROFS
    assert writer.sees.error("/data") == errno.ENOTCONN


def test_a_read_only_volume_of_a_writable_daemon_cannot_be_written_after_the_heal(
    node: Node, heal: Healing
):
    data = node.dataset("demo", read_only=False)
    pod = node.pod()
    target = heal.publish(pod, data, read_only=True)
    containers = [
        pod.container(kind.name.lower().replace("_", "-"), {"/data": target}, kind)
        for kind in Propagation
        if kind is not Propagation.NONE or namespaces.can_mount_inside()
    ]

    heal.crash(data)

    results = {each.sees.write("/data/new.txt", b"2") for each in containers}
    assert results == {errno.EROFS}
    assert node.sees.write(target / "new.txt", b"2") == errno.EROFS


@pytest.mark.usefixtures("visits")
def test_flags_are_those_of_the_replaced_mount(node: Node, heal: Healing):
    data = node.dataset("demo")
    main = node.pod().container("main", {"/data": heal.publish(node.pod(), data)})
    main.run("mount", "-o", "remount,bind,ro,nosuid,nodev,noexec,noatime", "/data")
    before = shown(main.sees, "/data").options

    heal.crash(data)

    assert shown(main.sees, "/data").options == before
    assert {"ro", "nosuid", "nodev", "noexec", "noatime"} <= before
