"""The command as people and kubelet run it: a process with arguments, output and an exit code."""

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import pytest

import csi_fluid
from csi_fluid._pb import csi_pb2
from csi_fluid.cli import VERBS
from csi_fluid.rpc.client import Client, Volume
from csi_fluid.testbed.waiting import pause, until
from recover.rows import Publication
from recover.store import Store
from tests.bench.processes import wakeups
from tests.rpc import serving  # noqa: F401  keeps gRPC's own threads out of the count

COMMAND = (sys.executable, "-m", "csi_fluid")
GATE = "--feature-gates=FuseRecovery=true"
OFF = "--metrics-addr=0"
GRPC = {"grpc_global_tim", "event_engine", "lifeguard"}  # threads that look for work every second


class Folder:
    """A node's directories, as small as they can be."""

    def __init__(self, path: Path) -> None:
        self.socket = path / "csi.sock"
        self.state = path / "state.db"
        self.log = path / "log"
        self.environ = {**os.environ, "MOUNT_ROOT": str(path), "KUBELET_ROOTDIR": str(path)}
        self.start = ("start", "--nodeid=n1", f"--endpoint=unix://{self.socket}", self.at_state)

    @property
    def at_state(self) -> str:
        return f"--state={self.state}"

    def run(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *words],
            check=False,
            env=self.environ | environ,
            capture_output=True,
            text=True,
            timeout=30,
        )

    @contextlib.contextmanager
    def plugin(self, *words: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run the plugin for a block that begins when it is ready."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*COMMAND, *self.start, *words], env=self.environ | environ, stderr=log
            )
        try:
            with contextlib.closing(Client(self.socket)) as client:
                until(
                    lambda: client.ready() or process.poll() is not None,
                    "it is ready",
                    timeout_s=30,
                )
            yield process
        finally:
            process.kill()
            process.wait()

    def words(self) -> str:
        return self.log.read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def ended(process: subprocess.Popen[bytes], by: signal.Signals = signal.SIGTERM) -> int:
    process.send_signal(by)
    return process.wait(5)


# Using it rightly and wrongly


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_explains_itself_with_an_example(folder, verb):
    done = folder.run(verb, "--help")

    assert (done.returncode, done.stderr) == (0, "")
    assert f"csi-fluid {verb}" in done.stdout


def test_the_help_lists_every_command(folder):
    assert set(VERBS) <= set(folder.run("--help").stdout.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("statsu",), "there is no command statsu; did you mean status?"),
        (("explode",), "there is no command explode; csi-fluid --help lists what there is"),
        (("status", "--jsn"), "status: unrecognized arguments: --jsn; see csi-fluid status --help"),
        (("start",), "--nodeid is missing: name of this node in Kubernetes"),
        (("start", "--nodeid=n", "--endpoint=x"), "--endpoint=x: expected unix:///"),
    ],
)
def test_a_wrong_use_is_one_line_with_a_next_step_and_exit_2(folder, words, message):
    done = folder.run(*words)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_a_bad_variable_is_exit_2(folder):
    done = folder.run(*folder.start, RECOVER_FUSE_PERIOD="soon")

    assert done.returncode == 2
    assert done.stderr.startswith("csi-fluid: RECOVER_FUSE_PERIOD=soon: expected a duration")


def test_no_command_at_all_shows_the_help_on_stderr(folder):
    done = folder.run()

    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: csi-fluid COMMAND" in done.stderr


def test_version_says_what_runs(folder):
    lines = folder.run("version").stdout.splitlines()

    assert lines[0] == f"csi-fluid {csi_fluid.__version__}"
    assert [line.split()[0] for line in lines] == ["csi-fluid", "python", "grpcio", "kernel"]


def test_a_reader_that_went_away_is_no_traceback(folder):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            [*COMMAND, "version"], stdout=closed, stderr=subprocess.PIPE, text=True, check=False
        )

    assert (done.returncode, done.stderr) == (1, "")


# Starting and stopping


@pytest.mark.parametrize("gate", [GATE, "--feature-gates=FuseRecovery=false"])
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_becomes_ready_and_ends_with_0_on_a_signal(folder, gate, by):
    with folder.plugin(OFF, gate) as process, contextlib.closing(Client(folder.socket)) as client:
        info = client.node.NodeGetInfo(csi_pb2.NodeGetInfoRequest())

        assert client.ready()
        assert info.node_id == "n1"
        assert ended(process, by) == 0
    assert not folder.socket.exists()


def test_a_hangup_does_not_end_it(folder):
    with folder.plugin(OFF, GATE) as process, contextlib.closing(Client(folder.socket)) as client:
        process.send_signal(signal.SIGHUP)

        assert client.ready()
        assert ended(process) == 0


def test_no_thread_but_grpcs_own_wakes_up_between_ticks(folder):
    with folder.plugin(OFF, GATE) as process, contextlib.closing(Client(folder.socket)) as client:
        assert client.ready()
        until(lambda: is_asleep(process.pid, for_s=1.0), "a second without a wake-up")


def is_asleep(pid: int, *, for_s: float) -> bool:
    """Tell whether no thread of a process is woken for a time, though a client is connected."""
    before = wakeups(pid, but=GRPC)
    pause(for_s)
    return wakeups(pid, but=GRPC) == before


def test_it_ends_in_time_while_a_publish_waits(folder, tmp_path):
    with folder.plugin(OFF, GATE) as process, contextlib.closing(Client(folder.socket)) as client:
        volume = Volume("v", tmp_path / "default/demo/nothing", "fuse")
        request = csi_pb2.NodePublishVolumeRequest(
            volume_id=volume.volume_id,
            target_path=str(tmp_path / "pods/u/mount"),
            volume_capability=volume.capability,
            volume_context=volume.context,
        )
        waiting = client.node.NodePublishVolume.future(request, timeout=60)
        refused = threading.Event()
        waiting.add_done_callback(lambda _: refused.set())
        assert not refused.wait(0.5), waiting.exception()
        started = time.monotonic()

        assert ended(process) == 0
        assert time.monotonic() - started < 5
        assert refused.wait(5)
        assert isinstance(waiting.exception(), grpc.RpcError)


def test_a_second_plugin_does_not_take_the_socket_of_a_running_one(folder):
    with folder.plugin(OFF) as process:
        done = folder.run(*folder.start, OFF)

        assert done.returncode == 1
        assert f"another process serves at {folder.socket}" in done.stderr.splitlines()[-1]
        assert process.poll() is None


def test_it_starts_over_the_socket_that_a_killed_plugin_left(folder):
    with folder.plugin(OFF) as process:
        process.kill()
        process.wait()
    assert folder.socket.exists()

    with folder.plugin(OFF) as process:
        assert ended(process) == 0


def test_a_damaged_state_file_keeps_nothing_from_starting(folder):
    folder.state.write_bytes(b"no database " * 500)
    with folder.plugin(OFF, GATE) as process:
        assert ended(process) == 0

    assert "WARNING" in folder.words()
    assert "damaged" in folder.words()


def test_a_metrics_port_that_is_taken_keeps_nothing_from_starting(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with folder.plugin(f"--metrics-addr=127.0.0.1:{port}") as process:
            assert ended(process) == 0

    assert f"no metrics at 127.0.0.1:{port}" in folder.words()


def test_metrics_count_the_calls(folder):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with folder.plugin(GATE, f"--metrics-addr=127.0.0.1:{port}"):
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            text = answer.read().decode()

    assert 'csi_fluid_rpc_seconds_count{method="Probe",code="OK"}' in text
    assert 'csi_fluid_publications{state="healthy"} 0' in text


def test_the_log_is_json_where_that_is_asked_for(folder):
    with folder.plugin(OFF, GATE, "--log-format=json", "--v=5", "--logtostderr") as process:
        ended(process)
    records = [json.loads(line) for line in folder.words().splitlines()]

    assert {"time", "level", "message"} <= records[0].keys()
    assert "--logtostderr is accepted and has no effect" in [r["message"] for r in records]


def test_the_limit_of_open_files_is_raised(folder):
    with folder.plugin(OFF) as process:
        limits = Path(f"/proc/{process.pid}/limits").read_text(encoding="ascii")
    (line,) = (line for line in limits.splitlines() if line.startswith("Max open files"))
    soft, hard = line.split()[3:5]

    assert soft == hard


# Looking


def test_status_without_a_state_file_says_what_to_do(folder):
    done = folder.run("status", folder.at_state)

    assert (done.returncode, done.stdout) == (1, "")
    assert f"there is no state file {folder.state}" in done.stderr
    assert "--state" in done.stderr


def test_status_beside_a_running_plugin_and_when_it_is_down(folder):
    endpoint = f"--endpoint=unix://{folder.socket}"
    with folder.plugin(OFF, GATE):
        beside = folder.run("status", folder.at_state, endpoint)
    down = folder.run("status", folder.at_state, endpoint)

    assert beside.stdout == "No volume is published on this node.\n"
    assert (beside.returncode, down.returncode) == (0, 0)
    assert f"plugin: none listens at {folder.socket}" in down.stdout


def test_status_can_be_watched_until_ctrl_c(folder):
    Store.open(folder.state).close()
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        watch = subprocess.Popen(
            [*COMMAND, "status", "--watch", folder.at_state], stdout=theirs, env=folder.environ
        )
        os.close(theirs)
        shown = b""
        while b"No volume is published" not in shown:
            shown += screen.read(4096)
        status = ended(watch, signal.SIGINT)

    assert status == 0


def test_status_cannot_be_watched_in_a_pipe(folder):
    done = folder.run("status", "--watch", folder.at_state)

    assert done.returncode == 2
    assert "--watch needs a terminal" in done.stderr


def published(folder: Folder, tmp_path: Path) -> Publication:
    """Record a publication whose FUSE mount is nowhere."""
    row = Publication(
        str(tmp_path / "pods/u/mount"),
        "v",
        str(tmp_path / "demo-fuse"),
        runtime_name="demo",
        runtime_namespace="default",
    )
    with contextlib.closing(Store.open(folder.state)) as store:
        store.put_publication(row)
    return row


def test_status_shows_what_is_in_the_state_file(folder, tmp_path):
    row = published(folder, tmp_path)
    (dataset,) = json.loads(folder.run("status", "--json", folder.at_state).stdout)["datasets"]

    assert (dataset["dataset"], dataset["source"]) == ("default/demo", row.source)
    assert dataset["state"] == "FUSE is not mounted"
    assert "default/demo" in folder.run("status", folder.at_state).stdout


def test_recover_tells_its_plan_and_that_it_could_not_help(folder, tmp_path):
    published(folder, tmp_path)
    dry = folder.run("recover", "--dry-run", folder.at_state)
    wet = folder.run("recover", folder.at_state, "default/demo")

    assert dry.returncode == 0
    assert dry.stdout.splitlines() == ["default/demo: FUSE is not mounted", "nothing to do"]
    assert wet.returncode == 1
    assert "default/demo: FUSE is not mounted" in wet.stderr


def test_recover_of_an_unknown_target_says_where_to_look(folder, tmp_path):
    published(folder, tmp_path)
    done = folder.run("recover", folder.at_state, "nosuch")

    assert (done.returncode, done.stdout) == (1, "")
    assert "nosuch is no published volume; csi-fluid status lists them" in done.stderr


def test_an_error_nobody_thought_of_is_one_line_and_with_debug_a_trace(folder, tmp_path):
    folder.state.mkdir()
    short = folder.run("status", folder.at_state)
    long = folder.run("status", folder.at_state, "--debug")

    assert (short.returncode, long.returncode) == (1, 1)
    assert short.stderr.count("\n") == 1
    assert "Traceback" in long.stderr


def test_doctor_looks_at_everything_and_leaves_nothing(folder, tmp_path):
    with folder.plugin(OFF, GATE):
        done = folder.run("doctor", "--json", folder.at_state, f"--endpoint=unix://{folder.socket}")
    findings = {finding["what"]: finding for finding in json.loads(done.stdout)}

    missing = [what for what, found in findings.items() if found["verdict"] == "missing"]
    assert done.returncode == bool(missing)
    assert findings["openat2"]["verdict"] == "ok"
    assert findings[f"state file {folder.state}"]["verdict"] == "ok"
    assert findings[f"plugin at unix:{folder.socket}"]["verdict"] == "ok"
    assert "statmount" in folder.run("doctor", folder.at_state).stdout


def test_doctor_names_the_credential_and_nothing_in_it(folder, tmp_path):
    config = tmp_path / "kubelet.conf"
    config.write_text("users: [{name: u, user: {token: s3cret}}]")
    run = partial(folder.run, "doctor", "--json", folder.at_state)
    found = [
        next(f for f in json.loads(done.stdout) if f["what"] == "API server")
        for done in (run(f"--kubelet-kube-config={config}"), run("--kube=none"))
    ]

    assert [f["verdict"] for f in found] == ["ok", "ok"]
    assert found[0]["seen"].startswith(f"node labels with {config}")
    assert "s3cret" not in json.dumps(found)


def test_doctor_finds_what_is_missing_and_says_what_follows(folder):
    folder.state.write_bytes(b"no database " * 500)
    done = folder.run("doctor", "--json", folder.at_state)
    (finding,) = (f for f in json.loads(done.stdout) if f["what"].startswith("state file"))

    assert done.returncode == 1
    assert finding["verdict"] == "missing"
    assert finding["follows"]
