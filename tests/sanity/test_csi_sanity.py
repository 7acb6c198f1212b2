"""csi-sanity, the conformance suite of the CSI project, against the running plugin.

It makes and removes its own directories, as kubelet does; what it publishes is a real FUSE mount.
The counts are asserted: a run in which everything is skipped ends with status 0, too.
"""

import collections
import json
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.harness import Node

BUILT = Path(__file__).parents[2] / ".cache" / "bin" / "csi-sanity"
# In v5.6.0, for the capabilities that the plugin announces; what is skipped is for others.
COUNTS = {
    "Identity Service passed": 3,
    "Node Service passed": 21,
    "Controller Service passed": 15,
    "skipped": 63,
    "pending": 1,
}


def csi_sanity() -> str:
    found = str(BUILT) if BUILT.exists() else shutil.which("csi-sanity")
    if found is None:
        pytest.skip("needs csi-sanity: run 'make sanity', which builds it")
    return found


@pytest.mark.timeout(120)
@pytest.mark.parametrize("method", ["bindMount", "symlink"])
def test_the_conformance_suite_passes(workdir: Path, method: str):
    binary = csi_sanity()
    with Node(workdir) as node:
        data = node.dataset("demo", files={"a.txt": b"1"}, read_only=False)
        plugin = node.plugin(environ={"NODEPUBLISH_METHOD": method})
        folder = workdir / "sanity"
        folder.mkdir()
        parameters = folder / "parameters.yaml"
        parameters.write_text(json.dumps(data.volume.context), encoding="utf-8")  # JSON is YAML
        done = subprocess.run(
            [
                binary,
                f"--csi.endpoint=unix://{node.machine.socket}",
                f"--csi.mountdir={folder / 'mount'}",
                f"--csi.stagingdir={folder / 'staging'}",
                f"--csi.testvolumeparameters={parameters}",
                f"--ginkgo.junit-report={folder / 'report.xml'}",
                "--ginkgo.seed=1",
                "--ginkgo.no-color",
                "--ginkgo.fail-on-empty",
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        log = plugin.log.read_text(encoding="utf-8")

        assert done.returncode == 0, done.stdout[-20_000:]
        assert sorted(path.name for path in folder.iterdir()) == ["parameters.yaml", "report.xml"]
        assert str(folder) not in Path("/proc/self/mountinfo").read_text(encoding="utf-8")
        assert node.sees.names(data.volume.source) == {"a.txt"}
        assert ("Creating symlink" in log) is (method == "symlink")
        assert " INTERNAL" not in log
        assert counts(folder / "report.xml") == COUNTS


def counts(report: Path) -> dict[str, int]:
    """Count the specs by service and outcome."""
    found: collections.Counter[str] = collections.Counter()
    for case in ElementTree.parse(report).iter("testcase"):
        kind, _, name = case.get("name", "").partition(" ")
        status = case.get("status", "")
        if kind == "[It]":
            service = " ".join(name.split()[:2])
            found[f"{service} passed" if status == "passed" else status] += 1
    return dict(found)
