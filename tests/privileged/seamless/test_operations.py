"""The operation table of docs/seamless.md is what a run shows, daemon by daemon.

SEAMLESS_TABLE=FILE collects the results of a run there, for `python -m tests.harness.optable`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import Bindfs, Gocryptfs, Node, Rclone, S3fs, operations, optable, until
from tests.harness.node import MakeFilesystem
from tests.privileged.seamless.held import HeldHealing, go

PAGE = Path(__file__).parents[3] / "docs/seamless.md"


@pytest.mark.timeout(150)
@pytest.mark.parametrize("filesystem", [Bindfs, Gocryptfs, Rclone, S3fs])
def test_each_operation_does_what_the_page_says(
    node: Node, heal: HeldHealing, filesystem: MakeFilesystem
):
    data = node.dataset("demo", filesystem, files=operations.files())
    if filesystem is Bindfs:
        (node.machine.folder("data-demo") / "data" / "link").symlink_to("file")
    main = heal.container(node, data)
    code = Path(operations.__file__).read_text(encoding="utf-8")
    enter = ["nsenter", f"--target={main.pid}", "--mount", "--root", "--wd"]
    python = os.path.realpath(sys.executable)
    with subprocess.Popen(
        [*enter, python, "-c", code, "/data"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        data.daemon.kill()
        heal.await_held(data)
        go(process)
        until(lambda: heal.held(data).counts["waiting"] > 10, "they wait")
        data.daemon.restart()
        out, _ = process.communicate(timeout=60)
    found = {name: how for name, (how, _) in json.loads(out).items()}

    name = data.daemon.filesystem.name
    optable.collect(name, found)
    assert found == optable.of_page(PAGE, name)
