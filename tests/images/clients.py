"""The images of the cluster tests: an application, and a FUSE client as a runtime has it."""

import subprocess
from pathlib import Path

from tests.cluster.settings import ROOT
from tests.images import debian, oci

BUSYBOX = "localhost/busybox:1"
FUSE = "localhost/fuse:1"
FOLDER = ROOT / ".cache/images"
_ENTRYPOINT = Path(__file__).parent / "fuse-entrypoint.sh"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def archives(_name: str = "") -> tuple[Path, ...]:
    """Return every image of the cluster tests, written anew when what it is made of changed."""
    return (busybox(), fuse())


def busybox() -> Path:
    """Return the image of applications, and of the pause container."""
    archive = FOLDER / "busybox.oci.tar"
    program = Path("/bin/busybox")
    if _is_newer(archive, program, Path(__file__)):
        return archive
    command = (program, "--list")
    names = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
    files = oci.Files().add(program, "bin/busybox").folder("tmp", 0o1777).folder("data")
    for name in names.split():
        if name != "busybox":
            files.link(f"bin/{name}", "busybox")
    files.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
    layer = files.layer(FOLDER / "busybox.tar")
    oci.write(archive, BUSYBOX, [layer], Env=["PATH=/bin"], Cmd=["sleep", "infinity"])
    return archive


def fuse() -> Path:
    """Return the image of a FUSE client; see fuse-entrypoint.sh for what it can be told."""
    archive = FOLDER / "fuse.oci.tar"
    if _is_newer(archive, _ENTRYPOINT, Path(__file__), Path(debian.__file__)):
        return archive
    base = fuse_base()
    files = oci.Files().add(_ENTRYPOINT, "entrypoint.sh", 0o755)
    files.text("prestop.sh", '#!/bin/sh\numount -l "$FLUID_FUSE_MOUNTPOINT" || true\n', 0o755)
    layer = files.layer(FOLDER / "fuse.tar")
    oci.write(archive, FUSE, [base, layer], Env=[_PATH], Cmd=["/entrypoint.sh"])
    return archive


def fuse_base() -> oci.Layer:
    """Return the Debian below the FUSE client."""
    return debian.base("bash", "bindfs", "ca-certificates", "fuse3", "procps", "s3fs")


def _is_newer(path: Path, *sources: Path) -> bool:
    return path.exists() and all(path.stat().st_mtime > s.stat().st_mtime for s in sources)
