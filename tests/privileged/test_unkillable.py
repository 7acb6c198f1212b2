"""A daemon that has read a request and never answers keeps nobody of ours from ending.

The caller of such a request sleeps where no signal reaches it, and its process cannot end.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from csi_fluid.testbed import plugin as plugins, programs
from csi_fluid.testbed.plugin import Plugin
from tests.harness import Dataset, Node, Propagation, until
from tests.harness.wirefuse import WireFuse

PATIENCE = "--probe-timeout=1s"


@pytest.fixture
def hung(node: Node) -> Iterator[Dataset]:
    """Make a dataset whose daemon answers until it is told not to."""
    data = node.dataset("hung", WireFuse)
    yield data
    data.daemon.kill()  # which ends all requests, so that what sleeps can end


def hang(data: Dataset, operation: str = "ALL") -> None:
    assert isinstance(data.daemon.filesystem, WireFuse)
    data.daemon.filesystem.rule(operation, "hang")


def sleepers() -> list[int]:
    """Return the processes with a thread that waits for a FUSE daemon's answer, at this moment.

    A kill wakes it once before it sleeps on, which a busy machine may put off: `until(sleepers)`.
    """
    found = set()
    for task in Path("/proc").glob("[0-9]*/task/*/wchan"):
        with contextlib.suppress(OSError):
            if task.read_text() == "request_wait_answer":
                found.add(int(task.parts[2]))
    return sorted(found)


def asleep(data: Dataset) -> list[int]:
    """Return them once the daemon has read a request: no kill ends them from then on."""
    filesystem = data.daemon.filesystem
    assert isinstance(filesystem, WireFuse)
    until(lambda: filesystem.has_left_one, "a request is read")
    return until(sleepers, "its caller sleeps")


def child(pid: int) -> int:
    """Return the process that asks for a plugin."""
    for name in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if b"probechild" in Path(f"/proc/{name}/cmdline").read_bytes():
            return int(name)
    return 0


def says(plugin: Plugin, words: str) -> bool:
    return words in plugin.log.read_text(errors="replace")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_plugin_that_asks_a_silent_daemon_ends_and_the_next_one_serves(
    node: Node, hung: Dataset, number: signal.Signals
):
    other = node.dataset("other")
    plugin = node.plugin(options=[PATIENCE])
    pod = node.pod()
    target, healing = pod.publish(hung), pod.publish(other)
    hang(hung)
    until(lambda: says(plugin, "does not answer"), "the hang is told")
    for call in (plugin.client.stats, plugin.client.publish):
        with pytest.raises(grpc.RpcError):
            call(hung.volume, target)
    assert asleep(hung)
    assert plugin.pid not in sleepers()

    os.kill(plugin.pid, number)

    until(lambda: not plugin.alive, "its end", timeout_s=5)
    until(sleepers, "who is left behind")
    plugin.start()
    other.daemon.kill()
    other.daemon.restart()
    until(lambda: node.sees.error(healing) == 0, "the next plugin heals")


def test_when_the_one_that_asks_is_killed_while_it_sleeps_another_one_asks(
    node: Node, hung: Dataset
):
    """As the kernel does when memory is short: what is left of it must not keep the lines open."""
    other = node.dataset("other")
    plugin = node.plugin(options=[PATIENCE])
    pod = node.pod()
    pod.publish(hung)
    target = pod.publish(other)
    hang(hung)
    until(lambda: says(plugin, "does not answer"), "the hang is told")
    before = child(plugin.pid)
    assert before in asleep(hung)

    os.kill(before, signal.SIGKILL)

    for _ in range(3):
        plugin.client.stats(other.volume, target)
    assert child(plugin.pid) != before
    until(lambda: before in sleepers(), "who is left behind")


@pytest.fixture(params=["as this machine has them", "version 2 alone"])
def group(workdir: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Make a control group, as a container has one."""
    top = Path("/sys/fs/cgroup")
    if is_alone := request.param == "version 2 alone":
        programs.run("mount", "-t", "cgroup2", "cgroup", top)
    made = (top if (top / "cgroup.procs").exists() else top / "pids") / workdir.name
    try:
        made.mkdir()
    except OSError as error:
        pytest.skip(f"needs to make control groups: {error}")
    yield made
    made.rmdir()
    if is_alone:
        programs.run("umount", top)


def namespaces_of(pid: int) -> set[Path]:
    """Return the control group namespaces of a process's threads."""
    found = set()
    for link in Path(f"/proc/{pid}/task").glob("*/ns/cgroup"):
        with contextlib.suppress(OSError):  # that thread has ended
            found.add(link.readlink())
    return found


@pytest.mark.parametrize("prefix", [(), ("unshare", "--cgroup")], ids=["", "of its own namespace"])
def test_who_was_left_behind_does_not_keep_the_containers_control_group(
    node: Node, hung: Dataset, group: Path, prefix: tuple[str, ...]
):
    begin = ("sh", "-ec", f'echo $$ >{group}/cgroup.procs; exec "$@"', "sh")
    plugin = node.plugin(options=[PATIENCE], command=(*begin, *prefix, *plugins.COMMAND))
    node.pod().publish(hung)
    procs = group / "cgroup.procs"
    assert {str(plugin.pid), str(child(plugin.pid))} <= set(procs.read_text().split())
    before = Path(f"/proc/{plugin.pid}/ns/cgroup").readlink()
    hang(hung)
    until(lambda: says(plugin, "does not answer"), "the hang is told")
    assert namespaces_of(plugin.pid) == {before}
    assert asleep(hung)

    plugin.kill()

    until(sleepers, "who is left behind")
    until(lambda: not procs.read_text(), "the group is empty")


def test_a_walk_to_a_sub_path_that_never_ends_keeps_no_plugin(node: Node, hung: Dataset):
    plugin = node.plugin(options=[PATIENCE])
    hang(hung, "LOOKUP")
    with pytest.raises(grpc.RpcError, match="does not answer"):
        node.pod().publish(hung, sub_path="sub")
    assert plugin.pid not in asleep(hung)

    plugin.kill()

    until(sleepers, "who is left behind")
    plugin.start()


@pytest.mark.usefixtures("visits")
def test_a_way_to_a_container_that_leads_over_a_silent_daemon_keeps_no_plugin(
    node: Node, hung: Dataset
):
    """One dataset is mounted within another, and its copy is private: somebody has to go there."""
    other = node.dataset("other")
    plugin = node.plugin(options=[PATIENCE])
    pod = node.pod()
    volumes = {"/a": pod.publish(hung), "/a/sub": pod.publish(other)}
    pod.container("main", volumes, Propagation.NONE)
    hang(hung)
    other.daemon.kill()
    other.daemon.restart()
    until(lambda: says(plugin, "failed"), plugin.words)
    assert plugin.pid not in asleep(hung)

    plugin.kill()

    plugin.start()


@pytest.mark.parametrize("verb", [["status"], ["recover", "--dry-run"], ["recover"], ["doctor"]])
def test_a_command_that_asks_a_silent_daemon_ends(node: Node, hung: Dataset, verb: list[str]):
    node.plugin(options=[PATIENCE])
    node.pod().publish(hung)
    hang(hung)

    state = f"--state={node.machine.state}"
    done = subprocess.run(
        [sys.executable, "-m", "csi_fluid", *verb, PATIENCE, state], timeout=15, check=False
    )

    assert done.returncode in {0, 1}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_agent_that_asks_a_silent_daemon_ends(
    node: Node, hung: Dataset, tmp_path: Path, number: signal.Signals
):
    log = tmp_path / "log"
    mount = f"--mount={hung.volume.source}"
    command = [sys.executable, "-m", "csi_fluid", "agent", mount, "--period=50ms", PATIENCE]
    with log.open("wb") as errors, subprocess.Popen(command, stderr=errors) as agent:
        until(lambda: "guarding" in log.read_text(), "the agent to work")
        hang(hung)
        until(lambda: "does not answer" in log.read_text(), "the hang is told")
        assert asleep(hung)
        assert agent.pid not in sleepers()

        agent.send_signal(number)

        assert agent.wait(6) in {-number, 128 + number}
    until(sleepers, "who is left behind")
