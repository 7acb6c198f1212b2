"""Who waits in a held connection can always go: killed, unpublished, at the deadline."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from csi_fluid.cli.holding import words as holding_words
from recover import events
from recover.seamless import callers
from tests.harness import Bindfs, Dataset, Gocryptfs, Node, Propagation, pause, until
from tests.harness.node import Container, MakeFilesystem
from tests.privileged.healing import healing, shown, whole
from tests.privileged.seamless.held import HeldHealing, end, holding, inside, pid_of

# Opens a file, says so, and reads it again and again with the page cache dropped.
_KEEPS_READING = """
import os, signal, sys
signal.signal(signal.SIGUSR1, lambda *_: None)
fd = os.open(sys.argv[1], os.O_RDONLY)
print("ready", flush=True)
while True:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.pread(fd, 4096, 0)
"""
# Asks for a name again and again: in that the kernel waits beyond SIGKILL, unlike in a read.
_KEEPS_ASKING = _KEEPS_READING.replace(
    "    os.pread(fd, 4096, 0)",
    "    try: os.stat(sys.argv[1] + 'x')\n    except FileNotFoundError: pass",
)
_KEEPS_LOOKING = """
import os, sys
print("ready", flush=True)
while True:
    os.stat(sys.argv[1])
"""
# Looks at a mount point again and again, until nothing is mounted there: what a daemon begins with.
_COMES_BACK = """
import os, sys
while os.stat(sys.argv[1]).st_dev != os.stat(os.path.dirname(sys.argv[1])).st_dev:
    pass
"""


class Apart(Bindfs):
    """bindfs in a PID namespace of its own."""

    def command(self, mount_point: Path) -> list[str]:
        """Return the command."""
        return ["unshare", "--pid", "--fork", "--kill-child", *super().command(mount_point)]


FAST_S = 3.0  # what must not wait for a hold of 20 s


@pytest.fixture
def data(node: Node) -> Dataset:
    return node.dataset("demo", files={"a.txt": b"one\n", "big": b"x" * 100_000, "in/b.txt": b"b"})


def reading(
    main: Container, path: str, code: str = _KEEPS_READING
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """Keep a file of a volume open and read it for a block."""
    return inside(main, code, path)


def waits(heal: HeldHealing, data: Dataset) -> bool:
    return heal.held(data).counts["waiting"] > 0


def ends(process: subprocess.Popen[bytes]) -> None:
    """Fail unless a process that was killed ends long before the hold does."""
    assert process.wait(FAST_S) == -signal.SIGKILL


@pytest.mark.parametrize("filesystem", [Bindfs, Gocryptfs])  # the second one implements FLUSH
def test_a_killed_reader_ends_while_held(node: Node, heal: HeldHealing, filesystem: MakeFilesystem):
    data = node.dataset("demo", filesystem, files={"big": b"x" * 100_000})
    main = heal.container(node, data)
    with reading(main, "/data/big", _KEEPS_ASKING) as process:
        data.daemon.kill()
        until(lambda: waits(heal, data), "the reader waits")
        process.kill()
        ends(process)


def test_a_killed_reader_ends_also_where_the_daemon_cannot_see_it(node: Node, heal: HeldHealing):
    """A daemon in a PID namespace of its own, as in a container: its requests name no thread."""
    data = node.dataset("demo", Apart, files={"big": b"x" * 100_000})
    main = heal.container(node, data)
    with reading(main, "/data/big", _KEEPS_ASKING) as killed, reading(main, "/data/big") as other:
        data.daemon.kill()
        until(lambda: waits(heal, data), "the readers wait")
        killed.kill()
        ends(killed)
        data.daemon.restart()
        heal.await_served(data)
        assert other.poll() is None


def test_a_signal_that_is_handled_ends_no_wait(node: Node, heal: HeldHealing, data: Dataset):
    main = heal.container(node, data)
    with reading(main, "/data/big") as process:
        data.daemon.kill()
        until(lambda: waits(heal, data), "the reader waits")
        process.send_signal(signal.SIGUSR1)
        pause(0.5)  # the interrupt is there by then; nothing tells of it
        data.daemon.restart()
        heal.await_served(data)
        until(lambda: not waits(heal, data), "the reader goes on")
        assert process.poll() is None


@pytest.mark.parametrize("victim", ["holder", "reader", "both"])
def test_a_killed_holder_or_reader_leaves_nobody_unkillable(
    node: Node, heal: HeldHealing, data: Dataset, victim: str
):
    main = heal.container(node, data)
    with reading(main, "/data/big", _KEEPS_ASKING) as process:
        data.daemon.kill()
        until(lambda: waits(heal, data), "the reader waits")
        for name in ("reader", "holder") if victim == "both" else (victim,):
            end(name)
        if victim == "reader":
            process.kill()
            ends(process)
        else:  # its connection has ended: an error, as without a hold
            assert process.wait(FAST_S) == 1
    data.daemon.restart()
    heal.await_whole(data, main.sees, "/data")


def test_a_reader_process_killed_while_it_serves_is_replaced_and_nobody_sees_it(
    node: Node, heal: HeldHealing, data: Dataset
):
    main = heal.container(node, data, Propagation.NONE)
    with reading(main, "/data/big") as process:
        for _ in range(3):  # the mount of its descriptor stands nowhere any more
            heal.crash(data)
            heal.await_served(data)
        before = pid_of("reader")
        end("reader")
        heal.look(data)
        until(lambda: pid_of("reader") not in {None, before}, "another reader")
        heal.await_served(data)
        served = heal.held(data).counts["served"]
        until(lambda: heal.held(data).counts["served"] > served + 10, "the old file is read")
        assert process.poll() is None


def test_the_holder_outlives_the_plugin_and_is_found_again(
    node: Node, heal: HeldHealing, data: Dataset
):
    main = heal.container(node, data)
    with reading(main, "/data/big") as process:
        holder = pid_of("holder")
        heal.stop()
        data.daemon.kill()
        until(lambda: waits(heal, data), "the reader waits")
        heal.start()
        heal.await_held(data)
        data.daemon.restart()
        heal.await_served(data)
        until(lambda: not waits(heal, data), "the reader goes on")
        assert process.poll() is None
        assert pid_of("holder") == holder
        assert whole(node, main.sees, "/data", data)


@pytest.mark.parametrize("filesystem", [Bindfs, Apart])
def test_a_daemon_that_comes_before_the_dead_mount_is_cleared_waits_no_longer(
    node: Node, heal: HeldHealing, filesystem: MakeFilesystem
):
    """It looks at its mount point, and by that at the dead mount: the plugin is away, or slow."""
    data = node.dataset("demo", filesystem, files={"big": b"x" * 100_000})
    main = heal.container(node, data)
    with reading(main, "/data/big") as process:
        heal.stop()
        data.daemon.kill()
        come_back = [sys.executable, "-c", _COMES_BACK, str(data.volume.source)]
        with in_the_root(main) as listing, subprocess.Popen(come_back) as comes_back:
            until(lambda: heal.held(data).counts["waiting"] > 2, "all of them wait")
            heal.start()
            assert comes_back.wait(FAST_S) == 0
            data.daemon.restart()
            heal.await_served(data)
            until(lambda: not waits(heal, data), "the readers go on")
            assert process.poll() is None
            assert listing.poll() is None


def test_who_waits_is_told_from_a_daemon_that_does(node: Node, heal: HeldHealing, data: Dataset):
    main = heal.container(node, data)
    # No pod has a mount of 0:0: these are all that wait.
    until(lambda: callers.strays("0:0") == {}, "the reader has looked at the root")
    with reading(main, "/data/big", _KEEPS_ASKING):
        data.daemon.kill()
        until(lambda: waits(heal, data), "the reader waits")
        assert set(callers.strays("0:0").values()) == {(0, 0)}
        assert callers.strays(heal.held(data).newest) == {}  # it is in a pod


def in_the_root(main: Container) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """Keep asking about a volume's root in a container, by path, for a block."""
    return inside(main, _KEEPS_LOOKING, "/data")


@pytest.mark.parametrize("heal", [0.5], indirect=True)
def test_the_deadline_ends_the_wait_and_not_what_comes_after(
    node: Node, heal: HeldHealing, data: Dataset
):
    main = heal.container(node, data)
    with reading(main, "/data/big") as process:
        data.daemon.kill()
        assert process.wait(FAST_S) == 1
    heal.await_held(data)
    assert main.sees.read("/data/a.txt") == errno.ENOTCONN
    data.daemon.restart()
    heal.await_served(data)
    assert main.sees.read("/data/a.txt") == b"one\n"


def test_unpublish_does_not_wait_and_ends_the_hold(node: Node, heal: HeldHealing, data: Dataset):
    pod = node.pod()
    target = heal.publish(pod, data)
    main = pod.container("main", {"/data": target})
    heal.await_kept(data)
    with reading(main, "/data/big") as process:
        data.daemon.kill()
        until(lambda: waits(heal, data), "the reader waits")
        began = time.monotonic()
        heal.unpublish(target)
        assert time.monotonic() - began < FAST_S
        assert process.wait(FAST_S) == 1  # its volume is gone
    until(lambda: str(data.volume.source) not in heal.client.status().sources, "let go")


def test_stopping_the_plugin_does_not_wait(node: Node, heal: HeldHealing, data: Dataset):
    heal.container(node, data)
    data.daemon.kill()
    heal.await_held(data)
    assert heal.stop() < FAST_S
    heal.start()


def test_a_publish_during_a_hold_waits_for_the_daemon_and_for_nothing_else(
    node: Node, heal: HeldHealing, data: Dataset
):
    heal.container(node, data)
    data.daemon.kill()
    heal.await_held(data)
    data.daemon.restart()
    target = heal.publish(node.pod(), data)
    heal.await_served(data)
    assert node.sees.read(target / "a.txt") == b"one\n"
    assert shown(node.sees, target)


def test_a_writable_volume_is_not_held(node: Node, heal: HeldHealing, caplog):
    data = node.dataset("rw", read_only=False)
    pod = node.pod()
    target = heal.publish(pod, data)
    heal.await_looked(data)
    until(lambda: "a writable volume is not held" in caplog.text, "it is told")
    caplog.clear()
    until(lambda: heal.held(data).lack, "who looks is told, too")
    assert "a writable volume is not held" in holding_words(heal.held(data))
    data.daemon.kill()
    until(lambda: heal.ear.of(events.Broken), "the crash is noticed")
    assert node.sees.read(target / "a.txt") == errno.ENOTCONN


def test_content_that_changed_is_refused_and_never_mixed(
    node: Node, heal: HeldHealing, data: Dataset
):
    main = heal.container(node, data)
    with reading(main, "/data/big") as process:
        data.daemon.kill()
        heal.await_held(data)
        pause(0.01)
        data.put("big", b"y" * 100_000)
        data.daemon.restart()
        heal.await_served(data)
        assert process.wait(FAST_S) == 1
    assert heal.held(data).counts["refused"] > 0
    assert main.sees.read("/data/big") == b"y" * 100_000


def test_the_mode_of_a_file_holds_for_a_caller_of_a_dead_daemon(node: Node, heal: HeldHealing):
    data = node.dataset("demo", files={"a.txt": b"one\n", "secret": b"s"})
    backing = node.machine.folder("data-demo") / "data"
    os.chmod(backing / "secret", 0o600)
    main = heal.container(node, data)
    script = "cd /data; echo ready; read go; cat a.txt; cat secret"
    enter = ["nsenter", f"--target={main.pid}", "--mount", "--root", "--wd"]
    caller = ["setpriv", "--reuid=1234", "--regid=1234", "--clear-groups", "sh", "-c", script]
    with subprocess.Popen(
        [*enter, *caller], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        heal.crash(data)
        heal.await_served(data)
        out, _ = process.communicate(b"go\n", timeout=FAST_S)
    assert out.startswith(b"one\n")
    assert b"Permission denied" in out


# Stands deep in the volume, and asks by a directory from before for the number of one above.
_STANDS_DEEP = """
import ctypes, os, sys, time
libc, above = ctypes.CDLL(None), os.open(sys.argv[1], os.O_RDONLY)
def number():
    handle = ctypes.create_string_buffer((56).to_bytes(4, "little"), 64)
    assert not libc.name_to_handle_at(above, b"a/b", handle, ctypes.byref(ctypes.c_int()), 0x200)
    return handle.raw
os.chdir(sys.argv[1] + "/a/b/c")
before = number()
print("ready", flush=True)
sys.stdin.readline()
end = time.monotonic() + 1.5  # beyond the time for which the kernel believes a name
while number() == before and time.monotonic() < end: pass
print(number() == before, os.getcwd(), flush=True)
"""


def test_directories_above_one_that_somebody_is_in_keep_their_numbers(
    node: Node, heal: HeldHealing
):
    """Of another number the kernel would cut them off from their names."""
    data = node.dataset("demo", files={"a/b/c/file": b"one\n"})
    main = heal.container(node, data)
    with inside(main, _STANDS_DEEP, "/data") as process:
        heal.crash(data)
        heal.await_served(data)
        out, _ = process.communicate(b"go\n", timeout=2 * FAST_S)
    assert out == b"True /data/a/b/c\n"


def test_while_nothing_crashes_the_holder_is_asked_nothing(node: Node):
    with holding(node, period_s=0.05) as heal:
        data = node.dataset("demo")
        main = heal.container(node, data)
        until(lambda: rests(heal, ticks=10), "ten ticks without a question")

        with reading(main, "/data/a.txt") as process:
            heal.crash(data)  # and is asked again when it matters
            heal.await_served(data)
            assert process.poll() is None


def rests(heal: HeldHealing, ticks: int) -> bool:
    """Tell whether nothing asks the holder for so long: the answer to the last may be late."""
    before = waits_of("holder")
    heal.await_ticks(ticks)
    return waits_of("holder") == before


def waits_of(name: str) -> int:
    """Return how often the holder or the reader has waited: once more for each question."""
    status = Path(f"/proc/{pid_of(name)}/status").read_text(encoding="ascii")
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


def test_the_command_recover_tells_the_holder_what_the_plugin_did_not(
    node: Node, heal: HeldHealing, data: Dataset
):
    main = heal.container(node, data)
    with reading(main, "/data/big") as process:
        heal.stop()
        data.daemon.kill()
        until(lambda: waits(heal, data), "the reader waits")
        data.daemon.restart()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "csi_fluid", "recover", "--strategy=namespace"),
                *(f"--state={node.machine.state}", f"--holder={heal.client.socket}"),
            ],
            env=os.environ | {"KUBELET_ROOTDIR": str(node.machine.kubelet)},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        until(lambda: not waits(heal, data), "the reader goes on")
        assert process.poll() is None
    heal.start()


def test_with_the_gate_off_nothing_is_started_and_a_crash_is_seen(node: Node):
    data = node.dataset("demo")
    with healing(node) as heal:
        target = heal.publish(node.pod(), data)
        heal.await_looked(data)
        data.daemon.kill()
        until(lambda: heal.ear.of(events.Broken), "the crash is noticed")

        assert node.sees.read(target / "a.txt") == errno.ENOTCONN
        assert pid_of("holder") is None
        assert pid_of("reader") is None
