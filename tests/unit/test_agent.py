"""The agent's command line, and what goes wrong in a pass: told, and tried again."""

import logging
import os
import threading
from pathlib import Path

import pytest

from csi_fluid import agent, cli
from csi_fluid.cli import agent as command
from csi_fluid.cli.usage import Misuse
from csi_fluid.testbed.waiting import until
from recover.errors import Covered
from recover.events import Event
from recover.linux.probe import Prober
from recover.serverless.agent import Agent
from recover.serverless.guard import Guard, Target

MOUNT = "/jfs/jindofs-fuse"


class Ear:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def tell(self, event: Event) -> None:
        self.events.append(event)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        (MOUNT, Target(MOUNT)),
        (f"{MOUNT}=/runtime-mnt/a/fuse", Target(MOUNT, "/runtime-mnt/a/fuse")),
        (f"{MOUNT}/=/runtime-mnt/a//fuse:ro", Target(MOUNT, "/runtime-mnt/a/fuse", read_only=True)),
        (f"{MOUNT}:ro", Target(MOUNT, read_only=True)),
    ],
)
def test_a_mount_is_a_path_here_and_perhaps_one_on_the_node(text: str, target: Target):
    assert command._target(text) == target


def test_links_on_the_way_to_a_mount_point_are_followed(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")

    assert command._target(f"{tmp_path}/link/fuse").mount_point == f"{tmp_path}/real/fuse"


@pytest.mark.parametrize("text", ["", "jfs", "/", "/a/../b", f"{MOUNT}=host", "=/a", ":ro"])
def test_a_mount_without_a_usable_path_is_misuse(text: str):
    with pytest.raises(Misuse, match="--mount="):
        command._target(text)


def test_without_a_mount_there_is_nothing_to_guard(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["agent"]) == 2
    assert "--mount is missing" in capsys.readouterr().err


def test_a_period_needs_a_unit(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["agent", f"--mount={MOUNT}", "--period=5"]) == 2
    assert "--period=5: expected a duration" in capsys.readouterr().err


@pytest.mark.parametrize("uid", ["..", "a/b", "a\nb", "x" * 254])
def test_a_uid_that_is_no_name_of_a_folder_is_misuse(
    uid: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("POD_UID", uid)

    assert cli.main(["agent", f"--mount={MOUNT}", "--leave"]) == 2
    assert "POD_UID=" in capsys.readouterr().err


def test_the_host_name_stands_in_for_a_uid_that_is_not_given():
    host = os.uname().nodename

    assert [agent.Settings((), pod_uid=uid).pod for uid in ("705ab4f5", "")] == ["705ab4f5", host]


def test_leaving_a_place_where_nothing_was_anchored_makes_nothing(tmp_path: Path):
    assert cli.main(["agent", "--leave", f"--mount={tmp_path}/fuse"]) == 0
    assert not list(tmp_path.iterdir())


class Faulty(Guard):
    """A guard whose passes fail; the others only wait."""

    def __init__(self, folder: Path, error: Exception) -> None:
        super().__init__(Target(f"{folder}/fuse"), "pod", Prober(), Ear())
        self.passes = 0
        self.error: Exception | None = error
        self.over = threading.Event()

    def run(self) -> float:
        self.passes += 1
        if self.error is not None:
            raise self.error
        return 600.0


@pytest.mark.expects_log("disk is full; trying again")
def test_a_fault_is_logged_and_the_agent_goes_on(tmp_path: Path):
    guard = Faulty(tmp_path, OSError("disk is full"))
    made = Agent([guard], Ear())
    made.start()
    until(lambda: guard.passes == 1, "the pass that fails")

    assert made.is_working
    assert made.stop()
    assert not made.is_working


def test_what_changed_under_a_pass_is_looked_at_again_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    guard = Faulty(tmp_path, Covered("it was mounted anew"))
    made = Agent([guard], Ear())
    made.start()

    until(lambda: guard.passes > 2, "more passes")

    assert made.stop()
    assert not caplog.records
