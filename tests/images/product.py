"""The image of the product; the Dockerfile makes it of the same parts, and a test compares them."""

import compileall
import hashlib
import platform
import py_compile
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import csi_fluid
from tests.cluster.settings import ROOT, cache
from tests.images import debian, oci

NAME = f"localhost/csi-fluid:{csi_fluid.__version__}"
ARCHIVE = ROOT / "build/csi-fluid.oci.tar"
PACKAGES = ("libstdc++6", "procps", "python3")  # for grpcio; for who types kill 1; for us
LIBRARY = "/usr/local/lib/python3.11/dist-packages"  # where Debian's Python looks
SOURCES = ("csi_fluid", "recover")
FILES = {
    "manifests/image/csi-fluid": "/usr/local/bin/csi-fluid",
    "manifests/image/entrypoint.sh": "/usr/local/bin/entrypoint.sh",
}
# One heap for all threads: with one for each, a plugin that has healed much keeps 4 MiB more.
ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "MALLOC_ARENA_MAX": "1"}
LEFT_OUT = ("/tests", "/test", "/__pycache__", ".pyi", "/bin")
_FOLDER = ROOT / ".cache/images"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def build(archive: Path = ARCHIVE, *, compress: bool = True) -> Path:
    """Write the image and return its path.

    Compressed is for people; the cluster's tests take it as it is, which is quicker.
    """
    layers = bases()
    if compress:
        layers = [layer.compressed() for layer in layers]
    layers.append(_project())
    oci.write(
        archive,
        NAME,
        layers,
        Env=[_PATH, *(f"{name}={value}" for name, value in ENVIRONMENT.items())],
        Entrypoint=["/usr/local/bin/entrypoint.sh"],
        Labels={"org.opencontainers.image.licenses": "Apache-2.0"},
    )
    return archive


def bases() -> list[oci.Layer]:
    """Return the layers that do not change with the project."""
    return [debian.base(*PACKAGES), _libraries()]


def requirements() -> tuple[list[str], list[str]]:
    """Return what the image installs, and the versions that the tests ran with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = list(project["dependencies"])
    for name, needs in extras.items():
        if name != "dev":
            wanted += needs
    return wanted, [need for need in extras["dev"] if "[" not in need]


def _libraries() -> oci.Layer:
    wanted, versions = requirements()
    key = hashlib.sha256("\n".join(wanted + versions).encode()).hexdigest()[:12]
    tar = cache() / f"python-libraries-{key}-{platform.machine()}.tar"
    if tar.exists():
        return oci.Layer.of_tar(tar)
    print("installing the Python libraries of the image (once)", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "versions.txt")
        constraints.write_text("\n".join(versions))
        target = Path(folder, "lib")
        command = [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *(
                "--target",
                str(target),
                "--python-version=3.11",
                "--only-binary=:all:",
                "--no-compile",
            ),
            *("--constraint", str(constraints), *wanted),
        ]
        subprocess.run(command, check=True, timeout=600, stdin=subprocess.DEVNULL)
        files = oci.Files().add(target, LIBRARY)
        for name in LEFT_OUT:
            files.drop(name)
        return _with_bytecode(files, target).layer(tar)


def _project() -> oci.Layer:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in SOURCES:
            ignored = shutil.ignore_patterns("__pycache__", "*.pyi")
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        files = oci.Files().add(copy, LIBRARY)
        for source, target in FILES.items():
            files.add(ROOT / source, target, 0o755)
        return _with_bytecode(files, copy).layer(_FOLDER / "project.tar")


def _with_bytecode(files: oci.Files, folder: Path) -> oci.Files:
    """Add compiled modules: the root of the container is read-only, so none are made there."""
    if sys.version_info[:2] != (3, 11):
        return files
    compileall.compile_dir(
        folder,
        quiet=1,
        stripdir=str(folder),
        prependdir=LIBRARY,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    for compiled in folder.rglob("__pycache__/*.pyc"):
        source = compiled.parent.parent / f"{compiled.name.partition('.')[0]}.py"
        if files.has(f"{LIBRARY}/{source.relative_to(folder)}"):
            files.add(compiled, f"{LIBRARY}/{compiled.relative_to(folder)}", 0o644)
    return files
