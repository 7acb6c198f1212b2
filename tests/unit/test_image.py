"""The image: the same parts for Docker and for `make image`; an entry that forwards signals."""

import os
import re
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from csi_fluid.testbed.waiting import until
from tests.cluster.settings import ROOT
from tests.images import oci, product

ENTRYPOINT = ROOT / "manifests/image/entrypoint.sh"
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_docker_installs_the_same_debian_packages():
    final = DOCKERFILE.rpartition("FROM ")[2]

    (packages,) = re.findall(r"--no-install-recommends ([^\\]+) \\", final)

    assert tuple(sorted(packages.split())) == tuple(sorted(product.PACKAGES))


def test_docker_copies_the_same_files():
    copied = re.findall(r"^COPY --chmod=755 (\S+) (\S+)$", DOCKERFILE, re.MULTILINE)

    assert dict(copied) == product.FILES


def test_docker_sets_the_same_environment():
    (line,) = re.findall(r"^ENV (.+)$", DOCKERFILE, re.MULTILINE)

    assert dict(pair.split("=") for pair in line.split()) == product.ENVIRONMENT


def test_docker_takes_the_same_sources_to_the_same_place():
    copied = re.findall(r"^COPY (\w+) \1$", DOCKERFILE, re.MULTILINE)

    assert tuple(copied) == product.SOURCES
    assert f"COPY --from=libraries /libraries {product.LIBRARY}\n" in DOCKERFILE


def test_docker_leaves_the_same_parts_out():
    names = set(re.findall(r"-name '?\*?([\w.]+)", DOCKERFILE))

    assert names == {name.strip("/") for name in product.LEFT_OUT} - {"__pycache__"}


def test_docker_sees_every_part():
    seen = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()

    parts = {*product.SOURCES, "manifests/image", "pyproject.toml", "README.md", "LICENSE"}

    assert {line[1:] for line in seen if line.startswith("!")} == parts


def test_the_image_has_the_optional_libraries_but_no_development_tools():
    wanted, _ = product.requirements()

    names = {re.split(r"[<>=\[ ]", need)[0] for need in wanted}

    assert "grpcio" in names
    assert names.isdisjoint({"pytest", "moto", "mypy"})


def test_an_archive_holds_its_layers_by_digest_and_names_the_image(tmp_path: Path):
    layer = oci.Files().text("etc/motd", "hello\n").layer(tmp_path / "layer.tar")

    oci.write(tmp_path / "image.tar", "localhost/one:2", [layer, layer.compressed()])

    with tarfile.open(tmp_path / "image.tar") as archive:
        names = archive.getnames()
        index = archive.extractfile("index.json")
        assert index is not None
        text = index.read().decode()
    blobs = {f"blobs/sha256/{x.digest.partition(':')[2]}" for x in (layer, layer.compressed())}
    assert blobs <= set(names)
    assert '"io.containerd.image.name": "localhost/one:2"' in text


def test_a_layer_is_the_same_bytes_each_time(tmp_path: Path):
    (tmp_path / "source").write_text("x")
    digests = set()
    for number in range(2):
        os.utime(tmp_path / "source", (number, number))
        files = oci.Files().add(tmp_path / "source", "opt/source").folder("opt")
        digests.add(files.layer(tmp_path / f"{number}.tar").digest)

    assert len(digests) == 1


@pytest.fixture
def kubelet(tmp_path: Path) -> Path:
    """Return a directory like kubelet's, and a csi-fluid on PATH that tells how it was called."""
    for name in ("kubelet/pods", "kubelet/plugins", "bin"):
        (tmp_path / name).mkdir(parents=True)
    program = tmp_path / "bin/csi-fluid"
    program.write_text(
        f'#!/bin/sh\necho $$ "$@" >{tmp_path}/called.new\n'
        f"mv {tmp_path}/called.new {tmp_path}/called\nexec sleep 60\n"
    )
    program.chmod(0o755)
    return tmp_path / "kubelet"


def start(kubelet: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        "PATH": f"{kubelet.parent}/bin:{os.environ['PATH']}",
        "KUBELET_ROOTDIR": str(kubelet),
    }
    return subprocess.Popen(
        [str(ENTRYPOINT), *arguments], env=environment, stderr=subprocess.PIPE, text=True
    )


def test_the_entry_becomes_the_plugin_so_that_a_signal_arrives(kubelet: Path):
    called = kubelet.parent / "called"
    with start(kubelet, "--nodeid=n 1", "--v=5") as process:
        until(called.exists, "the plugin's start")
        process.send_signal(signal.SIGTERM)
        status = process.wait(10)

    assert called.read_text() == f"{process.pid} start --nodeid=n 1 --v=5\n"
    assert status == -signal.SIGTERM
    assert (kubelet / "csi-plugins/fuse.csi.fluid.io").is_dir()


@pytest.mark.parametrize("missing", ["pods", "plugins"])
def test_the_entry_says_what_is_missing_of_kubelets_directory(kubelet: Path, missing: str):
    (kubelet / missing).rmdir()

    with start(kubelet) as process:
        _, said = process.communicate(timeout=10)

    assert process.returncode == 1
    assert f"{kubelet}/{missing} is no directory" in said
    assert "KUBELET_ROOTDIR" in said


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("/var/lib/k0s/bin/kubelet", "--root-dir={}"),
        ("/usr/bin/kubelet", "--config=x --root-dir {} --v=2"),
        ("k3s", "agent --kubelet-arg=root-dir={}"),
        ("k3s", "agent --kubelet-arg root-dir={}"),
    ],
)
def test_the_entry_names_the_directory_that_kubelet_uses(
    kubelet: Path, tmp_path: Path, name: str, options: str
):
    (kubelet / "pods").rmdir()
    real = tmp_path / "elsewhere"
    words = [name, "-c", "import sys; sys.stdin.read()", *options.format(real).split()]
    with subprocess.Popen(words, executable=sys.executable, stdin=subprocess.PIPE) as running:
        with start(kubelet) as process:
            said = process.communicate(timeout=50)[1]
        running.communicate(timeout=10)

    assert process.returncode == 1
    assert f"{kubelet} is not kubelet's directory" in said
    assert str(real) in said.partition("on this node it is ")[2].split()
