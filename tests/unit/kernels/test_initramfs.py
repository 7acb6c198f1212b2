"""The archive that a kernel unpacks at its start, as busybox's own cpio reads it."""

import gzip
import subprocess
from pathlib import Path

from tests import sandbox
from tests.kernels import initramfs


def test_it_has_the_files_and_their_folders(tmp_path: Path):
    sandbox.require("busybox")
    files = {"init": b"#!/bin/sh\n", "modules/10-x.ko": b"\0" * 5, "bin/deep/er": b"y" * 4}

    archive = gzip.decompress(initramfs.pack(files))
    subprocess.run(["busybox", "cpio", "-i"], input=archive, cwd=tmp_path, check=True)

    found = {str(p.relative_to(tmp_path)): p for p in tmp_path.rglob("*") if p.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == files
    assert all(path.stat().st_mode & 0o777 == 0o755 for path in found.values())
