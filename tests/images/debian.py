"""Base images of Debian packages, made by mmdebstrap and cached by what is in them."""

import hashlib
import platform
import subprocess
import sys

from tests.cluster.settings import cache
from tests.images import oci

SUITE = "bookworm"
# What no program needs at run time; licences stay.
_LEFT_OUT = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
)
_TIMEOUT_S = 600


def base(*packages: str) -> oci.Layer:
    """Return Debian's essential packages and the given ones as one layer."""
    text = " ".join((SUITE, *sorted(packages), *_LEFT_OUT))
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    path = cache() / f"debian-{SUITE}-{key}-{platform.machine()}.tar"
    if not path.exists():
        print(
            f"making a Debian base with {', '.join(packages)} (once, about 30 s)", file=sys.stderr
        )
        command = [
            *("mmdebstrap", "--variant=minbase", "--mode=root", "--quiet", "--format=tar"),
            *(f"--dpkgopt={option}" for option in _LEFT_OUT),
            *("--aptopt=Apt::Install-Recommends false", f"--include={','.join(packages)}"),
            *("--customize-hook=rm -rf $1/var/lib/apt/lists/* $1/var/cache/* $1/var/log/*",),
            *(SUITE, "-"),
        ]
        with oci.atomic(path) as out:
            subprocess.run(command, stdout=out, check=True, timeout=_TIMEOUT_S)
    return oci.Layer.of_tar(path)
