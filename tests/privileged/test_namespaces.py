"""Visits to other mount namespaces: found, entered, left, and given up."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from csi_fluid.testbed.waiting import until
from recover.errors import Unanswered
from recover.linux import mountinfo, mounts, namespaces
from recover.linux.namespaces import Namespace
from recover.linux.probe import Prober
from tests import sandbox
from tests.harness import Node
from tests.privileged.healing import Healing


def namespace_of(pid: int) -> Namespace:
    return Namespace(os.stat(f"/proc/{pid}/ns/mnt").st_ino, pid)


def test_every_other_namespace_is_found_once(node: Node):
    containers = [node.pod().container(str(n), {}) for n in range(3)]

    found = list(namespaces.others())

    assert {n.inode for n in found} == {namespace_of(c.pid).inode for c in containers}
    assert len(found) == 3
    assert namespaces.home().inode not in {n.inode for n in found}
    assert namespaces.home() == Namespace(namespace_of(os.getpid()).inode, os.getpid())


def test_a_visit_sees_what_the_container_sees_and_leaves_nothing_behind(node: Node):
    data = node.dataset("demo")
    main = node.pod().container("main", {"/data": data.volume.source})
    before = namespaces.home(), Path.cwd(), Path("/").stat()

    prober = Prober()
    inside = namespace_of(main.pid)
    superblock = namespaces.visit(inside, lambda root_fd: _superblock(root_fd, "/data"), prober)

    assert namespaces.visit(inside, where, prober) == inside.inode
    assert superblock == node.sees.layers(data.volume.source)[-1].dev
    assert (namespaces.home(), Path.cwd(), Path("/").stat()) == before
    assert namespaces.visit(namespaces.home(), where, prober) == before[0].inode


def _superblock(root_fd: int, path: str) -> str:
    with mounts.closing(mounts.open_path(path, root_fd)) as fd:
        return mountinfo.superblock(fd)


def where(_: int) -> int:
    """Return the namespace this thread is in; the working directory is our /proc/self/fd."""
    return os.stat(f"../task/{threading.get_native_id()}/ns/mnt").st_ino


def test_a_path_cannot_lead_out_of_the_container(node: Node):
    main = node.pod().container("main", {})
    main.run("ln", "-s", "/proc/1/root", "/tmp/way-out")
    outside = node.machine.folder("outside")
    deep = "/.." * 20 + str(outside)

    def attempt(root_fd: int) -> list[str]:
        failures = []
        for path in ("/tmp/way-out", deep):
            try:
                os.close(mounts.open_path(path, root_fd))
            except OSError as error:
                failures.append(type(error).__name__)
        return failures

    assert len(namespaces.visit(namespace_of(main.pid), attempt, Prober())) == 2


def test_the_mount_id_of_a_descriptor_is_told_inside_too(node: Node):
    """A container has a /proc of its own, in which our process is not."""
    data = node.dataset("demo")
    main = node.pod().container("main", {"/data": data.volume.source})

    def look(root_fd: int) -> int:
        with mounts.closing(mounts.open_path("/data", root_fd)) as fd:
            return mountinfo.mount_id(fd)

    assert namespaces.visit(namespace_of(main.pid), look, Prober()) == (
        main.sees.layers("/data")[-1].mnt_id
    )


def test_a_process_that_ended_is_said_to_have_ended(node: Node):
    main = node.pod().container("main", {})
    gone = namespace_of(main.pid)
    main.close()
    released: list[bool] = []

    with pytest.raises(ProcessLookupError, match="ended"):
        namespaces.visit(gone, where, Prober(), release=lambda: released.append(True))

    assert released == [True]


def test_a_process_id_that_was_given_away_is_not_entered(node: Node):
    main = node.pod().container("main", {})
    earlier = Namespace(namespace_of(main.pid).inode + 1_000_000, main.pid)

    with pytest.raises(ProcessLookupError, match="given away"):
        namespaces.visit(earlier, where, Prober())


def test_a_file_that_is_missing_inside_is_no_ended_process(node: Node):
    main = node.pod().container("main", {})

    with pytest.raises(FileNotFoundError):
        namespaces.visit(
            namespace_of(main.pid), lambda root_fd: mounts.open_path("/absent", root_fd), Prober()
        )


def test_what_a_visit_raises_is_raised_and_it_is_released_once(node: Node):
    main = node.pod().container("main", {})
    released: list[bool] = []

    def fail(_: int) -> None:
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        namespaces.visit(
            namespace_of(main.pid), fail, Prober(), release=lambda: released.append(True)
        )

    assert released == [True]


def test_a_visit_that_hangs_is_given_up_and_released_when_it_ends(node: Node):
    data = node.dataset("demo", files={"in/a": b"1"})
    main = node.pod().container("main", {"/data": data.volume.source})
    prober = Prober(timeout_s=0.2)
    released = threading.Event()
    data.daemon.kill(signal.SIGSTOP)

    def walk(_: int) -> None:
        os.stat("/data/never-seen-before")

    with pytest.raises(Unanswered):
        namespaces.visit(namespace_of(main.pid), walk, prober, release=released.set)
    with pytest.raises(Unanswered):  # at once: one at a time for each namespace
        namespaces.visit(namespace_of(main.pid), where, prober, timeout_s=60)
    other = namespaces.visit(namespace_of(main.pid), where, prober, key="another", timeout_s=60)

    assert other == namespace_of(main.pid).inode
    assert not released.is_set()
    assert prober.abandoned == 1
    data.daemon.kill(signal.SIGCONT)
    assert released.wait(5)
    until(lambda: prober.abandoned == 0, "the thread ends")


def test_a_thousand_visits_leave_no_descriptor_and_no_thread(node: Node):
    main = node.pod().container("main", {})
    namespace, prober = namespace_of(main.pid), Prober()
    before = sandbox.Traces.of_process()

    for _ in range(1000):
        namespaces.visit(namespace, where, prober)

    assert sandbox.settle(lambda: sandbox.Traces.of_process().left_since(before)) == []


def test_the_host_is_seen_where_process_1_has_another_mount_namespace(node: Node, heal: Healing):
    script = "from recover.linux import namespaces; print(namespaces.sees_host())"
    python = [sys.executable, "-c", script]
    alone = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]

    def answer(*prefix: str) -> str:
        done = subprocess.run([*prefix, *python], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    assert answer() == "False"  # process 1 of a sandbox shares its mount namespace
    assert answer("unshare", "--mount") == "True"
    assert answer(*alone) == "False"
