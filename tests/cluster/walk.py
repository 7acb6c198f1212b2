"""A user at a terminal, who types the commands of a page one after the other."""

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import fluid as double
from tests.cluster.cluster import Cluster
from tests.cluster.fluid import Fluid
from tests.cluster.fluidobjects import Spec
from tests.cluster.page import Page
from tests.cluster.settings import ROOT
from tests.cluster.waiting import wait_for
from tests.images.clients import BUSYBOX

WALKTHROUGH = ROOT / "docs/walkthrough.md"
_GENERATED = r"-[a-z0-9]{5}\b"  # what a DaemonSet adds to the names of its pods


class Walk:
    """Types the commands of a page on the node, in a folder with the page's files.

    change: what is done to a file of the page before it is written.
    """

    def __init__(
        self, cluster: Cluster, page: Page, folder: Path, change: Callable[[str], str]
    ) -> None:
        self._cluster = cluster
        self._page = page
        self._folder = folder
        self._pods: dict[str, str] = {}
        self.told: list[tuple[str, str]] = []  # each command and its output
        for name, text in page.files.items():
            (folder / name).write_text(change(text))

    @property
    def left(self) -> list[str]:
        """Return the commands that were not typed yet."""
        return self._page.commands[len(self.told) :]

    def type(self, part: str) -> str:
        """Type the page's next command, which must have this in it; return its output."""
        command = self._next(part)
        said = self._cluster.enter(*self._in_shell(command))
        self.told.append((command, said))
        return said

    def again(self) -> None:
        """Type the last command once more."""
        command, _ = self.told[-1]
        self._cluster.enter(*self._in_shell(command))

    def leave_out(self, part: str) -> None:
        """Pass over the page's next command, which must have this in it."""
        self.told.append((self._next(part), ""))

    def find_pod(self, part: str, daemonset: str) -> str:
        """Type a command that lists a DaemonSet's only pod; later commands mean that pod."""
        said = self.type(part)
        found = re.search(rf"^{daemonset}{_GENERATED}", said, re.MULTILINE)
        assert found, said
        self._pods[daemonset] = found[0]
        return said

    def _next(self, part: str) -> str:
        command = self.left[0]
        assert part in command, f"the page's next command is: {command}"
        for daemonset, pod in self._pods.items():
            command = re.sub(daemonset + _GENERATED, pod, command)
        return command

    def _in_shell(self, command: str) -> tuple[str, ...]:
        config = self._cluster.place.secrets / "admin.conf"
        where = ("env", f"--chdir={self._folder}", f"KUBECONFIG={config}")
        return (*where, "sh", "-c", command)

    @contextmanager
    def terminal(self, part: str) -> Iterator["Terminal"]:
        """Type a command that goes on, in a terminal of its own, which is closed at the end."""
        command, place = self._next(part), len(self.told)
        terminal = Terminal(self._cluster, self._in_shell(command), self._folder / "terminal")
        self.told.append((command, ""))
        try:
            yield terminal
        finally:
            terminal.close()
            self.told[place] = (command, terminal.shown())


def as_on_this_cluster(text: str) -> str:
    """Return a page's file with our image in it, and without a DNS server."""
    return yaml.safe_dump_all(_documents(text))


def as_fluid_has_it(text: str) -> str:
    """Return it so, and with what Fluid's webhook would do to a pod."""
    return yaml.safe_dump_all(double.injected(each, {"demo-dataset"}) for each in _documents(text))


def _documents(text: str) -> list[dict[str, Any]]:
    documents = list(yaml.safe_load_all(text.replace("busybox:1", BUSYBOX)))
    for document in documents:
        if document["kind"] == "Pod":
            document["spec"]["dnsPolicy"] = "Default"
    return documents


def events_of_the_app(cluster: Cluster) -> str:
    """Return what kubectl tells of the pages' pod."""
    return cluster.kubectl("describe", "po", "demo-app", "-n", "default")


def start_the_app(walk: Walk, fluid: Fluid, spec: Spec) -> None:
    """Type how the dataset of a page comes up, and the pod that uses it."""
    walk.type("create -f secret.yaml")
    walk.type("create -f dataset.yaml")
    fluid.reconcile(spec)
    walk.type("wait dataset/demo-dataset")
    walk.type("create -f app.yaml")
    walk.type("wait po/demo-app")


class Terminal:
    """A command that runs on, and what it has said."""

    def __init__(self, cluster: Cluster, command: tuple[str, ...], log: Path) -> None:
        self._log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                cluster.node.command(*command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def shown(self) -> str:
        """Return all that it said."""
        return self._log.read_text()

    def await_more(self, text: str) -> None:
        """Wait until two more of its lines have this text."""
        before = self.lines_with(text)
        wait_for(lambda: self.lines_with(text) >= before + 2, f"lines with {text}", 60)

    def lines_with(self, text: str) -> int:
        """Count its lines that have this text."""
        return sum(text in line for line in self.shown().splitlines())

    def close(self) -> None:
        """End it, as Ctrl-C does."""
        self._process.terminate()
        wait_for(lambda: self._process.poll() is not None, "the end of the terminal")
