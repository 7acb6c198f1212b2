"""`csi-fluid status --watch` on a terminal, through a crash and its heal.

RECORD=docs/watch.svg writes what it showed as a picture, as `make pictures` does.
"""

import io
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from csi_fluid.demo.screen import picture
from tests.harness import Node
from tests.privileged.terminal import running


def test_status_on_a_terminal_follows_a_crash(node: Node):
    data, pod = node.dataset("demo"), node.pod()
    node.plugin()
    pod.container("main", {"/data": pod.publish(data)})
    machine = node.machine
    places = {"MOUNT_ROOT": str(machine.mount_root), "KUBELET_ROOTDIR": str(machine.kubelet)}
    command = (sys.executable, "-m", "csi_fluid", "status", "--watch", "--strategy=namespace")

    kept: list[Text] = []
    with running(command, os.environ | places | {"TERM": "xterm-256color"}) as terminal:
        kept.append(terminal.await_words("healthy"))
        data.daemon.kill()
        kept.append(terminal.await_words("waiting for FUSE"))
        data.daemon.restart()
        kept.append(terminal.await_words(r"healthy .* \d\S* m?s,"))  # how long the heal took

    assert "Look at the FUSE pod" in " ".join(kept[1].plain.split())
    if record := os.environ.get("RECORD"):
        draw(kept, Path(record), str(machine.root))


def draw(screens: list[Text], place: Path, root: str) -> None:
    """Write screens one below the other as a picture, without the sandbox's root."""
    console = Console(record=True, width=118, file=io.StringIO(), force_terminal=True)
    for title, screen in zip(("before", "the daemon died", "it is back"), screens, strict=True):
        console.rule(title, style="dim")
        for line in screen.split():
            line.rstrip()
            if line.plain:
                console.print(line, no_wrap=True)
    place.write_text(picture(console, "csi-fluid status --watch").replace(root, ""))
