"""`csi-fluid demo`: it shows what it says, and whatever ends it, nothing is left."""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import sandbox
from tests.harness import pause, until

DEMO = (sys.executable, "-m", "csi_fluid", "demo")
LENGTH_S = 4.5  # less than a whole run takes


def demo(*options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, *options],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


def begin() -> subprocess.Popen[str]:
    return subprocess.Popen(
        DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def traces() -> set[str]:
    """Return the processes, the workspace's files and the mounts of this sandbox."""
    mounts = Path("/proc/self/mountinfo").read_text("utf-8").splitlines()
    return {*filter(str.isdigit, os.listdir("/proc")), *os.listdir("/dev/shm"), *mounts}


def left_since(before: set[str]) -> set[str]:
    """Return what is there and was not, after a moment for killed processes to be reaped."""
    with contextlib.suppress(TimeoutError):
        until(lambda: traces() <= before, "nothing new", timeout_s=2)
    return traces() - before


@pytest.mark.parametrize("daemon", ["bindfs", "s3fs", "rclone"])
def test_the_pod_lists_fails_and_lists_again(daemon: str):
    sandbox.require(daemon)

    done = demo(f"--daemon={daemon}")

    assert done.returncode == 0, done.stdout + done.stderr
    story = r"config\.json.*kill -9.*Transport endpoint.*restarted.*model-00003.*healed after"
    assert re.search(story, done.stdout, re.DOTALL)
    assert re.search(r"layers at /data\W+2\b", done.stdout)
    assert re.search(r"mounts healed\W+3 of 3\b", done.stdout)
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


def test_the_pod_of_a_killed_sidecar_lists_again():
    before = traces()

    done = demo("--serverless")

    assert done.returncode == 0, done.stdout + done.stderr
    story = r"config\.json.*kill 1.*Transport endpoint.*restarted.*model-00003.*healed after"
    assert re.search(story, done.stdout, re.DOTALL)
    assert re.search(r"layers at /data\W+2\b", done.stdout)
    assert "never an empty directory" in done.stdout
    assert done.stderr == ""
    assert left_since(before) == set()


@pytest.mark.clock  # the plugin waits for its holder to start, for 5 s
def test_with_seamless_recovery_the_pod_sees_no_error():
    sandbox.require("pidfd_getfd")
    before = traces()

    done = demo("--seamless")

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"errors in the pod\W+0\b", done.stdout)
    assert done.stdout.count("the pod reads on\n") == 3
    assert "cannot access" not in done.stdout
    assert done.stderr == ""
    assert left_since(before) == set()


def test_twice_in_a_row_works_and_leaves_only_the_picture(workdir: Path):
    picture = workdir / "heal.svg"
    before = traces()

    runs = demo(), demo(f"--svg={picture}")

    assert [run.returncode for run in runs] == [0, 0], runs
    assert left_since(before) == set()
    text = picture.read_text(encoding="utf-8").replace("&#160;", " ")
    assert text.startswith("<svg")
    assert "ls: cannot access" in text
    assert "healed after" in text
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", text)  # a README's picture loads nothing


@pytest.mark.parametrize(
    "moment", ["csi-fluid demo:", "mounts it", "the pod runs", "kill -9", "was restarted"]
)
def test_ctrl_c_ends_it_at_once_and_leaves_nothing(moment: str):
    before = traces()
    process = begin()
    assert process.stdout is not None
    assert any(moment in line for line in process.stdout)
    start = time.monotonic()

    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)

    assert process.returncode == 130
    assert errors == "\ninterrupted: all that was started is ended, nothing is left behind\n"
    assert time.monotonic() - start < 3
    assert left_since(before) == set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_end_at_any_moment_leaves_nothing(number: signal.Signals):
    seed = random.randrange(10_000)
    moments = sorted(random.Random(seed).uniform(0, LENGTH_S) for _ in range(4))
    before = traces()
    start = time.monotonic()
    running = [begin() for _ in moments]
    for moment, process in zip(moments, running, strict=True):
        pause(start + moment - time.monotonic())
        process.send_signal(number)

    ends = [(*process.communicate(timeout=10), process.returncode) for process in running]

    # Before it says anything Python itself may still be starting, and end in its own way.
    wanted = -number if number is signal.SIGKILL else 130
    assert {status for said, _, status in ends if said} <= {wanted}, f"seed {seed}: {ends}"
    assert left_since(before) == set(), f"seed {seed}"


@pytest.mark.parametrize(
    ("tell", "who"),
    [
        ("story.tell(options.parse([]), '--feature-gates=FuseRecovery=false')", "plugin"),
        ("sidecars.tell(options.parse(['--serverless']), read_only=False)", "agent"),
    ],
)
def test_without_a_heal_it_fails_and_says_why(tell: str, who: str):
    script = f"import sys; from csi_fluid.demo import options, sidecars, story; sys.exit({tell})"
    alone = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")

    done = subprocess.run(
        [*alone, sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert "waited 10 s for the pod to read again" in done.stdout
    assert f"the {who}'s last words" in done.stdout
    assert "healed after" not in done.stdout


def test_a_missing_daemon_is_named(workdir: Path):
    for tool in ("setpriv", "unshare", "mount", "umount", "sh"):
        (workdir / tool).symlink_to(f"/usr/bin/{tool}")

    done = demo("--daemon=rclone", PATH=str(workdir))

    assert done.returncode == 1
    assert "rclone is not installed: run 'apt-get install rclone'" in done.stdout


def test_a_picture_that_cannot_be_kept_is_refused_before_anything_is_done(workdir: Path):
    absent, hidden = demo(f"--svg={workdir}/absent/heal.svg"), demo("--svg=/dev/shm/heal.svg")

    assert (absent.returncode, hidden.returncode) == (1, 1)
    assert absent.stdout + hidden.stdout == ""
    assert f"--svg: no picture can be written to {workdir}/absent" in absent.stderr


def test_an_unknown_daemon_is_misuse():
    done, both = demo("--daemon=ext4"), demo("--serverless", "--daemon=s3fs")

    assert (done.returncode, both.returncode) == (2, 2)
    assert "invalid choice: 'ext4'" in done.stderr
